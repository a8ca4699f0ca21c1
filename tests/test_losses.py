"""Losses from logits, worked by hand, and in float32 whatever comes in."""

import math

import pytest
import torch

from unet_cli.data.labels import IGNORED
from unet_cli.training.losses import bce_dice, ce_dice, dice_loss, loss_for


def test_dice_loss_by_hand():
    probs = torch.tensor([[[[0.5, 1.0]]]])
    target = torch.tensor([[[[1.0, 0.0]]]])
    assert dice_loss(probs, target).item() == pytest.approx(1 - (2 * 0.5 + 1) / (1.5 + 1 + 1))


def test_dice_loss_is_the_mean_over_images_and_classes():
    target = torch.zeros(2, 2, 1, 4)
    target[0, 0] = 1  # image 0: class 0 is full and found; class 1 is empty and not found
    probs = target.clone()
    assert dice_loss(probs, target).item() == 0
    probs[1, 1] = 1  # a false alarm of 4 pixels in one of four
    assert dice_loss(probs, target).item() == pytest.approx((1 - 1 / 5) / 4)


def test_bce_dice_by_hand():
    logits, target = torch.zeros(1, 1, 1, 2), torch.tensor([[[1, 0]]])
    assert bce_dice(logits, target).item() == pytest.approx(math.log(2) + 1 - (2 * 0.5 + 1) / (1 + 1 + 1))


def test_ce_dice_by_hand():
    logits, target = torch.zeros(1, 3, 1, 3), torch.tensor([[[0, 1, 2]]])
    each = 1 - (2 / 3 + 1) / (1 + 1 + 1)
    assert ce_dice(logits, target).item() == pytest.approx(math.log(3) + each)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_perfect_logits_cost_nothing_and_wrong_ones_a_lot(num_classes):
    mask = torch.randint(0, num_classes, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    if num_classes == 2:
        logits = (mask[:, None] * 2 - 1) * 50.0
    else:
        logits = torch.nn.functional.one_hot(mask, num_classes).movedim(-1, 1) * 50.0
    loss = loss_for(num_classes)
    assert loss(logits, mask).item() == pytest.approx(0, abs=1e-4)
    assert loss(-logits, mask).item() > 5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_give_a_float32_loss_that_cannot_overflow(dtype):
    logits = torch.full((1, 1, 512, 512), 8.0, dtype=dtype)
    loss = bce_dice(logits, torch.ones(1, 512, 512))
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert loss < 0.01


@pytest.mark.parametrize("num_classes", [2, 3])
def test_ignored_pixels_change_nothing(num_classes):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1 if num_classes == 2 else num_classes, 6, 8, generator=generator)
    mask = torch.randint(0, num_classes, (2, 6, 8), generator=generator)
    loss = loss_for(num_classes)
    without = loss(logits[..., :5], mask[..., :5])
    mask[..., 5:] = IGNORED
    assert loss(logits, mask).item() == pytest.approx(without.item(), abs=1e-6)
    assert torch.isfinite(loss(logits, torch.full_like(mask, IGNORED)))
