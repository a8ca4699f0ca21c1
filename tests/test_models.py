"""The plain U-Net: parameter counts of the literature, any size, and gradient checkpointing that changes nothing."""

import pytest
import torch
from torch import nn

from unet_cli.config import ModelConfig
from unet_cli.errors import UserError
from unet_cli.models import build_model, parameter_count


@pytest.mark.parametrize(("upsampling", "parameters"), [("transposed", 31_037_633), ("bilinear", 17_262_977)])
def test_parameter_count_for_three_channels_and_one_output(upsampling, parameters):
    assert parameter_count(build_model(ModelConfig(upsampling=upsampling))) == parameters


@pytest.mark.parametrize("upsampling", ["transposed", "bilinear"])
@pytest.mark.parametrize("depth", [1, 3])
def test_width_and_depth_scale_the_network(upsampling, depth):
    model = build_model(ModelConfig(base_channels=6, depth=depth, upsampling=upsampling))
    convolutions = [
        module for module in model.modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
    ]
    assert len(convolutions) == 2 * (2 * depth + 1)
    assert convolutions[0].out_channels == 6
    assert max(module.out_channels for module in convolutions) == 6 * 2**depth // (2 if upsampling == "bilinear" else 1)


@pytest.mark.parametrize("upsampling", ["transposed", "bilinear"])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", [(16, 16), (17, 31), (40, 33)])
def test_logits_have_the_size_of_the_image(upsampling, channels, size):
    model = build_model(ModelConfig(in_channels=channels, num_classes=4, base_channels=2, upsampling=upsampling)).eval()
    assert model(torch.randn(2, channels, *size)).shape == (2, 4, *size)


def test_an_image_that_pooling_would_make_vanish_is_refused_by_its_size():
    with pytest.raises(ValueError, match="15x40 pixels.*at least 16"):
        build_model(ModelConfig(base_channels=2)).eval()(torch.randn(1, 3, 40, 15))


def test_an_unknown_network_is_refused_by_name():
    with pytest.raises(UserError, match="no network 'vnet'.*unet"):
        build_model(ModelConfig(name="vnet"))


@pytest.mark.parametrize("upsampling", ["transposed", "bilinear"])
def test_gradient_checkpointing_keeps_gradients_and_running_statistics(upsampling):
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = build_model(ModelConfig(base_channels=4, depth=2, upsampling=upsampling), checkpointing)
        image = torch.randn(2, 3, 22, 20)
        for _ in range(2):  # the second pass sees what the first one did to the statistics
            model(image).square().mean().backward()
        results.append((dict(model.named_buffers()), {name: p.grad for name, p in model.named_parameters()}))
    (buffers, gradients), (other_buffers, other_gradients) = results
    for name, value in buffers.items():
        assert torch.equal(value, other_buffers[name]), name
    for name, value in gradients.items():
        assert torch.equal(value, other_gradients[name]), name


def saved_bytes(checkpointing: bool) -> int:
    """What the forward pass keeps for the backward pass."""
    model = build_model(ModelConfig(base_channels=4, depth=3), checkpointing)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(torch.randn(1, 3, 64, 64)).mean()
    assert loss.requires_grad
    return sum(kept.values())


def test_gradient_checkpointing_uses_less_memory():
    assert saved_bytes(True) < 0.5 * saved_bytes(False)


def test_it_overfits_four_small_pictures():
    from unet_cli.metrics import count_pixels, summarize
    from unet_cli.training.losses import bce_dice

    torch.manual_seed(0)
    model = build_model(ModelConfig(in_channels=1, base_channels=8, depth=2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    image = torch.rand(4, 1, 32, 32)
    mask = (torch.nn.functional.avg_pool2d(image, 5, 1, 2) > 0.5)[:, 0].long()
    for _ in range(60):
        optimizer.zero_grad()
        bce_dice(model(image), mask).backward()
        optimizer.step()
    with torch.no_grad():
        pred = (model(image)[:, 0] > 0).long()
    assert summarize(count_pixels(pred, mask, 2).numpy())["dice"] > 0.95
