"""The U-Net for volumes: the paper's count of parameters, its widths, volumes of any size, axes of longer voxels."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from volumes import with_statistics

from unet_cli.config.base import plain
from unet_cli.config.model import ModelConfig
from unet_cli.errors import UserError
from unet_cli.models import build_model, flat_for, resolved, weightless
from unet_cli.models.fitted import Fitted
from unet_cli.models.unet3d import UNet3d
from unet_cli.system.schema import parsed


def felt(model: nn.Module, dim: int) -> torch.Tensor:
    """Places along an axis of a part of a volume, of 48, whose output depends on where the part ends."""
    sides = [4, 4, 4]
    sides[dim - 2] = 112
    volume = torch.randn(1, 1, *sides, dtype=torch.float64)
    with torch.no_grad():
        differences = model(volume).narrow(dim, 32, 48) - model(volume.narrow(dim, 32, 48))
    return (differences.movedim(dim, -1).abs().flatten(end_dim=-2).amax(0) > 1e-12).nonzero().flatten()


def test_parameters_for_three_channels_and_three_labels():
    with torch.device("meta"):
        model = UNet3d(3, 3)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == 19_072_291
    norms = [module.num_features for module in model.modules() if isinstance(module, nn.BatchNorm3d)]
    assert count - 2 * sum(norms) + sum(norms) == 19_069_955  # the paper: no norms, but a bias for each
    biased = [name for name, _ in model.named_parameters() if name.endswith("bias") and name != "head.bias"]
    assert len(biased) == len(norms) == 14


def test_channels_double_before_pooling_and_up_convolutions_keep_theirs():
    with torch.device("meta"):
        model = UNet3d(3, 3)
    convs = [module for module in model.modules() if isinstance(module, nn.Conv3d)]
    assert [(conv.in_channels, conv.out_channels) for conv in convs] == [
        (3, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512),
        (256 + 512, 256), (256, 256), (128 + 256, 128), (128, 128), (64 + 128, 64), (64, 64), (64, 3),
    ]  # fmt: skip
    ups = [module for module in model.modules() if isinstance(module, nn.ConvTranspose3d)]
    assert [(up.in_channels, up.out_channels) for up in ups] == [(512, 512), (256, 256), (128, 128)]


@pytest.mark.parametrize(("channels", "size"), [(1, (1, 9, 17)), (3, (7, 24, 5))])
def test_logits_have_the_size_of_the_volume(channels, size):
    model = Fitted(UNet3d(channels, 4, base_channels=2)).eval()
    assert model(torch.randn(2, channels, *size)).shape == (2, 4, *size)


def test_a_volume_of_odd_sides_goes_on_mirrored_at_their_ends():
    torch.manual_seed(0)
    network = with_statistics(UNet3d(1, 2, base_channels=2))
    volume = torch.randn(1, 1, 9, 13, 21, dtype=torch.float64)
    mirrored = F.pad(volume, (0, 3, 0, 3, 0, 7), mode="reflect")
    assert mirrored.shape[2:] == (16, 16, 24)
    assert torch.equal(Fitted(network)(volume), network(mirrored)[:, :, :9, :13, :21])


def test_sides_that_are_no_multiple_of_8_are_refused():
    with pytest.raises(ValueError, match="12x16x8 pixels.*a multiple of 8"):
        UNet3d(1, 1, base_channels=2)(torch.randn(1, 1, 8, 16, 12))


@pytest.mark.parametrize("dim", [2, 3, 4])
def test_the_border_is_felt_as_far_as_the_geometry_says(dim):
    torch.manual_seed(0)
    model = with_statistics(UNet3d(1, 1, base_channels=4, depth=2))
    assert model.geometry.reach == 22
    places = felt(model, dim)
    assert places[places < 24].max() == 21
    assert 48 - places[places >= 24].min() <= 22


def test_gradient_checkpointing_keeps_gradients():
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = UNet3d(1, 1, base_channels=2, depth=2)
        model.gradient_checkpointing = checkpointing
        model(torch.randn(2, 1, 8, 8, 12)).square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("spacing", "flat"),
    [
        ((1, 1, 1), (0, 0, 0)),
        ((0.5, 0.7, 0.9), (0, 0, 0)),
        ((2, 1, 1), (0, 0, 0)),  # within a factor of 2
        ((2.0001, 1, 1), (0, 0, 0)),  # the length of a vector
        ((2.1, 1, 1), (1, 0, 0)),
        ((4, 1, 1), (1, 0, 0)),
        ((10, 1.5, 1.5), (2, 0, 0)),
        ((1, 1, 5), (0, 0, 2)),
        ((1, 3, 3), (0, 1, 1)),
        ((1000, 1, 1), (4, 0, 0)),  # no more than there are levels
    ],
)
def test_an_axis_is_left_as_it_is_until_spacings_are_within_a_factor_of_two(spacing, flat):
    assert flat_for(spacing, 4) == flat


def test_flat_levels_have_kernels_of_one_voxel_along_the_axis_and_are_not_pooled_along_it():
    model = UNet3d(1, 2, base_channels=2, depth=3, flat=(2, 0, 1))
    blocks = [model.stem, *model.encoder]
    assert [block[0].kernel_size for block in blocks] == [(1, 3, 1), (1, 3, 3), (3, 3, 3), (3, 3, 3)]
    assert [block[3].padding for block in blocks] == [(0, 1, 0), (0, 1, 1), (1, 1, 1), (1, 1, 1)]
    assert [up.upsample.stride for up in model.decoder] == [(2, 2, 2), (1, 2, 2), (1, 2, 1)]
    assert [up.upsample.kernel_size for up in model.decoder] == [(2, 2, 2), (1, 2, 2), (1, 2, 1)]
    assert [up.convs[0].kernel_size for up in model.decoder] == [(3, 3, 3), (1, 3, 3), (1, 3, 1)]
    assert [(one.multiple, one.least, one.stride) for one in map(model.geometry.along, range(3))] == [
        (2, 2, 2), (8, 8, 8), (4, 4, 4)
    ]  # fmt: skip
    assert model(torch.randn(1, 1, 2, 16, 4)).shape == (1, 2, 2, 16, 4)


def test_without_flat_levels_it_is_what_it_was():
    with torch.device("meta"):
        plain, spelled = UNet3d(1, 1), UNet3d(1, 1, flat=(0, 0, 0))
    assert plain.geometry == spelled.geometry
    assert plain.geometry.along(0) is plain.geometry
    shapes = [{name: value.shape for name, value in one.state_dict().items()} for one in (plain, spelled)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("slices", [2, 5, 10])
def test_a_volume_of_few_slices_is_padded_by_as_many_as_its_axis_needs(slices):
    torch.manual_seed(0)
    network = with_statistics(UNet3d(1, 2, base_channels=2, flat=(2, 0, 0)))
    volume = torch.randn(1, 1, slices, 13, 8, dtype=torch.float64)
    padded = F.pad(volume, (0, 0, 0, 3, 0, slices % 2), mode="reflect")
    assert torch.equal(Fitted(network)(volume), network(padded)[:, :, :slices, :13])


def test_of_a_side_that_does_not_suit_a_flat_network_the_axis_is_named():
    network = UNet3d(1, 1, base_channels=2, flat=(1, 0, 0))
    with pytest.raises(ValueError, match="8x16x6 pixels.*: its depth has to be a multiple of 4, and at least 4$"):
        network(torch.randn(1, 1, 6, 16, 8))
    with pytest.raises(ValueError, match="its height has to be a multiple of 8.* and its width has to be a multiple"):
        network(torch.randn(1, 1, 4, 12, 4))


@pytest.mark.parametrize(("dim", "reach"), [(2, 10), (3, 22), (4, 4)])
def test_with_flat_levels_the_border_is_felt_as_far_as_the_axis_says(dim, reach):
    torch.manual_seed(0)
    model = with_statistics(UNet3d(1, 1, base_channels=4, depth=2, flat=(1, 0, 2)))
    assert model.geometry.along(dim - 2).reach == reach
    places = felt(model, dim)
    assert 0 < places[places < 24].max() < reach
    assert 48 - places[places >= 24].min() <= reach


@pytest.mark.parametrize("dim", [2, 3, 4])
def test_moved_by_the_stride_along_an_axis_the_answer_moves_with_the_volume(dim):
    torch.manual_seed(0)
    model = with_statistics(UNet3d(1, 1, base_channels=2, depth=2, flat=(2, 0, 1)))
    axis = model.geometry.along(dim - 2)
    sides = [8, 8, 8]
    sides[dim - 2] = 64
    volume = torch.randn(1, 1, *sides, dtype=torch.float64)
    length = 64 - axis.multiple  # of both parts, a stride apart
    with torch.no_grad():
        start = model(volume.narrow(dim, 0, length)).narrow(dim, axis.stride, length - axis.stride)
        moved = model(volume.narrow(dim, axis.stride, length)).narrow(dim, 0, length - axis.stride)
    inside = slice(axis.reach, length - axis.stride - axis.reach)
    assert torch.allclose(start.movedim(dim, -1)[..., inside], moved.movedim(dim, -1)[..., inside], atol=1e-12)


@pytest.mark.parametrize("flat", [(1, 0), (0, 0, 0, 0), (-1, 0, 0), (4, 0, 0), (1, 1, 1)])
def test_flat_levels_that_cannot_be_are_refused(flat):
    with pytest.raises(UserError, match="flat is .*three numbers of levels, 0 to 3, and 0 along one axis at least"):
        ModelConfig(name="unet3d", flat=flat, depth=3)
    with pytest.raises(UserError, match="flat is"):  # beyond the usual depth, too
        build_model(ModelConfig(name="unet3d", flat=flat))
    with pytest.raises(UserError, match="flat is"):
        resolved(ModelConfig(name="unet3d", flat=flat), 64)


def test_a_stored_network_with_flat_levels_is_built_again_and_one_of_before_has_none():
    config = resolved(ModelConfig(name="unet3d", base_channels=2, depth=2, flat=(1, 0, 0)), 64)
    assert config.describe() == "unet3d, width 2, depth 2, 1 flat level along D"
    again = parsed(ModelConfig, plain(config))
    assert again == config
    shapes = [{name: value.shape for name, value in weightless(one).state_dict().items()} for one in (config, again)]
    assert shapes[0] == shapes[1]
    assert shapes[0]["stem.0.weight"] == (2, 3, 1, 3, 3)
    older = {name: value for name, value in plain(config).items() if name != "flat"}
    assert weightless(parsed(ModelConfig, older)).state_dict()["stem.0.weight"].shape == (2, 3, 3, 3, 3)
    assert resolved(parsed(ModelConfig, older), 64).flat == (0, 0, 0)


def test_a_network_for_images_has_no_flat_levels():
    assert resolved(ModelConfig(name="unet"), 64).flat is None
    with pytest.raises(UserError, match="flat levels don't apply to unet.*such as unet3d"):
        resolved(ModelConfig(name="unet", flat=(1, 0, 0)), 64)
