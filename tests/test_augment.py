"""Joint augmentation: image and mask move together, each sample in its own way, as a function of its key alone."""

import numpy as np
import pytest
import torch

from unet_cli.data.augment import AUGMENTATIONS, Augmentation, augment

FULL = AUGMENTATIONS["full"]
assert FULL is not None
WARPS = Augmentation(scale=1.5, rotation=45, elastic=0.05, chance=1.0)


def disc(count: int = 1, side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that are their masks, off the centre, with a smooth border."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    depth = 14 - torch.hypot(y - 20.0, x - 28.0)
    image = depth.clamp(-3, 3)[None, None].expand(count, 1, side, side)
    return image.contiguous(), (image[:, 0] > 0).long()


def keys(count: int, epoch: int = 1) -> list[tuple[int, int, int]]:
    return [(0, epoch, index) for index in range(count)]


def test_mask_follows_image_through_every_warp():
    image, mask = disc(16)
    warped, moved = augment(image, mask, WARPS, keys(16))
    assert moved.dtype == mask.dtype
    near_border = warped[:, 0].abs() < 1.0
    assert ((warped[:, 0] > 0).long() == moved)[~near_border].all()
    assert (moved != mask).flatten(1).any(1).all()


def test_flips_and_quarter_turns_alone_move_pixels_and_change_none():
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 2, 9, 9))).float()
    mask = (image[:, 0] > 0).long()
    moved, moved_mask = augment(image, mask, Augmentation(), keys(40))
    seen = set()
    for before, after, after_mask in zip(image, moved, moved_mask, strict=True):
        eight = [torch.rot90(flip, k, (1, 2)) for k in range(4) for flip in (before, before.flip(-1))]
        match = [number for number, turned in enumerate(eight) if torch.allclose(turned, after, atol=1e-4)]
        assert len(match) == 1
        assert torch.equal(after_mask, (after[0] > 0).long())
        seen.add(match[0])
    assert seen == set(range(8))


def test_a_sample_depends_on_its_key_alone():
    image, mask = disc(4)
    image = image + torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    together, _ = augment(image, mask, FULL, keys(4))
    for index in range(4):
        alone, _ = augment(image[index : index + 1], mask[index : index + 1], FULL, [keys(4)[index]])
        assert torch.allclose(alone[0], together[index], atol=1e-5)
    assert not torch.allclose(augment(image, mask, FULL, keys(4, epoch=2))[0], together)


@pytest.mark.parametrize("name", ["brightness", "contrast", "gamma", "noise", "blur"])
def test_each_intensity_change_changes_the_image_and_leaves_the_mask(name):
    image, mask = disc(6)
    strength = Augmentation(flips=False, chance=1.0, **{name: 1.8})
    changed, same = augment(image, mask, strength, keys(6))
    still, _ = augment(image, mask, Augmentation(flips=False), keys(6))
    assert torch.equal(same, mask)
    assert (changed - still).abs().flatten(1).amax(1).min() > 0.01
    assert torch.isfinite(changed).all()


def test_blur_smooths_and_keeps_the_mean():
    image = torch.randn(3, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    blurred, _ = augment(image, image[:, 0].long(), Augmentation(flips=False, blur=1.5, chance=1.0), keys(3))
    assert (blurred.std((1, 2, 3)) < 0.9 * image.std((1, 2, 3))).all()
    assert torch.allclose(blurred.mean((1, 2, 3)), image.mean((1, 2, 3)), atol=0.02)


def test_constant_images_stay_finite():
    flat = torch.zeros(8, 1, 16, 16)
    assert torch.isfinite(augment(flat, flat[:, 0].long(), FULL, keys(8))[0]).all()
