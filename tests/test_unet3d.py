"""The U-Net for volumes: the paper's count of parameters, its widths, and volumes of any size."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from unet_cli.models.fitted import Fitted
from unet_cli.models.unet3d import UNet3d


def with_statistics(model: nn.Module) -> nn.Module:
    """In evaluation mode, with batch norms that change something."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias)
    return model.double().eval()


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
    sides = [4, 4, 4]
    sides[dim - 2] = 112
    volume = torch.randn(1, 1, *sides, dtype=torch.float64)
    with torch.no_grad():
        differences = model(volume).narrow(dim, 32, 48) - model(volume.narrow(dim, 32, 48))
    felt = (differences.movedim(dim, -1).abs().flatten(end_dim=-2).amax(0) > 1e-12).nonzero().flatten()
    assert felt[felt < 24].max() == 21
    assert 48 - felt[felt >= 24].min() <= 22


def test_gradient_checkpointing_keeps_gradients():
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = UNet3d(1, 1, base_channels=2, depth=2)
        model.gradient_checkpointing = checkpointing
        model(torch.randn(2, 1, 8, 8, 12)).square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
