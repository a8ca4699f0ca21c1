"""Distances between borders of images and volumes, worked by hand and against the plain way: erosion and distance
transforms of scipy, and for small volumes every pair of voxels."""

import math
from dataclasses import astuple

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, distance_transform_edt
from skimage.metrics import hausdorff_distance

from unet_cli.metrics import surface
from unet_cli.metrics.surface import border_distances, compare_surfaces

UNIT = (1.0, 1.0)


def drawn(shape: tuple[int, ...], *boxes: tuple[int, ...]) -> np.ndarray:
    """A mask of boxes: first and last row, first and last column; of volumes first and last slice before them."""
    mask = np.zeros(shape, dtype=bool)
    for ends in boxes:
        mask[tuple(slice(first, last + 1) for first, last in zip(ends[::2], ends[1::2], strict=True))] = True
    return mask


def noise(shape: tuple[int, ...], density: float, seed: int = 0) -> np.ndarray:
    mask = np.random.default_rng(seed).random(shape) < density
    mask.flat[seed % mask.size] = True
    return mask


def plainly(pred, target, spacing, tolerance, band, ignored=False):
    """hd95, assd, surface_dice, boundary_iou by the formulas, with a transform of the whole image for each distance."""
    borders = [mask & ~binary_erosion(mask | ignored) for mask in (pred, target)]
    there, back = (distance_transform_edt(~b, sampling=spacing)[a] for a, b in (borders, borders[::-1]))
    both = np.concatenate([there, back])
    known = [np.pad(mask | ignored, 1) for mask in (pred, target)]
    inner = (slice(1, -1),) * pred.ndim
    depths = [distance_transform_edt(mask, sampling=spacing)[inner] for mask in known]
    widest = max(band, min(spacing)) * (1 + 1e-9)
    bands = [mask & (depth <= widest) for mask, depth in zip((pred, target), depths, strict=True)]
    return (
        max(np.percentile(there, 95), np.percentile(back, 95)),
        both.mean(),
        (both <= tolerance * (1 + 1e-9)).mean(),
        (bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum(),
    )


def test_a_square_and_the_same_one_column_further_by_hand():
    """Of the 12 pixels of each border 6 meet the other one, 3 above and 3 below; the sides are 1 away from it."""
    first, second = drawn((9, 9), (2, 5, 2, 5)), drawn((9, 9), (2, 5, 3, 6))
    assert astuple(compare_surfaces(first, second, UNIT, 1, 1)) == (1, 0.5, 1, 6 / 18)
    assert compare_surfaces(first, second, UNIT, 0.9, 1).surface_dice == 0.5
    assert compare_surfaces(first, second, UNIT, 1, 2).boundary_iou == 12 / 20  # bands of 2 are the whole squares


def test_a_pixel_and_another_by_hand():
    first, second = drawn((8, 9), (1, 1, 1, 1)), drawn((8, 9), (4, 4, 5, 5))
    away = math.hypot(3 * 2, 4 * 0.5)
    assert astuple(compare_surfaces(first, second, (2, 0.5), away, 1)) == pytest.approx((away, away, 1, 0))
    assert compare_surfaces(first, second, (2, 0.5), 6.3, 1).surface_dice == 0


def test_hd95_is_of_the_worse_direction():
    one, two = drawn((5, 20), (2, 2, 3, 3)), drawn((5, 20), (2, 2, 3, 3), (2, 2, 13, 13))
    expected = (9.5, 10 / 3, 2 / 3, 1 / 2)  # from two to one: 0 and 10, and 95 % of the way between them
    assert astuple(compare_surfaces(one, two, UNIT, 1, 1)) == pytest.approx(expected)
    assert astuple(compare_surfaces(two, one, UNIT, 1, 1)) == pytest.approx(expected)


def test_outside_of_the_image_is_outside_of_the_mask():
    full, ring = np.ones((7, 7), dtype=bool), ~drawn((7, 7), (1, 5, 1, 5))
    assert astuple(compare_surfaces(full, ring, UNIT, 0, 1)) == (0, 0, 1, 1)
    assert compare_surfaces(full, ring, UNIT, 0, 2).boundary_iou == 24 / 40


@pytest.mark.parametrize(("pixel", "three", "five"), [(0.1, 0.3, 0.5), (0.7, 2.1, 3.5), (1.1, 3.3, 5.5)])
def test_what_is_exactly_as_far_as_said_is_within(pixel, three, five):
    spacing = (pixel, pixel)
    square = drawn((11, 11), (0, 10, 0, 10))
    ring = square & ~drawn((11, 11), (3, 7, 3, 7))
    assert compare_surfaces(square, ring, spacing, 0, three).boundary_iou == 1
    assert compare_surfaces(square, ring, spacing, 0, three * 1.001).boundary_iou == 1
    assert compare_surfaces(square, ring, spacing, 0, pixel * 4).boundary_iou < 1
    first, second = drawn((11, 11), (2, 2, 2, 2)), drawn((11, 11), (5, 5, 6, 6))
    assert compare_surfaces(first, second, spacing, five, pixel).surface_dice == 1
    assert compare_surfaces(first, second, spacing, five * 0.999, pixel).surface_dice == 0


@pytest.mark.parametrize("spacing", [UNIT, (2.0, 0.5)])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (90, 61)])
@pytest.mark.parametrize("density", [0.001, 0.5, 0.995])
def test_random_masks_agree_with_the_plain_way(density, shape, spacing):
    for other in (density, 0.05):
        pred, target = noise(shape, density, 1), noise(shape, other, 2)
        for limit in (0.0, 3.1):
            found = compare_surfaces(pred, target, spacing, limit, limit + 0.7)
            assert astuple(found) == pytest.approx(plainly(pred, target, spacing, limit, limit + 0.7), abs=1e-9)


