"""Patches of volumes: how large they are, where they lie, and that image and mask are changed alike. The voxels of a
test volume are their own places, so that a sample says where it was cut."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from unet_cli.config.model import IGNORED
from unet_cli.data.samples.augment import Augmentation, augment, augmentation_of
from unet_cli.data.samples.cutting import CachedSample, Crops, Grid, patch_of
from unet_cli.data.samples.space import SpaceWarp, rotation_in_space, warped_in_space
from unet_cli.models.geometry import Geometry
from unet_cli.runs.patch import patch_for, smaller

PLAIN = Geometry(multiple=8, least=8, stride=8)
FLIPS = Augmentation(chance=0.0)
WARPS = Augmentation(scale=1.3, rotation=25, elastic=0.02, chance=1.0)


def places(*sides: int) -> torch.Tensor:
    """(3, D, H, W) float: the place of each voxel along the three axes."""
    return torch.from_numpy(np.indices(sides).astype(np.float32))


def held(cutting: Crops | Grid, mask: np.ndarray) -> CachedSample:
    return cutting.hold(places(*mask.shape).to(torch.uint8), torch.from_numpy(mask), None, 8)


@pytest.mark.parametrize(
    ("size", "spacing", "voxels", "largest", "patch"),
    [
        ((200, 256, 256), (1, 1, 1), 2**18, 512, (64, 64, 64)),
        ((200, 256, 256), (1, 1, 1), 2**21, 512, (128, 128, 128)),
        ((36, 50, 36), (1, 1, 1), 2**18, 512, (40, 48, 48)),  # the whole volume, and little more
        ((16, 1024, 1024), (50, 4.6, 4.6), 2**18, 512, (16, 144, 144)),  # thin sections: what is left goes into rows
        ((100, 320, 320), (3, 0.75, 0.75), 2**18, 512, (32, 112, 112)),  # four times as thick as wide
        ((500, 30, 30), (1, 1, 1), 2**18, 512, (304, 32, 32)),
        ((200, 256, 256), (1, 1, 1), 2**18, 32, (32, 32, 32)),
    ],
)
def test_a_patch_fits_the_volumes_and_the_memory(size, spacing, voxels, largest, patch):
    found = patch_for([size, size], spacing, PLAIN, voxels, largest)
    assert found == patch
    assert all(PLAIN.side(side) == side for side in found)
    assert math.prod(found) <= 1.7 * voxels


def test_a_smaller_crop_has_the_shape_of_the_patch_as_far_as_the_network_allows():
    assert smaller((512, 512), 128, PLAIN) == (128, 128)
    assert smaller((64, 64, 64), 32, PLAIN) == (32, 32, 32)
    assert smaller((16, 144, 144), 72, PLAIN) == (8, 72, 72)
    assert smaller((8, 144, 144), 72, PLAIN) == (8, 72, 72)


def test_a_crop_holds_the_voxels_of_its_place_and_their_mask():
    mask = (np.arange(12 * 20 * 24) % 7).reshape(12, 20, 24).astype(np.uint8)
    cutting = Crops([mask.shape], (4, 8, 8), 0.5, seed=3)
    assert cutting.count(0) == round(12 * 20 * 24 / 256)
    image, cut = cutting.cut(held(cutting, mask), 0, 5, 0)
    assert (image.shape, cut.shape) == ((3, 4, 8, 8), (4, 8, 8))
    for axis in range(3):
        assert (np.diff(image[axis].numpy(), axis=axis) == 1).all()
    assert (cut.numpy() == mask[tuple(image.long().numpy())]).all()


def test_crops_on_foreground_find_the_few_voxels_of_a_class():
    mask = np.zeros((30, 40, 50), np.uint8)
    mask[17, 22, 41], mask[3, 5, 7] = 1, 2
    cutting = Crops([mask.shape], (4, 6, 6), 1.0, seed=0)
    found = [set(np.unique(cutting.cut(held(cutting, mask), 0, index, 0)[1])) for index in range(40)]
    assert all(classes in ({0, 1}, {0, 2}) for classes in found)
    assert 8 < sum(2 in classes for classes in found) < 32  # each class as often


def test_tiles_cover_each_voxel_once():
    mask = np.zeros((5, 9, 17), np.uint8)
    cutting = Grid([mask.shape], (4, 8, 8), rim=2)
    counts = np.zeros(mask.shape, int)
    assert cutting.count(0) == 2 * 2 * 3
    for number in range(cutting.count(0)):
        image, tile = cutting.cut(held(cutting, mask), number, number, 0)
        assert (image.shape, tile.shape) == ((3, 8, 12, 12), (8, 12, 12))
        counts[tuple(image[:, tile != IGNORED].long().numpy())] += 1
    assert (counts == 1).all()


@pytest.mark.parametrize(("sides", "ways"), [((8, 8, 8), 48), ((4, 8, 8), 16)])
def test_flips_and_turns_turn_around_each_axis_of_a_cube_and_one_of_a_slab(sides, ways):
    image = places(*sides)[None].expand(300, -1, -1, -1, -1)
    mask = (image[:, 0] * 64 + image[:, 1] * 8 + image[:, 2]).to(torch.int32)
    moved, moved_mask = augment(image, mask, FLIPS, [(0, 1, index) for index in range(300)])
    assert torch.equal(moved[:, 0] * 64 + moved[:, 1] * 8 + moved[:, 2], moved_mask.float())
    steps = [torch.stack([sample.diff(dim=axis).mean((1, 2, 3)) for axis in (1, 2, 3)]) for sample in moved]
    assert len({tuple(step.flatten().tolist()) for step in steps}) == ways


def test_volumes_whose_mirror_images_are_unknown_are_only_turned():
    image = places(8, 8, 8)[None].expand(200, -1, -1, -1, -1)
    moved, _ = augment(image, image[:, 0].long(), replace(FLIPS, mirrors=False), [(0, 1, n) for n in range(200)])
    steps = torch.stack([moved.diff(dim=axis).mean((2, 3, 4)) for axis in (2, 3, 4)], 1)
    assert len(steps.unique(dim=0)) == 24
    assert torch.linalg.det(steps).round().eq(1).all()


def test_upright_volumes_are_mirrored_from_left_to_right_alone():
    image = places(8, 8, 8)[None].expand(40, -1, -1, -1, -1)
    upright = Augmentation(upright=True, chance=0.0)
    moved, _ = augment(image, image[:, 0].long(), upright, [(0, 1, index) for index in range(40)])
    assert torch.equal(moved[:, :2], image[:, :2])
    is_mirrored = (moved[:, 2, 0, 0, 0] == 7).sum()
    assert 5 < is_mirrored < 35


@pytest.mark.parametrize("sides", [(16, 16, 16), (6, 16, 16)])
def test_a_volume_and_its_mask_are_warped_alike(sides):
    patch = patch_of(sides)
    assert patch == ((24, 24, 24) if sides[0] == 16 else (6, 24, 24))
    image = places(*patch)[None].expand(12, -1, -1, -1, -1)
    mask = (image[:, 0] * 1024 + image[:, 1] * 32 + image[:, 2]).to(torch.int32)
    warped, picked = augment(image, mask, WARPS, [(0, 1, index) for index in range(12)], sides)
    assert (warped.shape, picked.shape) == ((12, 3, *sides), (12, *sides))
    places_of_mask = torch.stack([picked // 1024, picked // 32 % 32, picked % 32], 1)
    assert (warped - places_of_mask).abs().max() < 0.51
    assert (warped - warped.round()).abs().mean() > 0.05  # it was interpolated


@pytest.mark.parametrize("size", [10, 11])
def test_a_warp_that_interpolates_lies_where_one_that_does_not_lies(size):
    image, draw = places(16, 16, 16), np.random.default_rng(0)
    mask = (image[0] * 256 + image[1] * 16 + image[2]).to(torch.int32)
    for _ in range(8):
        ways = SpaceWarp(tuple(draw.permutation(3).tolist()), tuple(draw.integers(2, size=3).astype(bool).tolist()))
        moved = warped_in_space(image, mask, ways, size)
        still = {"linear": np.eye(3)}, {"elastic": np.zeros((3, 4, 4, 4))}
        for sampled in (warped_in_space(image, mask, replace(ways, **change), size) for change in still):
            torch.testing.assert_close(sampled[0], moved[0], rtol=0, atol=1e-4)
            assert torch.equal(sampled[1], moved[1])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_rotation_about_an_axis_leaves_it_and_turns_the_others(axis):
    image, radians = places(25, 25, 25) - 12, np.zeros(3)
    radians[axis] = math.radians(30)
    warp = SpaceWarp(linear=1.25 * rotation_in_space(radians))
    moved, _ = warped_in_space(image, image[0].int(), warp, 9)
    one, two = [other for other in range(3) if other != axis]
    centre = [4, 4, 4]
    centre[axis], centre[one] = 8, 6
    place = moved[:, *centre]  # from the centre 4 along the axis and 2 along another
    cos, sin = 1.25 * 2 * math.cos(radians[axis]), 1.25 * 2 * math.sin(radians[axis])
    assert place[axis] == pytest.approx(1.25 * 4, abs=1e-3)
    assert (place[one], place[two]) == (pytest.approx(cos, abs=1e-3), pytest.approx(sin, abs=1e-3))


@pytest.mark.parametrize("upright", [False, True])
def test_cubes_are_rotated_about_all_axes_and_slabs_within_their_slices(upright):
    orientation = "upright" if upright else "any"
    cube, slab = (augmentation_of("full", orientation, sides=sides) for sides in ((16, 16, 16), (6, 16, 16)))
    assert (cube.rotation, cube.scale, slab.rotation, slab.scale) == (30, 1.4, 20, 1.25)
    for strength, sides in ((cube, (16, 16, 16)), (slab, (6, 16, 16))):
        always = replace(strength, ramp=0, chance=1.0, elastic=0, gamma=1, contrast=1, brightness=0, noise=0, blur=0)
        image = places(*patch_of(sides))[None].expand(8, -1, -1, -1, -1)
        keys = [(0, 1, index) for index in range(8)]
        moved, _ = augment(image, image[:, 0].long(), always, keys, sides)
        again, _ = augment(image[5:], image[5:, 0].long(), always, keys[5:], sides)
        assert torch.equal(moved[5:], again)
        middle = moved[:, :, sides[0] // 2, 7:9, 7:9]
        is_mixed = (middle[:, 0].amax((1, 2)) - middle[:, 0].amin((1, 2))) > 0.01  # a slice runs through several
        assert is_mixed.all() == (strength is cube)
        assert is_mixed.any() == (strength is cube)
