"""Joint augmentation: image and mask move together, each sample in its own way, as a function of its key alone.

Geometry is checked on images whose values are their own coordinates, so that a result says where it comes from."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from unet_cli.data.samples.augment import AUGMENTATIONS, Augmentation, augment, augmentation_of
from unet_cli.data.samples.warp import Warp, center_crop, rotation, warped

FULL = AUGMENTATIONS["full"]
LIGHT = AUGMENTATIONS["light"]
assert FULL is not None
assert LIGHT is not None
WARPS = Augmentation(scale=1.5, rotation=45, shear=15, elastic=0.05, chance=1.0)


def disc(count: int = 1, side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that are their masks, off the centre, with a smooth border."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    depth = 14 - torch.hypot(y - 20.0, x - 28.0)
    image = depth.clamp(-3, 3)[None, None].expand(count, 1, side, side)
    return image.contiguous(), (image[:, 0] > 0).long()


def places(count: int = 1, side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Channels y and x in pixels from the middle, and a mask that numbers all pixels."""
    along = torch.arange(side) - (side - 1) / 2
    image = torch.stack(torch.meshgrid(along, along, indexing="ij")).expand(count, 2, side, side).contiguous()
    return image, torch.arange(side * side).view(1, side, side).expand(count, -1, -1).contiguous()


def noise(count: int, channels: int = 2, side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(0))
    return image, (image[:, 0] > 0).long()


def keys(count: int, epoch: int = 1) -> list[tuple[int, int, int]]:
    return [(0, epoch, index) for index in range(count)]


def test_mask_follows_image_through_every_warp():
    image, mask = disc(16)
    moved_image, moved = augment(image, mask, WARPS, keys(16))
    assert moved.dtype == mask.dtype
    near_border = moved_image[:, 0].abs() < 1.0
    assert ((moved_image[:, 0] > 0).long() == moved)[~near_border].all()
    assert (moved != mask).flatten(1).any(1).all()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_images_of_any_orientation_are_changed_as_the_table_says(name):
    assert augmentation_of(name, "any") == AUGMENTATIONS[name]


def test_upright_images_are_mirrored_and_neither_turned_nor_upside_down():
    image, mask = noise(40)
    moved, moved_mask = augment(image, mask, Augmentation(upright=True), keys(40))
    is_mirrored = [torch.equal(after, before.flip(-1)) for before, after in zip(image, moved, strict=True)]
    is_same = [torch.equal(after, before) for before, after in zip(image, moved, strict=True)]
    assert sum(is_mirrored) + sum(is_same) == 40
    assert 10 < sum(is_mirrored) < 30
    assert torch.equal(moved_mask, (moved[:, 0] > 0).long())


def test_upright_images_are_changed_as_others_are_but_for_the_quarter_turn():
    upright, others = (augmentation_of("full", orientation) for orientation in ("upright", "any"))
    image, mask = places(60)
    changed, _ = augment(image, mask, replace(upright, chance=0.0), keys(60))
    turned, _ = augment(image, mask, replace(others, chance=0.0), keys(60))
    assert not torch.equal(changed, turned)
    for one, other in zip(changed, turned, strict=True):
        assert any(torch.equal(torch.rot90(one, turns, (-2, -1)), other) for turns in range(4))
    image, mask = disc(60)  # small rotations stay
    assert upright.rotation == others.rotation > 0
    changed, _ = augment(image, mask, replace(upright, chance=1.0), keys(60))
    assert not any(torch.equal(one, before) for one, before in zip(changed, image, strict=True))


@pytest.mark.parametrize("side", [9, 10])
def test_flips_and_quarter_turns_alone_move_pixels_and_change_none(side):
    image, mask = noise(40, side=side)
    moved, moved_mask = augment(image, mask, Augmentation(), keys(40))
    seen = set()
    for before, after, after_mask in zip(image, moved, moved_mask, strict=True):
        eight = [torch.rot90(flip, k, (1, 2)) for k in range(4) for flip in (before, before.flip(-1))]
        match = [number for number, turned in enumerate(eight) if torch.equal(turned, after)]
        assert len(match) == 1
        assert torch.equal(after_mask, (after[0] > 0).long())
        seen.add(match[0])
    assert seen == set(range(8))


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirror", [False, True])
def test_flips_and_turns_are_the_same_with_and_without_interpolation(turns, mirror):
    image, mask = places(side=10)
    for size in (10, 6, 5):
        exact, exact_mask = warped(image, mask, [Warp(turns, mirror)], size)
        sampled, sampled_mask = warped(image, mask, [Warp(turns, mirror, np.eye(2))], size)
        assert torch.allclose(exact, sampled, atol=1e-4)
        assert torch.equal(exact_mask, sampled_mask)


