"""Losses from logits, worked by hand; the parts of a batch add up; float32 whatever comes in."""

import math

import pytest
import torch

from unet_cli.data.labels import IGNORED
from unet_cli.training.losses import LOSSES, Denominators, Loss, balanced_weights, dice, focal, loss_for, tversky


def make(name: str, num_classes: int) -> Loss:
    """The loss, for classes of which each has half the pixels of the one before."""
    shares = [2.0**-index for index in range(1, num_classes)]
    return loss_for(name, num_classes, [*shares, shares[-1]])


def random_batch(num_classes: int, images: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that want a gradient and a target: the first image hardly known, the last not at all."""
    generator = torch.Generator().manual_seed(0)
    channels = 1 if num_classes == 2 else num_classes
    logits = torch.randn(images, channels, 6, 8, generator=generator, dtype=torch.float64).requires_grad_()
    mask = torch.randint(0, num_classes, (images, 6, 8), generator=generator)
    mask[0, 1:] = IGNORED
    mask[-1] = IGNORED
    return logits, mask


def test_dice_by_hand():
    probs = torch.tensor([[[[0.5, 1.0]]]])
    truth = torch.tensor([[[[1.0, 0.0]]]])
    assert dice(probs, truth).item() == pytest.approx(1 - (2 * 0.5 + 1) / (1.5 + 1 + 1))


def test_dice_is_the_mean_over_images_and_foreground_classes():
    mask = torch.zeros(2, 1, 4, dtype=torch.long)
    mask[0] = 1  # image 0: all class 1, and found; image 1: all background, but class 2 is seen everywhere
    logits = torch.full((2, 3, 1, 4), -50.0)
    logits[0, 1] = logits[1, 2] = 50
    assert loss_for("dice", 3)(logits, mask).item() == pytest.approx((1 - 1 / 5) / 4)


def test_tversky_counts_a_miss_for_more_than_a_false_alarm():
    probs, truth = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]]), torch.tensor([[[1.0, 0.0, 1.0, 1.0]]])
    assert tversky(probs, truth).item() == pytest.approx(1 - (1 + 0.5) / (1 + 0.3 * 1 + 0.7 * 2 + 0.5))
    assert tversky(truth, probs).item() == pytest.approx(1 - (1 + 0.5) / (1 + 0.3 * 2 + 0.7 * 1 + 0.5))


def test_cross_entropy_and_dice_by_hand():
    logits, target = torch.zeros(1, 1, 1, 2), torch.tensor([[[1, 0]]])
    each = 1 - (2 * 0.5 + 1) / (1 + 1 + 1)
    assert loss_for("bce-dice", 2)(logits, target).item() == pytest.approx(math.log(2) + each)
    logits, target = torch.zeros(1, 3, 1, 3), torch.tensor([[[0, 1, 2]]])
    each = 1 - (2 / 3 + 1) / (1 + 1 + 1)
    assert loss_for("bce-dice", 3)(logits, target).item() == pytest.approx(math.log(3) + each)


def test_focal_by_hand():
    logits, target = torch.tensor([[[[math.log(3)]]]]), torch.tensor([[[0]]])  # probability 3/4 of what isn't there
    assert focal(logits, target).item() == pytest.approx(0.75**2 * math.log(4))
    two = torch.cat([torch.zeros_like(logits), logits], 1)  # the same with an output for the background
    assert focal(two, target).item() == pytest.approx(0.75**2 * math.log(4))


def test_balanced_by_hand():
    logits, target = torch.zeros(1, 3, 1, 4), torch.tensor([[[0, 0, 1, IGNORED]]])
    logits[0, 0, 0, 2] = math.log(2)  # the third pixel: probability 1/4 of its class
    weights = balanced_weights([0.64, 0.36, 0])
    entropy = (2 * weights[0] * math.log(3) + weights[1] * math.log(4)) / (2 * weights[0] + weights[1])
    plain = loss_for("dice", 3)(logits, target).item()
    assert loss_for("balanced", 3, [0.64, 0.36, 0])(logits, target).item() == pytest.approx(entropy + plain)


@pytest.mark.parametrize(
    ("shares", "weights"),
    [
        ([0.5, 0.5], [1, 1]),
        ([0.8, 0.2], [5 / 6, 10 / 6]),  # 1 to 2, and 0.8 of the one and 0.2 of the other make 1
        ([0.8, 0.2, 0], [5 / 6, 10 / 6, 10 / 6]),  # what isn't there weighs as much as the rarest
        ([1, 0], [1, 1]),
        ([0, 0], [1, 1]),
    ],
)
def test_classes_weigh_the_inverse_root_of_their_share_with_a_mean_of_one(shares, weights):
    assert balanced_weights(shares) == pytest.approx(weights)


def test_no_class_weighs_more_than_ten_times_the_commonest():
    weights = balanced_weights([0.95, 0.05, 1e-9])
    assert [weight / weights[0] for weight in weights] == pytest.approx([1, math.sqrt(19), 10])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("num_classes", [2, 4])
def test_perfect_logits_cost_nothing_and_wrong_ones_a_lot(name, num_classes):
    mask = torch.randint(0, num_classes, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    if num_classes == 2:
        logits = (mask[:, None] * 2 - 1) * 50.0
    else:
        logits = torch.nn.functional.one_hot(mask, num_classes).movedim(-1, 1) * 50.0
    loss = make(name, num_classes)
    assert loss(logits, mask).item() == pytest.approx(0, abs=1e-4)
    assert loss(-logits, mask).item() > (5 if loss.pixels else 0.8)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_give_a_float32_loss_that_cannot_overflow(name, dtype):
    logits = torch.full((1, 1, 512, 512), 8.0, dtype=dtype)
    loss = make(name, 2)(logits, torch.ones(1, 512, 512))
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert loss < 0.01


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("num_classes", [2, 3])
def test_ignored_pixels_change_nothing(name, num_classes):
    logits, mask = random_batch(num_classes)
    loss = make(name, num_classes)
    mask[..., 5:] = IGNORED
    without = loss(logits[..., :5], mask[..., :5])
    assert loss(logits, mask).item() == pytest.approx(without.item(), abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_parts_of_a_batch_add_up_to_it(name, num_classes):
    loss = make(name, num_classes)
    logits, mask = random_batch(num_classes, images=5)
    together = loss(logits, mask)
    (gradient,) = torch.autograd.grad(together, logits)
    parts = [(logits[part], mask[part]) for part in (slice(0, 1), slice(1, 3), slice(3, 5))]
    wholes = [loss.whole(target) for _, target in parts]
    whole = Denominators(sum(one.images for one in wholes), sum(one.weight for one in wholes))
    assert (whole.images, whole.weight) == (loss.whole(mask).images, pytest.approx(loss.whole(mask).weight))
    summed = torch.stack([loss(*part, whole) for part in parts]).sum()
    assert summed.item() == pytest.approx(together.item(), rel=1e-6)
    assert torch.allclose(torch.autograd.grad(summed, logits)[0], gradient, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("num_classes", [2, 4])
def test_a_sample_that_is_ignored_everywhere_adds_exactly_nothing(name, num_classes):
    loss = make(name, num_classes)
    logits, mask = random_batch(num_classes)
    ghost, nowhere = logits[-1:], mask[-1:]
    none = loss.whole(nowhere, images=0)
    assert (none.images, none.weight) == (0, 0)
    for whole in (none, loss.whole(mask)):
        value = loss(ghost, nowhere, whole)
        assert value.item() == 0
        (gradient,) = torch.autograd.grad(value, logits)
        assert not gradient.any()
    kept = loss(logits[:-1], mask[:-1])
    assert loss(logits, mask, loss.whole(mask, images=3)).item() == pytest.approx(kept.item(), rel=1e-6)
