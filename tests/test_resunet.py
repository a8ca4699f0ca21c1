"""The residual U-Net: table 1 of its paper, read off the network, and the equation of its units."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unet_cli.models.resunet import ResidualUnit, ResUNet


def with_statistics(model: nn.Module) -> nn.Module:
    """In evaluation mode, with batch norms that change something."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias)
    return model.double().eval()


def test_its_convolutions_are_those_of_table_1():
    rows: list[tuple[tuple[int, ...], int, tuple[int, ...]]] = []

    def note(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        rows.append((module.kernel_size, module.stride[0], tuple(output.shape[1:])))

    model = ResUNet(3, 1, base_channels=1).eval()  # a 64th of the width
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and "shortcut" not in name:
            module.register_forward_hook(note)
    with torch.no_grad():
        model(torch.randn(1, 3, 224, 224))
    sizes = [(64, 224), (128, 112), (256, 56), (512, 28), (256, 56), (128, 112), (64, 224)]
    table = [((3, 3), 1, (width // 64, side, side)) for width, side in sizes for _ in range(2)]
    table[2], table[4], table[6] = (((3, 3), 2, row[2]) for row in (table[2], table[4], table[6]))
    assert rows == [*table, ((1, 1), 1, (1, 224, 224))]


def test_the_weights_of_table_1_are_the_7_8_million_parameters_of_the_paper():
    with torch.device("meta"):
        model = ResUNet(3, 1)
    convs = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    weights = {name: conv.weight.numel() for name, conv in convs.items()}
    assert sum(count for name, count in weights.items() if "shortcut" not in name) == 7_780_096
    assert sum(count for name, count in weights.items() if "shortcut" in name) == 430_272
    assert [name for name, conv in convs.items() if conv.bias is not None] == ["head"]
    norms = [module.num_features for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 13  # two a unit, but one in the first
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total == 7_780_096 + 430_272 + 2 * sum(norms) + 1 == 8_216_769


@pytest.mark.parametrize(("in_channels", "stride"), [(4, 1), (3, 1), (4, 2), (3, 2)])
def test_a_unit_is_the_sum_of_two_pre_activated_convolutions_and_a_raw_shortcut(in_channels, stride):
    torch.manual_seed(0)
    unit = with_statistics(ResidualUnit(in_channels, 4, stride=(stride, stride)))
    x = torch.randn(2, in_channels, 6, 8, dtype=torch.float64)
    before = x.clone()

    def normed(norm: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return (x - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]

    first, _, conv1, second, _, conv2 = unit.residual
    residual = F.conv2d(normed(first, x).clamp(min=0), conv1.weight, stride=stride, padding=1)
    residual = F.conv2d(normed(second, residual).clamp(min=0), conv2.weight, padding=1)
    if (in_channels, stride) == (4, 1):
        assert list(unit.shortcut.parameters()) == []
        shortcut = x
    else:
        shortcut = torch.einsum("oi,nihw->nohw", unit.shortcut.weight[:, :, 0, 0], x[:, :, ::stride, ::stride])
    assert torch.allclose(unit(x), residual + shortcut)
    assert torch.equal(x, before)


def test_the_first_unit_begins_with_its_convolution_and_the_others_with_a_norm():
    model = ResUNet(1, 1, base_channels=2)
    units = [module for module in model.modules() if isinstance(module, ResidualUnit)]
    kinds = [type(unit.residual[0]) for unit in units]
    assert kinds == [nn.Conv2d] + [nn.BatchNorm2d] * 6


@pytest.mark.parametrize("size", [(8, 12), (31, 8)])
def test_sides_that_are_no_multiple_of_8_are_refused(size):
    with pytest.raises(ValueError, match=f"{size[1]}x{size[0]} pixels.*a multiple of 8"):
        ResUNet(1, 1, base_channels=2)(torch.randn(1, 1, *size))


@pytest.mark.parametrize(("depth", "reach"), [(1, 8), (3, 38)])
def test_the_border_is_felt_as_far_as_the_geometry_says(depth, reach):
    torch.manual_seed(0)
    model = with_statistics(ResUNet(1, 1, base_channels=8, depth=depth))
    assert model.geometry.reach == reach
    image = torch.randn(1, 1, 64, 320, dtype=torch.float64)
    with torch.no_grad():
        differences = (model(image)[..., 80:240] - model(image[..., 80:240])).abs().amax((0, 1, 2))
    felt = (differences > 1e-12).nonzero().flatten()
    assert felt[felt < 80].max() == reach - 1
    assert 160 - felt[felt >= 80].min() <= reach


@pytest.mark.parametrize("side", [8, 9])
def test_a_shortcut_subsamples_before_it_convolves_and_is_what_a_stride_gives(side):
    unit = ResidualUnit(4, 8, stride=(2, 2)).eval()
    nn.init.zeros_(unit.residual[-1].weight)
    x = torch.randn(2, 4, side, side)
    torch.testing.assert_close(unit(x), F.conv2d(x, unit.shortcut.weight, stride=2))
    assert unit.shortcut.stride == (1, 1)
