"""Maps of distances, worked by hand and against plain slow formulations."""

import numpy as np
import pytest

from unet_cli.config.model import IGNORED
from unet_cli.data.objects import components, separated
from unet_cli.training.losses.distances import border_weights, radius, signed_distances


def discs(side: int, count: int, largest: int = 9, seed: int = 0) -> np.ndarray:
    """(side, side) numbers of discs, later ones over earlier ones."""
    generator = np.random.default_rng(seed)
    rows, columns = np.indices((side, side))
    numbers = np.zeros((side, side), dtype=np.int32)
    for number in range(1, count + 1):
        row, column = generator.integers(0, side, 2)
        numbers[(rows - row) ** 2 + (columns - column) ** 2 <= generator.integers(2, largest + 1) ** 2] = number
    return numbers


def test_the_weight_map_of_two_touching_objects_by_hand():
    """Rows 2 to 4: object 1 in columns 1 and 2, object 2, which is larger and so gives the line, in 3 to 5."""
    numbers = np.zeros((7, 7), dtype=np.uint8)
    numbers[2:5, 1:3], numbers[2:5, 3:6] = 1, 2
    mask = (separated(numbers) > 0).astype(np.uint8)
    assert mask[3].tolist() == [0, 1, 1, 0, 1, 1, 0]

    r = np.sqrt
    sums = np.array([  # d1 + d2: within rows 2 to 4 across only, above and below also down
        [r(5) + r(20), 2 + r(13), 2 + r(8), r(5) + r(5), r(8) + 2, r(13) + 2, r(20) + r(5)],
        [r(2) + r(17), 1 + r(10), 1 + r(5), r(2) + r(2), r(5) + 1, r(10) + 1, r(17) + r(2)],
        [1 + 4, np.inf, np.inf, 1 + 1, np.inf, np.inf, 4 + 1],
    ])  # fmt: skip
    expected = 10 * np.exp(-(sums[[0, 1, 2, 2, 2, 1, 0]] ** 2) / (2 * 5**2))
    weights = border_weights(mask)
    assert weights.dtype == np.float32
    assert weights == pytest.approx(expected, rel=1e-6)
    assert weights[3, 3] == pytest.approx(10 * np.exp(-4 / 50))


def test_fewer_than_two_objects_weigh_nothing_more():
    mask = np.zeros((7, 7), dtype=np.uint8)
    assert not border_weights(mask).any()
    mask[2:5, 2:5] = 1
    assert not border_weights(mask).any()


@pytest.mark.parametrize("classes", [1, 3])
def test_the_weight_map_agrees_with_one_made_the_plain_way(classes):
    mask = (discs(64, 14) % (classes + 1)).astype(np.uint8)
    mask[:5], mask[10:30, 10:30] = IGNORED, 0
    numbers, count = components(np.where(mask == IGNORED, 0, mask))
    assert count > 3
    pixels = np.stack(np.indices(mask.shape), -1).reshape(-1, 1, 2)
    of_each = [np.argwhere(numbers == number)[None] for number in range(1, count + 1)]
    distances = np.sort([np.sqrt(((pixels - places) ** 2).sum(-1)).min(1) for places in of_each], axis=0)
    expected = 10 * np.exp(-((distances[0] + distances[1]) ** 2) / 50).reshape(mask.shape) * (mask == 0)
    weights = border_weights(mask)
    assert np.abs(weights - expected).max() < 1e-4
    assert weights.max() > 5
    assert (weights[mask == 0] > 0).any()


def test_a_volume_has_a_weight_map_too():
    mask = np.zeros((3, 7, 7), dtype=np.uint8)
    mask[1, 3, 1], mask[1, 3, 5] = 1, 1
    weights = border_weights(mask)
    assert weights[1, 3, 3] == pytest.approx(10 * np.exp(-16 / 50))
    assert weights[0, 3, 3] == pytest.approx(10 * np.exp(-20 / 50))


def test_signed_distances_by_hand():
    inside = np.array([[False, True, True, True, False, False]])
    outside = np.array([[True, False, False, False, True, False]])  # the last one is ignored
    assert signed_distances(inside, outside).tolist() == [[1, 0, -1, 0, 1, 0]]
    outside[0, 0] = False  # nothing is known to be outside on the left
    assert signed_distances(inside, outside).tolist() == [[0, -2, -1, 0, 1, 0]]
    assert not signed_distances(inside, np.zeros_like(inside)).any()
    assert not signed_distances(np.zeros_like(inside), outside).any()


def test_radius_by_hand():
    mask = np.zeros((9, 9), dtype=bool)
    assert radius(mask, ~mask) == 0
    assert radius(~mask, mask) == 0
    mask[2:7, 3:6] = True
    assert radius(mask, ~mask) == 2
    mask[2:7, 2:7] = True
    assert radius(mask, ~mask) == 3
    diamond = np.abs(np.indices((9, 9)) - 4).sum(0) <= 3
    assert radius(diamond, ~diamond) == 4
    assert radius(mask[:, 4:], ~mask[:, 4:]) == 3  # it goes on beyond the border of the image