FAR = {
    "a few pixels": (drawn((120, 150), (3, 6, 2, 5)), drawn((120, 150), (110, 117, 140, 149))),
    "half the image": (
        noise((120, 150), 0.5) & drawn((120, 150), (0, 119, 0, 60)),
        drawn((120, 150), (0, 119, 90, 140)),
    ),
    "close by": (drawn((120, 150), (10, 90, 20, 90)), drawn((120, 150), (17, 97, 20, 91))),
    "8 columns": (drawn((120, 150), (10, 90, 20, 90)), drawn((120, 150), (10, 90, 28, 98))),
}


@pytest.mark.parametrize("spacing", [UNIT, (3.0, 0.4), (0.4, 3.0)])
@pytest.mark.parametrize("case", FAR)
def test_borders_at_any_distance_agree_with_the_plain_way(case, spacing):
    for pred, target in (FAR[case], FAR[case][::-1]):
        found = compare_surfaces(pred, target, spacing, 9, 50)
        assert astuple(found) == pytest.approx(plainly(pred, target, spacing, 9, 50), abs=1e-9)


@pytest.mark.parametrize("density", [0.0005, 0.01, 0.2, 0.6])
def test_the_largest_distance_is_the_hausdorff_distance(density):
    first, second = noise((77, 101), density, 3), noise((77, 101), 0.01, 4)
    largest = max(border_distances(first, second, UNIT).max(), border_distances(second, first, UNIT).max())
    assert largest == pytest.approx(hausdorff_distance(first, second), abs=1e-9)


def test_distances_come_row_by_row():
    first, second = drawn((30, 40), (2, 2, 3, 4), (25, 25, 30, 30)), drawn((30, 40), (2, 2, 6, 6))
    assert border_distances(first, second, (2.0, 1.0)) == pytest.approx([3, 2, math.hypot(46, 24)], abs=1e-9)


def test_a_band_as_wide_as_the_image_is_the_whole_mask():
    pred, target = noise((40, 50), 0.9, 1), noise((40, 50), 0.8, 2)
    overlap = (pred & target).sum() / (pred | target).sum()
    assert compare_surfaces(pred, target, (0.5, 3.0), 1, 1e6).boundary_iou == overlap
    assert compare_surfaces(pred, target, (0.5, 3.0), 1, math.inf).boundary_iou == overlap


def test_a_band_is_never_narrower_than_a_pixel():
    pred, target = drawn((9, 9), (2, 5, 2, 5)), drawn((9, 9), (2, 5, 3, 6))
    assert compare_surfaces(pred, target, UNIT, 1, 0).boundary_iou == 6 / 18
    assert compare_surfaces(pred, target, (1.0, 0.5), 1, 0).boundary_iou == 0  # the sides alone


