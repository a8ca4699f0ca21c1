"""The strided U-Net: each of the things that make it one, seen in what it answers."""

import pytest
import torch
from torch import nn

from unet_cli.models.fitted import Fitted
from unet_cli.models.unet_strided import StridedUNet


def small(**settings: object) -> StridedUNet:
    torch.manual_seed(0)
    return StridedUNet(1, 1, **{"base_channels": 2, **settings})


def with_statistics(model: nn.Module) -> nn.Module:
    """In evaluation mode, with batch norms that change something and weights that let the signal through."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias)
    return model.double().eval()


def test_its_parameters_are_those_of_the_published_layers():
    blocks = [(3, 64), (64, 128), (128, 256), (256, 512), (512, 1024), (1024, 512), (512, 256), (256, 128), (128, 64)]
    expected = sum(9 * (a * b + b * b) + 2 * 2 * b for a, b in blocks)
    expected += sum(9 * a * a + 2 * a for a in (64, 128, 256, 512))  # strided convolutions and their norms
    expected += sum(a * a // 2 + a // 2 for a in (1024, 512, 256, 128))  # 1x1 with bias
    expected += 9 * 64 + 1
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in StridedUNet(3, 1).parameters()) == expected == 32_084_545


def test_it_has_no_pooling_and_halves_by_convolutions_that_keep_the_channels():
    modules = list(small().modules())
    strided = [module for module in modules if isinstance(module, nn.Conv2d) and module.stride == (2, 2)]
    assert [(conv.in_channels, conv.out_channels) for conv in strided] == [(2, 2), (4, 4), (8, 8), (16, 16)]
    assert not any("Pool" in type(module).__name__ for module in modules)


def test_borders_are_reflected_so_a_constant_image_stays_constant():
    model = with_statistics(small())
    features = []
    model.head.register_forward_hook(lambda _module, inputs, _output: features.append(inputs[0]))
    model(torch.full((1, 1, 48, 32), 0.7, dtype=torch.float64))
    assert features[0].std(dim=(2, 3)).max() < 1e-12
    assert features[0].abs().max() > 1e-3


def test_upsampling_repeats_pixels_and_halves_the_channels():
    up = small().decoder[0].upsample
    coarse = torch.randn(1, 32, 3, 5)
    fine = up(coarse)
    assert fine.shape == (1, 16, 6, 10)
    repeated = fine[:, :, ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(fine, repeated, atol=1e-5)
    conv = up[1]
    expected = torch.einsum("oi,nihw->nohw", conv.weight[:, :, 0, 0], coarse) + conv.bias[:, None, None]
    assert torch.allclose(fine[:, :, ::2, ::2], expected, atol=1e-5)


def test_dropout_sets_whole_channels_to_zero_about_three_in_ten():
    model = small(base_channels=16)
    kept = []

    def look(_module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        alive = (output != 0).flatten(2)
        assert torch.equal(alive.any(2), alive.all(2))
        kept.append(alive.any(2).flatten())

    for module in model.modules():
        if isinstance(module, nn.Dropout2d):
            module.register_forward_hook(look)
    model(torch.randn(4, 1, 64, 64))
    assert len(kept) == 18
    assert 0.66 < torch.cat(kept).double().mean() < 0.74


def test_negative_values_leak():
    slopes = [module.negative_slope for module in small().modules() if isinstance(module, nn.LeakyReLU)]
    assert slopes == [0.01] * (2 * 9 + 4)
    assert not any(isinstance(module, nn.ReLU) for module in small().modules())


@pytest.mark.parametrize("size", [(16, 32), (40, 32), (33, 48)])
def test_sides_that_are_no_multiple_of_16_or_less_than_32_are_refused(size):
    with pytest.raises(ValueError, match=f"{size[1]}x{size[0]} pixels.*a multiple of 16, and at least 32"):
        small()(torch.randn(1, 1, *size))


@pytest.mark.parametrize(("depth", "least"), [(1, 4), (2, 8), (4, 32)])
def test_the_smallest_side_that_it_asks_for_suffices(depth, least):
    model = small(depth=depth)
    assert model.geometry.side(1) == least
    assert model(torch.randn(1, 1, least, least)).shape == (1, 1, least, least)
    assert Fitted(model)(torch.randn(1, 1, 1, least + 1)).shape == (1, 1, 1, least + 1)


@pytest.mark.parametrize(("depth", "reach"), [(2, 27), (4, 111)])
def test_the_border_is_felt_as_far_as_the_geometry_says(depth, reach):
    model = with_statistics(small(depth=depth, base_channels=4))
    assert model.geometry.reach == reach
    image = torch.randn(1, 1, 32, 640, dtype=torch.float64)
    with torch.no_grad():
        differences = (model(image)[..., 160:480] - model(image[..., 160:480])).abs().amax((0, 1, 2))
    felt = (differences > 1e-12).nonzero().flatten()
    assert felt[felt < 160].max() == reach - 1
    assert 320 - felt[felt >= 160].min() <= reach
