"""Batch norm's statistics are those of the weights and images at hand."""

import pytest
import torch
from torch import nn

from unet_cli.system.distributed import World
from unet_cli.training.statistics import recompute_statistics


def batches(count: int = 3, size: int = 4) -> list[torch.Tensor]:
    """Whose means differ, so that the variance between them counts."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, 2, 6, 6, generator=generator) * 3 + 10 * number for number in range(count)]


def test_they_are_the_pooled_moments_of_all_pixels():
    norm = nn.BatchNorm2d(2)
    recompute_statistics(norm, norm, batches(), World())
    pixels = torch.cat(batches()).double().movedim(1, 0).flatten(1)
    assert torch.allclose(norm.running_mean.double(), pixels.mean(1), rtol=1e-6)
    assert torch.allclose(norm.running_var.double(), pixels.var(1), rtol=1e-2)  # those within are unbiased
    assert norm.running_var.min() > 60  # 9 within batches, and as much again as their means differ


def test_nothing_of_what_was_before_stays():
    found = []
    for before in (0.0, 1e6):
        norm = nn.BatchNorm2d(2)
        norm.running_mean.fill_(before)
        recompute_statistics(norm, norm, batches(), World())
        found.append(norm.running_mean.clone())
    assert torch.equal(*found)


def test_later_layers_see_what_the_earlier_ones_make_of_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1), nn.Dropout(0.5), nn.BatchNorm2d(3))
    images = torch.cat(batches())
    recompute_statistics(model, model, [images], World())
    hidden = model[1](model[0](images))
    assert torch.allclose(model[3].running_mean, hidden.mean((0, 2, 3)), atol=1e-3)
    assert not model.training
    assert [norm.momentum for norm in (model[0], model[3])] == [0.1, 0.1]


def test_weights_and_gradients_stay():
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    before = [weight.clone() for weight in model.parameters()]
    recompute_statistics(model, model, batches(), World())
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert all(weight.grad is None for weight in model.parameters())


def test_without_images_or_batch_norm_nothing_changes():
    norm = nn.BatchNorm2d(2)
    recompute_statistics(norm, norm, [], World())
    assert norm.running_mean.eq(0).all()
    assert norm.running_var.eq(1).all()
    group = nn.GroupNorm(1, 2)
    asked = iter(batches())
    recompute_statistics(group, group, asked, World())
    assert len(list(asked)) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_momenta_come_back_whatever_happens(error):
    norm = nn.BatchNorm2d(2)

    def fail(image: torch.Tensor) -> None:
        raise error

    with pytest.raises(error):
        recompute_statistics(norm, fail, batches(), World())
    assert norm.momentum == 0.1