def test_ignored_pixels_belong_to_neither_mask():
    pred, target, ignored = noise((40, 50), 0.6, 1), noise((40, 50), 0.7, 2), drawn((40, 50), (5, 20, 30, 49))
    given = pred.copy(), target.copy()
    expected = plainly(pred & ~ignored, target & ~ignored, UNIT, 1, 3, ignored)
    assert astuple(compare_surfaces(pred, target, UNIT, 1, 3, ignored)) == pytest.approx(expected, abs=1e-9)
    assert (pred == given[0]).all()
    assert (target == given[1]).all()


def test_where_a_mask_ends_at_ignored_pixels_is_no_border():
    """Two bars that lie along an ignored area agree nowhere but there, where nobody judged them."""
    ignored = drawn((10, 12), (5, 9, 0, 11))
    pred, target = drawn((10, 12), (3, 9, 0, 11)), drawn((10, 12), (4, 9, 0, 11))
    found = compare_surfaces(pred, target, UNIT, 0.5, 1, ignored)
    assert found.assd == (2 * 10 * 1 + 0 * 4 + 1 * 2) / (2 * 12 + 2) or found.surface_dice < 0.2


def test_a_mask_with_nothing_but_ignored_pixels_around_it_is_compared_as_it_is():
    ring = ~drawn((9, 9), (3, 5, 3, 5))
    pred, target = drawn((9, 9), (3, 5, 3, 5)), drawn((9, 9), (3, 5, 3, 4))
    assert compare_surfaces(pred, pred, UNIT, 1, 1, ring).assd == 0
    assert 0 < compare_surfaces(pred, target, UNIT, 1, 1, ring).assd < 1


def test_a_wide_band_is_that_of_the_transform():
    pred, target = drawn((200, 210), (10, 180, 20, 190)), drawn((200, 210), (14, 180, 20, 180))
    expected = plainly(pred, target, (1.0, 0.7), 1, 70)
    assert astuple(compare_surfaces(pred, target, (1.0, 0.7), 1, 70)) == pytest.approx(expected, abs=1e-9)


def test_one_empty_mask_is_as_far_away_as_the_image_is_large():
    mask, none = drawn((30, 80), (3, 9, 4, 9)), np.zeros((30, 80), dtype=bool)
    for pair in ((mask, none), (none, mask)):
        assert astuple(compare_surfaces(*pair, (1.0, 0.5), 1, 1)) == (50, 50, 0, 0)
    assert astuple(compare_surfaces(mask, mask, (1.0, 0.5), 1, 1, mask)) == pytest.approx([math.nan] * 4, nan_ok=True)
    hidden = compare_surfaces(mask, drawn((30, 80), (20, 22, 4, 9)), (1.0, 0.5), 1, 1, drawn((30, 80), (0, 15, 0, 79)))
    assert astuple(hidden) == (50, 50, 0, 0)


def test_two_empty_masks_say_nothing():
    none = np.zeros((5, 6), dtype=bool)
    assert all(math.isnan(value) for value in astuple(compare_surfaces(none, none, UNIT, 1, 1)))


def pair_by_pair(pred, target, spacing, tolerance, band, ignored=None):
    """hd95, assd, surface_dice, boundary_iou of volumes by the formulas, from the distances of all pairs of voxels."""
    hidden = np.zeros(pred.shape, dtype=bool) if ignored is None else ignored
    pred, target, hidden = (np.pad(mask, 1) for mask in (pred & ~hidden, target & ~hidden, hidden))
    size = np.array(spacing)
    away = [np.linalg.norm((voxel - np.argwhere(~(pred | hidden))) * size, axis=1).min() for voxel in np.argwhere(pred)]
    steps = [step for axis in range(3) for step in (np.eye(3, dtype=int)[axis], -np.eye(3, dtype=int)[axis])]

    def border(mask):
        inside = mask | hidden
        return np.array([voxel for voxel in np.argwhere(mask) if not all(inside[tuple(voxel + s)] for s in steps)])

    def within(mask):
        outside, limit = np.argwhere(~(mask | hidden)), max(band, min(spacing)) * (1 + 1e-9)
        near = [np.linalg.norm((voxel - outside) * size, axis=1).min() <= limit for voxel in np.argwhere(mask)]
        return {tuple(voxel) for voxel, is_near in zip(np.argwhere(mask).tolist(), near, strict=True) if is_near}

    assert len(away) == pred.sum()
    gaps = np.linalg.norm((border(pred)[:, None] - border(target)[None]) * size, axis=-1)
    there, back = gaps.min(1), gaps.min(0)
    both = np.concatenate([there, back])
    one, two = within(pred), within(target)
    return (
        max(np.percentile(there, 95), np.percentile(back, 95)),
        both.mean(),
        (both <= tolerance * (1 + 1e-9)).mean(),
        len(one & two) / len(one | two),
    )


