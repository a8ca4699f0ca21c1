"""Masks of drawn cells, some of them spoiled on purpose: these are found, and borders drawn otherwise are not."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, binary_erosion, distance_transform_edt, gaussian_filter, label, shift

from unet_cli.data.synthetic import draw_pair
from unet_cli.evaluation.suspects import Doubt, doubt, suspicious


def follows(inside: np.ndarray, seed: int) -> np.ndarray:
    """(1, H, W) float32: what a good network says of it, sure inside and less so at borders, with some noise."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=inside.shape), 2)
    logits = 14 * (gaussian_filter(inside.astype(float), 1.5) - 0.5) + 8 * noise
    return (1 / (1 + np.exp(-logits)))[None].astype(np.float32)


def jittered(inside: np.ndarray, seed: int) -> np.ndarray:
    """The same mask as another person draws it: 1 or 2 pixels larger, smaller or beside."""
    draw = np.random.default_rng(seed)
    step = int(draw.integers(1, 3))
    ways = [partial(binary_dilation, iterations=step), partial(binary_erosion, iterations=step, border_value=1)]
    ways += [partial(shift, shift=way, order=0, mode="nearest") for way in ((step, 0), (0, step), (-step, -step))]
    return ways[seed % len(ways)](inside)


def erased(inside: np.ndarray) -> np.ndarray:
    numbers, _ = label(inside)
    sizes = np.bincount(numbers.ravel())[1:]
    middling = np.argsort(sizes)[len(sizes) // 2] + 1
    return inside & (numbers != middling)


def invented(inside: np.ndarray) -> np.ndarray:
    room = distance_transform_edt(np.pad(~inside, 1))[1:-1, 1:-1]  # to the nearest cell or the image's border
    y, x = np.unravel_index(room.argmax(), room.shape)
    ys, xs = np.ogrid[: inside.shape[0], : inside.shape[1]]
    return inside | (np.hypot(ys - y, xs - x) < min(room.max(), 15))


def shifted(inside: np.ndarray) -> np.ndarray:
    return np.roll(inside, (25, 25), (0, 1))


SPOILED = {4: erased, 11: invented, 18: shifted, 25: np.logical_not}


@pytest.fixture(scope="module")
def cells() -> list[tuple[np.ndarray, np.ndarray]]:
    """Probabilities (1, H, W) and bool masks (H, W) with honest borders: 30 pieces of images."""
    halves = [half for index in range(5) for half in np.array_split(draw_pair(seed=5, index=index)[1] > 0, 2)]
    truths = [piece for half in halves for piece in np.array_split(half, 3, axis=1)]
    return [(follows(truth, index), jittered(truth, index)) for index, truth in enumerate(truths)]


def test_honest_borders_are_not_suspicious(cells):
    doubts = [doubt(probs, mask.astype(np.uint8)) for probs, mask in cells]
    assert suspicious(doubts) == []
    assert max(found.share for found in doubts) < 0.005


def test_spoiled_masks_are_found_and_no_others(cells):
    masks = [SPOILED.get(index, np.asarray)(mask).astype(np.uint8) for index, (_, mask) in enumerate(cells)]
    doubts = [doubt(probs, mask) for (probs, _), mask in zip(cells, masks, strict=True)]
    found = suspicious(doubts)
    assert sorted(found) == list(SPOILED)
    assert found[0] == 25  # all of it is wrong
    assert [doubts[index].share for index in found] == sorted((doubts[index].share for index in found), reverse=True)
    assert (doubts[4].given, doubts[4].seen) == (0, 1)
    assert (doubts[11].given, doubts[11].seen) == (1, 0)


@pytest.mark.parametrize("spoil", SPOILED.values())
def test_each_kind_alone_is_found(cells, spoil):
    honest = [doubt(probs, mask.astype(np.uint8)) for probs, mask in cells[:10]]
    for index in (1, 6):
        probs, mask = cells[index]
        doubts = [*honest[:index], doubt(probs, spoil(mask).astype(np.uint8)), *honest[index + 1 :]]
        assert suspicious(doubts) == [index]


def test_doubt_by_hand():
    # The mask has a square of 10 x 10, of which the network sees nothing: 2 pixels from its border on, 6 x 6 are left.
    target = np.zeros((20, 20), dtype=np.uint8)
    target[5:15, 5:15] = 1
    probs = np.full((1, 20, 20), 0.01, dtype=np.float32)
    assert doubt(probs, target) == Doubt(share=36 / 100, pixels=36, given=1, seen=0)
    assert doubt(torch.from_numpy(probs), target) == doubt(probs, target)
    assert doubt(np.full_like(probs, 0.06), target).pixels == 0  # not sure
    assert doubt(1 - probs, np.zeros_like(target)) == Doubt(share=1, pixels=400, given=0, seen=1)
    assert doubt(probs, np.zeros_like(target)) == Doubt(share=0, pixels=0, given=0, seen=0)


def test_zone_along_borders_grows_with_the_image():
    target = np.zeros((300, 400), dtype=np.uint8)
    target[:, 200:] = 1
    probs = np.full((1, 300, 400), 0.01, dtype=np.float32)
    assert doubt(probs, target).pixels == 300 * (200 - 6)  # 2 % of 300


def test_ignored_pixels_are_no_doubt():
    target = np.full((20, 20), 255, dtype=np.uint8)
    probs = np.full((1, 20, 20), 0.99, dtype=np.float32)
    assert doubt(probs, target) == Doubt(share=0, pixels=0, given=0, seen=0)
    target[:, 10:] = 0
    assert doubt(probs, target) == Doubt(share=160 / 200, pixels=160, given=0, seen=1)


def test_several_classes_name_the_pair_that_most_pixels_have():
    target = np.zeros((30, 60), dtype=np.uint8)
    target[:, 20:40], target[:, 40:] = 1, 2
    seen = np.zeros_like(target)
    seen[:10, 20:40] = 2  # some of class 1, and all of class 2, for which the network sees class 1
    seen[10:, 20:40] = seen[:, 40:] = 1
    probs = np.where(seen == np.arange(3, dtype=np.uint8)[:, None, None], 0.98, 0.01).astype(np.float32)
    assert doubt(probs, target) == Doubt(share=(10 * 16 + 30 * 18) / 1200, pixels=700, given=2, seen=1)


def plain(share: float, pixels: int = 1000) -> Doubt:
    return Doubt(share, pixels, 0, 1)


def test_nothing_stands_out_among_few_or_equals():
    assert suspicious([]) == []
    assert suspicious([plain(0.4)]) == []
    assert suspicious([plain(0.3)] * 20) == []
    assert suspicious([plain(0.0)] * 20 + [plain(0.004)]) == []  # too small a share
    assert suspicious([plain(0.0)] * 20 + [plain(0.2, pixels=24)]) == []  # too few pixels


def test_a_network_that_is_often_wrong_needs_more_to_point_at_a_mask():
    usual = [plain(0.01 * index) for index in range(20)]
    assert suspicious([*usual, plain(0.3)]) == []
    assert suspicious([*usual, plain(0.95)]) == [20]


def test_fifty_at_most_and_the_worst_first():
    doubts = [plain(0.0)] * 100 + [plain(0.1 + index / 1000) for index in range(60)]
    assert suspicious(doubts) == list(range(159, 109, -1))
