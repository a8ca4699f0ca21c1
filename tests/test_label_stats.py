"""What is counted of one mask: compared with counting by hand, pixel by pixel."""

import numpy as np
import pytest

from unet_cli.data.labels import stats, value_stats
from unet_cli.data.maskfile import MaskPixels


def by_hand(mask: np.ndarray, value: int) -> tuple[int, int, int]:
    """Pixels in areas of the value, on ramps, and along the border of the image."""
    cores = ramps = edge = 0
    height, width = mask.shape
    for row, column in np.argwhere(mask == value):
        if row in (0, height - 1) or column in (0, width - 1):
            edge += 1
            continue
        around = mask[row - 1 : row + 2, column - 1 : column + 2]
        cores += bool((around == value).all())
        ramps += bool(around.min() < value < around.max())
    return cores, ramps, edge


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
def test_places_of_values_whatever_the_rows_that_are_looked_at_at_once(monkeypatch, seed, kind):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2)
    mask = np.kron(rng.integers(0, 5, (height // 3 + 1, width // 3 + 1)), np.ones((3, 3)))[:height, :width].astype(kind)
    mask = np.where(rng.random(mask.shape) < 0.1 * (seed % 3), rng.integers(0, 60, mask.shape), mask).astype(kind)
    found = value_stats(MaskPixels(mask[None]))
    monkeypatch.setattr(stats, "PIXELS_AT_ONCE", 3 * int(width))
    assert value_stats(MaskPixels(mask[None])) == found
    assert found.counts == dict(zip(*(part.tolist() for part in np.unique(mask, return_counts=True)), strict=True))
    for value, shape in found.shapes.items():
        cores, ramps, edge = by_hand(mask, value)
        assert (shape.cores, shape.edge) == (cores, edge)
        assert shape.ramps in (0, ramps)
    if any(shape.cores < 0.05 * found.counts[value] for value, shape in found.shapes.items()):
        assert all(shape.ramps == by_hand(mask, value)[1] for value, shape in found.shapes.items())


def test_parts_less_holes():
    mask = np.zeros((9, 12), np.uint8)
    mask[1:4, 1:4] = mask[5:8, 1:4] = 1  # two squares
    mask[1:6, 6:11] = 2
    mask[3, 8] = 0  # a ring
    shapes = value_stats(MaskPixels(mask[None])).shapes
    assert (shapes[1].parts, shapes[2].parts) == (2, 0)
    assert shapes[0].parts == 2 - 3  # around all, with three holes, and what is in the ring


def test_levels_of_jpeg_are_flat_and_edges_are_not():
    mask = np.repeat(np.uint8([10, 10, 10, 10, 200, 200, 200, 200])[None], 8, 0)
    mask[2:6, 1:3] += np.arange(8, dtype=np.uint8).reshape(4, 2)
    mask[6, :] = np.arange(100, 108)
    flats = {value: shape.flats for value, shape in value_stats(MaskPixels(mask[None])).shapes.items()}
    assert flats[200] == by_hand(mask, 200)[0]  # of few values each is meant
    noisy = np.random.default_rng(0).integers(90, 104, (30, 30)).astype(np.uint8)
    noisy[0] = np.arange(200, 230)
    assert sum(shape.flats for shape in value_stats(MaskPixels(noisy[None])).shapes.values()) == 28 * 27


def test_255_is_enclosed_where_one_other_value_surrounds_it():
    mask = np.ones((12, 40), np.uint8)
    mask[:, 20:] = 2
    mask[2:5, 2:5] = 255  # within 1
    mask[8, 25:31] = 255  # within 2
    mask[4:7, 18:23] = 255  # half in each
    mask[9:, 8:11] = 255  # along the border
    assert value_stats(MaskPixels(mask[None])).enclosed == 9 + 6
    for other in (np.where(mask == 255, 0, mask), np.where(mask == 1, 0, mask) // 255 * 255):
        assert value_stats(MaskPixels(other[None])).enclosed is None
