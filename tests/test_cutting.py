"""Crops and tiles: where they lie, what they hold, and how often each pixel counts. The images' pixels are their own
places, so that a sample says where it was cut."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch

from unet_cli.config.model import IGNORED
from unet_cli.data.preprocess import resize_image, resize_mask
from unet_cli.data.samples.cutting import CachedSample, Crops, Grid, Whole, find_places, patch_of


def places(height: int, width: int) -> torch.Tensor:
    """(2, H, W) uint16: the row and the column of each pixel."""
    return torch.from_numpy(np.indices((height, width)).astype(np.uint16))


def held(cutting, height: int, width: int, mask: np.ndarray | None = None) -> CachedSample:
    mask = np.zeros((height, width), np.uint8) if mask is None else mask
    return cutting.hold(places(height, width), torch.from_numpy(mask), None, 8)


def corners(cutting, held: CachedSample, indices: Iterable[int], epoch: int = 0) -> list[tuple[int, int]]:
    """The place of the first pixel of each of these crops."""
    images = [cutting.cut(held, 0, index, epoch)[0] for index in indices]
    return [(int(image[0, 0, 0]), int(image[1, 0, 0])) for image in images]


@pytest.mark.parametrize(
    ("height", "width", "count"),
    [(8, 8, 1), (1, 1, 1), (16, 16, 4), (12, 8, 2), (11, 8, 1), (100, 40, 62)],
)
def test_an_epoch_of_crops_sees_each_pixel_about_once(height, width, count):
    assert Crops([(height, width)], (8, 8), 0.0, seed=0).count(0) == count


def test_an_epoch_of_crops_covers_all_parts_of_an_image_alike():
    cutting = Crops([(64, 64)], (8, 8), 0.0, seed=0)
    source = held(cutting, 64, 64)
    seen = np.zeros((64, 64))
    for epoch in range(50):
        for top, left in corners(cutting, source, range(cutting.count(0)), epoch):
            seen[top : top + 8, left : left + 8] += 1 / 50
    assert seen.mean() == pytest.approx(1)
    quarters = seen.reshape(2, 32, 2, 32).mean((1, 3))
    assert np.abs(quarters - 1).max() < 0.1
    assert seen[8:-8, 8:-8].min() > 0.5


def test_a_crop_is_at_the_images_own_resolution_and_the_mask_at_the_same_place():
    mask = np.arange(40 * 30).reshape(40, 30).astype(np.uint8)
    cutting = Crops([(40, 30)], (8, 8), 0.5, seed=3)
    image, cut = cutting.cut(held(cutting, 40, 30, mask), 0, 5, 0)
    assert (image.dtype, image.shape, cut.dtype) == (torch.uint16, (2, 8, 8), torch.uint8)
    rows, columns = image.numpy()
    assert (np.diff(rows, axis=0) == 1).all()
    assert (np.diff(columns, axis=1) == 1).all()
    assert (cut.numpy() == mask[rows, columns]).all()


def test_the_place_is_a_function_of_seed_epoch_and_sample_alone():
    mask = np.zeros((200, 200), np.uint8)
    mask[20:100, 40:60] = 1
    first, again, other = (Crops([(200, 200)], (8, 8), 0.5, seed) for seed in (7, 7, 8))
    source = held(first, 200, 200, mask)
    expected = corners(first, source, range(20))
    assert corners(again, held(again, 200, 200, mask), reversed(range(20)))[::-1] == expected
    assert corners(other, source, range(20)) != expected
    assert corners(first, source, range(20), epoch=1) != expected
    assert len(set(expected)) > 15


@pytest.mark.parametrize(("side", "patch"), [(8, 12), (32, 48), (33, 51), (512, 768), (62, 94)])
def test_a_patch_is_half_as_large_again_and_has_a_middle(side, patch):
    assert patch_of((side, side)) == (patch, patch)
    assert (patch - side) % 2 == 0


def test_the_middle_of_a_patch_lies_in_the_image_and_the_rest_is_mirrored():
    cutting = Crops([(20, 30)], (8, 8), 0.0, seed=0, patch=(14, 14))
    source = held(cutting, 20, 30)
    tops = set()
    for index in range(300):
        image, mask = cutting.cut(source, 0, index, 0)
        assert image.shape == (2, 14, 14)
        assert mask.shape == (14, 14)
        rows, columns = image[0, :, 0].int(), image[1, 0, :].int()
        assert (rows[3:11].diff() == 1).all()  # not mirrored
        assert (columns[3:11].diff() == 1).all()
        assert (rows.diff().abs() == 1).all()  # mirrored: the pixel at the end not repeated
        assert (columns.diff().abs() == 1).all()
        tops.add(int(rows[3]))
    assert tops == set(range(13))


def test_a_small_image_is_in_the_centre_and_mirrored_evenly():
    cutting = Crops([(4, 5)], (8, 8), 0.0, seed=0, patch=(10, 10))
    image, _ = cutting.cut(held(cutting, 4, 5), 0, 3, 2)
    assert image[0, :, 0].tolist() == [3, 2, 1, 0, 1, 2, 3, 2, 1, 0]
    assert image[1, 0].tolist() == [2, 1, 0, 1, 2, 3, 4, 3, 2, 1]


def test_an_image_of_one_pixel_fills_the_crop():
    cutting = Crops([(1, 1)], (8, 8), 1.0, seed=0)
    image, mask = cutting.cut(held(cutting, 1, 1, np.ones((1, 1), np.uint8)), 0, 0, 0)
    assert not image.any()
    assert mask.eq(1).all()


def test_crops_on_foreground_hold_each_class_alike_however_rare():
    mask = np.zeros((300, 400), np.uint8)
    mask[:100] = 1
    mask[200, 300] = 2  # a single pixel
    mask[280:, :20] = IGNORED
    cutting = Crops([(300, 400)], (8, 8), 1.0, seed=1, patch=(12, 12))
    source = held(cutting, 300, 400, mask)
    middles = [cutting.cut(source, 0, index, 0)[1][2:10, 2:10] for index in range(400)]
    assert all(((middle > 0) & (middle < IGNORED)).any() for middle in middles)
    rare = [middle for middle in middles if (middle == 2).any()]
    assert 150 < len(rare) < 250
    where = {tuple((middle == 2).nonzero()[0].tolist()) for middle in rare}
    assert {row for row, _ in where} == {column for _, column in where} == set(range(8))  # anywhere in the middle


def test_a_foreground_pixel_is_drawn_evenly_and_at_the_border_too():
    mask = np.zeros((20, 20), np.uint8)
    mask[0, 0] = mask[19, 19] = mask[10, 5:7] = 3
    cutting = Crops([(20, 20)], (1, 1), 1.0, seed=0)
    found = corners(cutting, held(cutting, 20, 20, mask), range(400))
    pixels = [(0, 0), (19, 19), (10, 5), (10, 6)]
    assert set(found) == set(pixels)
    assert all(70 < found.count(pixel) < 130 for pixel in pixels)


def test_the_share_of_crops_on_foreground_is_as_asked_for():
    mask = np.zeros((1000, 1000), np.uint8)
    mask[500, 500] = 1
    cutting = Crops([(1000, 1000)], (8, 8), 0.3, seed=0)
    source = held(cutting, 1000, 1000, mask)
    hits = sum(bool(cutting.cut(source, 0, index, 0)[1].any()) for index in range(500))
    assert 120 < hits < 180


def test_crops_on_foreground_at_the_border_lie_in_the_image():
    mask = np.zeros((20, 20), np.uint8)
    mask[0, 0] = mask[19, 19] = 1
    cutting = Crops([(20, 20)], (8, 8), 1.0, seed=0)
    found = corners(cutting, held(cutting, 20, 20, mask), range(100))
    assert min(min(found)) == 0
    assert max(max(found)) == 12


@pytest.mark.parametrize("value", [0, IGNORED])
def test_a_mask_without_foreground_gives_plain_crops(value):
    mask = np.full((100, 100), value, np.uint8)
    assert find_places(mask) is None
    cutting = Crops([(100, 100)], (8, 8), 1.0, seed=0)
    assert len(set(corners(cutting, held(cutting, 100, 100, mask), range(50)))) > 40


def test_a_crop_is_a_copy_that_does_not_hold_its_image():
    cutting = Crops([(100, 100)], (8, 8), 0.0, seed=0)
    image, mask = cutting.cut(held(cutting, 100, 100), 0, 0, 0)
    assert image.untyped_storage().nbytes() == 2 * 2 * 64
    assert mask.untyped_storage().nbytes() == 64


@pytest.mark.parametrize(
    ("height", "width", "count"),
    [(8, 8, 1), (16, 24, 6), (17, 9, 6), (3, 5, 1), (3, 20, 3), (1, 1, 1), (7, 15, 2), (64, 63, 64)],
)
def test_each_pixel_counts_exactly_once_in_a_grid(height, width, count):
    cutting = Grid([(height, width)], (8, 8))
    assert cutting.count(0) == count
    own = np.random.default_rng(0).integers(0, 5, (height, width), np.uint8)
    source = held(cutting, height, width, own)
    seen = np.zeros((height, width), int)
    for number in range(count):
        image, mask = cutting.cut(source, number, 0, 0)
        assert image.shape == (2, 8, 8)
        counts = mask.numpy() != IGNORED
        rows, columns = image.numpy()[:, counts]
        assert (mask.numpy()[counts] == own[rows, columns]).all()
        np.add.at(seen, (rows, columns), 1)
    assert (seen == 1).all()


def test_the_last_tile_of_a_row_is_moved_back_into_the_image():
    cutting = Grid([(8, 13)], (8, 8))
    image, mask = cutting.cut(held(cutting, 8, 13), 1, 0, 0)
    assert image[1, 0].tolist() == list(range(5, 13))
    assert mask[0].tolist() == [IGNORED] * 3 + [0] * 5


def test_a_rim_around_a_tile_is_of_the_image_and_counts_nowhere():
    cutting = Grid([(8, 16)], (8, 8), rim=3)
    image, mask = cutting.cut(held(cutting, 8, 16), 1, 0, 0)
    assert image.shape[1:] == mask.shape == (14, 14)
    assert image[1, 3].tolist() == [5, 6, 7, *range(8, 16), 14, 13, 12]
    assert mask[3].tolist() == [IGNORED] * 3 + [0] * 8 + [IGNORED] * 3
    assert (mask != IGNORED).sum() == 64


def test_a_grid_mirrors_what_is_beyond_a_small_image_as_crops_do():
    grid, crops = Grid([(4, 5)], (8, 8)), Crops([(4, 5)], (8, 8), 0.0, seed=0)
    image, mask = grid.cut(held(grid, 4, 5), 0, 0, 0)
    assert torch.equal(image, crops.cut(held(crops, 4, 5), 0, 0, 0)[0])
    assert mask[:, 4].tolist() == [IGNORED] * 2 + [0] * 4 + [IGNORED] * 2


def test_tiles_of_an_image_may_be_ignored_by_its_mask():
    cutting = Grid([(8, 8)], (8, 8))
    own = np.full((8, 8), IGNORED, np.uint8)
    assert cutting.cut(held(cutting, 8, 8, own), 0, 0, 0)[1].eq(IGNORED).all()


def test_a_whole_image_is_stretched():
    image, mask = places(20, 30), torch.arange(20 * 30).view(20, 30).to(torch.uint8)
    found = Whole().hold(image, mask, None, 8)
    assert Whole().count(0) == 1
    assert torch.equal(found.image, resize_image(image, (8, 8)))
    assert torch.equal(found.mask, resize_mask(mask, (8, 8)))
    assert Whole().cut(found, 0, 7, 3)[0] is found.image


def test_the_memory_that_an_image_takes_is_counted():
    mask = np.zeros((10, 20), np.uint8)
    mask[:, 3], mask[:, 5] = 1, 9
    plain, laid = Crops([(10, 20)], (8, 8), 0.0, seed=0), Crops([(10, 20)], (8, 8), 0.5, seed=0)
    pixels = 10 * 20 * (2 * 2 + 1)
    assert held(plain, 10, 20, mask).nbytes == pixels
    assert held(laid, 10, 20, mask).nbytes == pixels + 10 * 2 * 8


def test_crops_of_stretched_images_lie_within_them_and_repeat():
    cutting = Crops([(10, 20), (7, 5)], (4, 4), 0.0, seed=0, stretched=8, repeats=3)
    assert cutting.sizes is None
    assert [cutting.count(pair) for pair in (0, 1)] == [12, 12]
    source = cutting.hold(places(10, 20), torch.zeros(10, 20, dtype=torch.uint8), None, 8)
    assert source.image.shape[-2:] == source.mask.shape == (8, 8)
    whole = Crops([(10, 20)], (8, 8), 0.5, seed=0, stretched=8)
    assert torch.equal(whole.cut(source, 0, 3, 1)[0], source.image)


def test_foreground_is_looked_for_in_stretched_images_too():
    mask = np.zeros((64, 64), np.uint8)
    mask[40:44, 40:44] = 1
    cutting = Crops([(64, 64)], (8, 8), 1.0, seed=0, stretched=64)
    source = cutting.hold(places(64, 64), torch.from_numpy(mask), None, 64)
    assert all(cutting.cut(source, 0, index, 0)[1].any() for index in range(20))