def test_a_warp_takes_pixels_from_where_its_matrix_says():
    image, mask = places()
    slanted = np.array([[1, 0.25], [0, 1]])
    # Half as large, turned by 30 degrees, sheared; and a quarter of half the side to the right: 8 pixels.
    matrix = 0.5 * rotation(math.radians(30)) @ slanted
    result, _ = warped(image, mask, [Warp(linear=matrix, shift=np.array([0.25, 0.0]))], 64)
    expected = torch.einsum("ij,jyx->iyx", torch.from_numpy(matrix).float(), image[0].flip(0)).flip(0)
    expected[1] += 8
    assert torch.allclose(result[0], expected, atol=1e-3)


def test_the_nearest_pixel_of_the_mask_is_that_of_the_image():
    image, mask = places(8)
    result, picked = augment(image, mask, WARPS, keys(8), sides=(30, 30))
    assert ((result[:, 0] - image[0, 0].flatten()[picked]).abs() < 0.51).all()
    assert ((result[:, 1] - image[0, 1].flatten()[picked]).abs() < 0.51).all()


def test_displacements_are_smooth_and_as_large_as_told():
    image, mask = places(20, side=128)
    gentle = Augmentation(flips=False, elastic=0.01, chance=1.0)
    shifts = augment(image, mask, gentle, keys(20), sides=(96, 96))[0] - center_crop(image, (96, 96))
    assert 0.5 * 0.96 < shifts.std() < 1.1 * 0.96  # 1 % of the window's side, less between control points
    assert shifts.diff(dim=-1).abs().max() < 0.8


def test_the_papers_deformation_is_of_10_pixels_on_a_grid_of_3():
    """Random displacements of the nine points, some half of that in between; the middle one is a point itself."""
    image, mask = places(300, side=41)
    only = replace(AUGMENTATIONS["paper"], flips=False, brightness=0.0, contrast=1.0)
    shifts = augment(image, mask, only, keys(300))[0] - image
    at_point = shifts[:, :, 20, 20]
    assert 7 < at_point.std() < 11  # less than 10, where what was pushed out comes back mirrored
    assert not (shifts[:, :, 20, 20] == shifts[:, :, 0, 0]).any()
    assert shifts.diff(dim=-1).abs().median() < 1.5


def test_of_a_larger_patch_the_middle_comes_back_and_corners_have_real_pixels():
    image, mask = places(6, side=90)
    for size in (60, 61):
        inner, inner_mask = center_crop(image, (size, size)), center_crop(mask, (size, size))
        first = (90 - size) // 2
        assert torch.equal(inner, image[..., first : first + size, first : first + size])
        assert torch.equal(inner_mask, mask[..., first : first + size, first : first + size])
        still, still_mask = augment(image, mask, Augmentation(flips=False), keys(6), (size, size))
        assert torch.equal(still, inner)
        assert torch.equal(still_mask, inner_mask)
    turned = Warp(linear=rotation(math.radians(45)))
    corner = warped(image[:1], mask[:1], [turned], 60)[0][0, :, 0, 0]
    assert torch.allclose(corner, torch.tensor([-29.5 * math.sqrt(2), 0]), atol=0.01)  # straight above the middle