def test_a_cube_and_the_same_one_a_slice_further_by_hand():
    """Cubes of 4 voxels a side, in slices 3 mm apart. Of the 56 voxels of each border, the 16 of the slice that the
    other lacks are 3 mm from it; the 12 at the sides of each of the other slices meet it; and the inner 4 of the last
    of these are 1 mm from the sides."""
    first, second = drawn((9, 8, 8), (2, 5, 2, 5, 2, 5)), drawn((9, 8, 8), (3, 6, 2, 5, 2, 5))
    found = compare_surfaces(first, second, (3.0, 1.0, 1.0), 1, 1)
    assert found.assd == pytest.approx((16 * 3 + 36 * 0 + 4 * 1) / 56)
    assert found.surface_dice == pytest.approx(40 / 56)
    assert found.hd95 == 3
    # Bands of 1 mm: the sides alone, 12 voxels a slice, since a slice is 3 mm thick.
    assert found.boundary_iou == pytest.approx(3 * 12 / (5 * 12))


def test_two_voxels_by_hand():
    first, second = drawn((4, 8, 9), (0, 0, 1, 1, 1, 1)), drawn((4, 8, 9), (2, 2, 4, 4, 5, 5))
    away = math.sqrt((2 * 2.5) ** 2 + (3 * 2) ** 2 + (4 * 0.5) ** 2)
    assert astuple(compare_surfaces(first, second, (2.5, 2, 0.5), away, 1)) == pytest.approx((away, away, 1, 0))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 0.7, 0.7)])
@pytest.mark.parametrize("density", [0.002, 0.4, 0.97])
def test_volumes_agree_with_the_distances_of_all_pairs(density, spacing):
    shape = (6, 9, 8)
    ignored = drawn(shape, (2, 4, 3, 8, 0, 3))
    pred, target = noise(shape, density, 1), noise(shape, 0.3, 2)
    for hidden in (None, ignored):
        found = compare_surfaces(pred, target, spacing, 1.4, 1.5, hidden)
        assert astuple(found) == pytest.approx(pair_by_pair(pred, target, spacing, 1.4, 1.5, hidden), abs=1e-9)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.8, 0.9)])
def test_volumes_with_few_and_with_many_border_voxels_agree_with_the_plain_way(spacing):
    shape = (20, 40, 30)
    bodies = drawn(shape, (2, 15, 5, 35, 4, 25)), drawn(shape, (4, 17, 8, 38, 4, 20))
    speckles = noise(shape, 0.4, 1), noise(shape, 0.5, 2)
    for pred, target in (bodies, speckles, (bodies[0], speckles[1])):
        found = compare_surfaces(pred, target, spacing, 2, 4)
        assert astuple(found) == pytest.approx(plainly(pred, target, spacing, 2, 4), abs=1e-9)


@pytest.mark.parametrize("band", [0, 1.7, 6, 1e6, math.inf])
def test_the_bands_of_a_volume_are_the_same_slab_by_slab(monkeypatch, band):
    shape, spacing = (30, 20, 15), (0.8, 1.0, 1.1)
    pred, target = drawn(shape, (0, 27, 2, 17, 1, 12)), noise(shape, 0.97, 2)
    for hidden in (None, drawn(shape, (10, 22, 0, 19, 0, 14))):
        whole = compare_surfaces(pred, target, spacing, 1, band, hidden)
        with monkeypatch.context() as patched:
            patched.setattr(surface, "MAX_SLAB", 1)
            assert compare_surfaces(pred, target, spacing, 1, band, hidden) == whole


def test_an_empty_mask_of_a_volume_is_its_diagonal_away():
    mask, none = drawn((3, 4, 12), (1, 1, 1, 2, 3, 4)), np.zeros((3, 4, 12), dtype=bool)
    assert astuple(compare_surfaces(mask, none, (1.0, 1.0, 1.0), 1, 1)) == (13, 13, 0, 0)
    assert all(math.isnan(value) for value in astuple(compare_surfaces(none, none, (1.0, 1.0, 1.0), 1, 1)))
