"""The plain U-Net: parameter counts of the literature, any size and norm, checkpointing that changes nothing."""

import pytest
import torch
from torch import nn

from unet_cli.config.model import ModelConfig
from unet_cli.errors import UserError
from unet_cli.models import build_model, parameter_count
from unet_cli.models.blocks import NORMS, group_norm
from unet_cli.models.fold import fold_batch_norm
from unet_cli.training.losses.loss import loss_for


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
@pytest.mark.parametrize(("channels", "size"), [(1, (16, 16)), (5, (17, 31))])
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


@pytest.mark.parametrize("norm", NORMS)
def test_gradient_checkpointing_can_be_switched_on_between_steps(norm):
    model = build_model(ModelConfig(base_channels=4, depth=2, norm=norm))
    image = torch.randn(2, 3, 22, 20)
    gradients = []
    for checkpointing in (False, True):
        model.gradient_checkpointing = checkpointing
        model.zero_grad()
        model(image).square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


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


@pytest.mark.parametrize(("norm", "depth", "lr"), [("batch", 2, 1e-2), ("group", 2, 1e-2), ("none", 4, 5e-3)])
def test_it_overfits_four_small_pictures(norm, depth, lr):
    from counting import count_pixels

    from unet_cli.metrics.overlap import summarize

    torch.manual_seed(0)
    model = build_model(ModelConfig(in_channels=1, base_channels=8, depth=depth, norm=norm))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    image = (torch.rand(4, 1, 32, 32) - 0.5) / 0.29
    mask = (torch.nn.functional.avg_pool2d(image, 5, 1, 2) > 0)[:, 0].long()
    loss = loss_for("bce+dice", 2)
    for _ in range(60):
        optimizer.zero_grad()
        loss(model(image), mask).backward()
        optimizer.step()
    with torch.no_grad():
        pred = (model(image)[:, 0] > 0).long()
    assert summarize(count_pixels(pred, mask, 2))["dice"] > 0.95


def test_batch_norm_is_the_default_and_replaces_the_bias():
    names = list(build_model(ModelConfig(base_channels=2, depth=1)).state_dict())
    assert names[:7] == [f"stem.{name}" for name in (
        "0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked", "3.weight",
    )]  # fmt: skip
    without = build_model(ModelConfig(base_channels=2, depth=1, norm="none")).state_dict()
    assert list(without)[:4] == ["stem.0.weight", "stem.0.bias", "stem.3.weight", "stem.3.bias"]


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (2, 1), (4, 2), (6, 1), (8, 4), (12, 2), (16, 8), (32, 8), (48, 8), (512, 8)]
)
def test_groups_have_two_channels_or_more(channels, groups):
    assert group_norm(channels).num_groups == groups


@pytest.mark.parametrize("norm", ["group", "instance"])
def test_norms_over_an_image_see_all_of_it_and_nothing_of_the_other_images(norm):
    torch.manual_seed(0)
    model = build_model(ModelConfig(base_channels=4, depth=1, norm=norm))
    assert model.geometry.reach is None
    image = torch.randn(2, 3, 64, 64)
    alone = model(image[:1])
    assert torch.allclose(alone, model(image)[:1], atol=1e-5)
    image[0, :, -1, -1] += 100
    assert (model(image[:1])[0, 0, :8, :8] - alone[0, 0, :8, :8]).abs().max() > 1e-3


def test_without_norm_only_the_padding_is_felt():
    assert build_model(ModelConfig(base_channels=2, norm="none")).geometry == (
        build_model(ModelConfig(base_channels=2)).geometry
    )


def test_instance_norm_asks_for_more_than_a_pixel_at_the_bottom():
    model = build_model(ModelConfig(base_channels=2, norm="instance"))
    side = model.geometry.side(1)
    assert model(torch.randn(1, 3, side, side)).shape == (1, 1, side, side)
    with pytest.raises(ValueError, match="at least 32"):
        model(torch.randn(1, 3, 31, 40))


@pytest.mark.parametrize("upsampling", ["transposed", "bilinear"])
def test_without_norm_the_initial_weights_keep_the_signal_through_all_levels(upsampling):
    torch.manual_seed(0)
    model = build_model(ModelConfig(base_channels=16, norm="none", upsampling=upsampling))
    squares = []
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _module, _inputs, output: squares.append(output.square().mean().item()))
    with torch.no_grad():
        model(torch.randn(2, 3, 64, 64))
    assert len(squares) == 18
    assert all(0.1 < square < 10 for square in squares)


@pytest.mark.parametrize("norm", NORMS)
def test_folding_keeps_the_answer_of_every_norm(norm):
    torch.manual_seed(0)
    model = build_model(ModelConfig(base_channels=4, depth=2, norm=norm))
    image = torch.randn(2, 3, 32, 32)
    model(image)  # moves the running statistics away from 0 and 1
    with torch.no_grad():
        assert torch.allclose(fold_batch_norm(model)(image), model.eval()(image), atol=1e-5)