def test_a_window_that_is_zoomed_in_lies_anywhere_but_inside_and_others_in_the_middle():
    image, mask = places(60, side=200)
    zooms = Augmentation(flips=False, scale=2.0, rotation=20, shear=10, chance=1.0)
    result, _ = augment(image, mask, zooms, keys(60), sides=(64, 64))
    origin = result[:, :, 31, 31]
    steps = torch.stack([result[:, :, 32, 31] - origin, result[:, :, 31, 32] - origin], 1)
    zoom = torch.linalg.det(steps).abs().sqrt()
    centres = result.mean((2, 3))
    corners = result[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (zoom < 0.6).sum() > 5
    assert (zoom > 1).sum() > 20
    assert corners[zoom < 0.6].abs().max() < 32
    assert centres[zoom < 0.6].abs().mean() > 3
    for channel in range(2):
        assert centres[zoom < 0.6, channel].min() < -3
        assert centres[zoom < 0.6, channel].max() > 3
    assert centres[zoom > 1].abs().max() < 0.01


@pytest.mark.parametrize("strength", [FULL, LIGHT, WARPS])
@pytest.mark.parametrize("sides", [None, (20, 20)])
def test_a_sample_depends_on_its_key_alone(strength, sides):
    image, mask = noise(12)
    together, masks = augment(image, mask, strength, keys(12), sides)
    for index in range(12):
        alone, alone_mask = augment(
            image[index : index + 1], mask[index : index + 1], strength, [keys(12)[index]], sides
        )
        assert torch.allclose(alone[0], together[index], atol=1e-5)
        assert torch.equal(alone_mask[0], masks[index])
    assert not torch.allclose(augment(image, mask, strength, keys(12, epoch=2), sides)[0], together)


@pytest.mark.parametrize("strength", [FULL, LIGHT, WARPS, Augmentation(flips=False)])
def test_what_comes_in_is_left_as_it_is(strength):
    image, mask = noise(6)
    before = image.clone(), mask.clone()
    result, moved = augment(image, mask, strength, keys(6))
    assert torch.equal(image, before[0])
    assert torch.equal(mask, before[1])
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    assert moved.is_contiguous()


@pytest.mark.parametrize("name", ["brightness", "contrast", "gamma", "noise", "blur"])
def test_each_intensity_change_changes_the_image_and_leaves_the_mask(name):
    image, mask = disc(6)
    strength = Augmentation(flips=False, chance=1.0, **{name: 1.8})
    changed, same = augment(image, mask, strength, keys(6))
    assert torch.equal(same, mask)
    assert (changed - image).abs().flatten(1).amax(1).min() > 0.01
    assert torch.isfinite(changed).all()


@pytest.mark.parametrize("name", ["scale", "rotation", "shear", "elastic", "brightness", "noise"])
def test_a_chance_is_the_share_of_samples_that_are_changed(name):
    image, mask = noise(200, channels=1, side=8)
    changed, _ = augment(image, mask, Augmentation(flips=False, chance=0.25, **{name: 1.8}), keys(200))
    assert 30 < (changed != image).flatten(1).any(1).sum() < 70


def test_gamma_keeps_order_lowest_and_highest():
    image, mask = disc(8)
    changed, _ = augment(image, mask, Augmentation(flips=False, gamma=2.0, chance=1.0), keys(8))
    assert torch.allclose(changed.amin((1, 2, 3)), torch.tensor(-3.0))
    assert torch.allclose(changed.amax((1, 2, 3)), torch.tensor(3.0), atol=1e-5)
    assert torch.equal(changed.flatten(1).diff(dim=1) > 0, image.flatten(1).diff(dim=1) > 0)


def test_contrast_keeps_the_mean_and_brightness_the_spread():
    image, mask = noise(8)
    contrasted, _ = augment(image, mask, Augmentation(flips=False, contrast=2.0, chance=1.0), keys(8))
    brighter, _ = augment(image, mask, Augmentation(flips=False, brightness=1.0, chance=1.0), keys(8))
    assert torch.allclose(contrasted.mean((1, 2, 3)), image.mean((1, 2, 3)), atol=1e-5)
    assert torch.allclose(brighter.std((1, 2, 3)), image.std((1, 2, 3)), atol=1e-5)


def test_blur_smooths_and_keeps_the_mean():
    image, mask = noise(9)
    blurred, _ = augment(image, mask, Augmentation(flips=False, blur=1.5, chance=1.0), keys(9))
    assert (blurred.std((1, 2, 3)) < image.std((1, 2, 3))).all()
    assert (blurred.std((1, 2, 3)) < 0.6 * image.std((1, 2, 3))).sum() >= 4
    assert torch.allclose(blurred.mean((1, 2, 3)), image.mean((1, 2, 3)), atol=0.02)


@pytest.mark.parametrize("value", [0.0, -1e6, 1e-30])
def test_constant_images_stay_finite(value):
    flat = torch.full((16, 1, 16, 16), value)
    everything = Augmentation(scale=1.3, elastic=0.1, gamma=3.0, contrast=3.0, noise=1.0, blur=2.0, chance=1.0)
    for strength in (FULL, everything):
        assert torch.isfinite(augment(flat, flat[:, 0].long(), strength, keys(16))[0]).all()


@pytest.mark.parametrize("side", [1, 2, 3])
def test_tiny_images_are_changed_too(side):
    image, mask = noise(8, side=side)
    everything = Augmentation(scale=1.3, elastic=0.1, gamma=3.0, contrast=3.0, noise=1.0, blur=2.0, chance=1.0)
    assert torch.isfinite(augment(image, mask, everything, keys(8))[0]).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_masks_keep_their_type_and_all_their_values(dtype):
    image, _ = noise(4)
    mask = torch.full((4, 32, 32), 255, dtype=dtype)
    mask[:, :16] = 3
    _, moved = augment(image, mask, WARPS, keys(4))
    assert moved.dtype == dtype
    assert moved.unique().tolist() == [3, 255]


def test_the_chance_of_changes_grows_with_the_epochs():
    growing = Augmentation(chance=0.4, ramp=10)
    assert [growing.at(epoch).chance for epoch in (1, 5, 10, 99)] == pytest.approx([0.04, 0.2, 0.4, 0.4])
    assert Augmentation(chance=0.4).at(1).chance == 0.4
