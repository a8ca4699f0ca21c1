"""Pieces that several networks share."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn

from unet_cli.models.geometry import Geometry, pooled_reach

Norm = Literal["batch", "group", "instance", "none"]


def group_norm(channels: int) -> nn.GroupNorm:
    """Up to 8 groups of 2 channels or more, as many as divide them; 8 from 16 channels on if these are a power of 2.

    Source: Wu, He, "Group Normalization", ECCV 2018, which has 32 groups for networks of 64 channels or more.
    """
    return nn.GroupNorm(max(math.gcd(16, channels) // 2, 1), channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": group_norm,
    "instance": partial(nn.InstanceNorm2d, affine=True),
    "none": nn.Identity,
}


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions, each followed by a norm and ReLU: (N, in, H, W) -> (N, out, H, W).

    norm: its name in NORMS; it replaces the bias. dropout: chance that a value of the result is set to zero.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm: Norm,
        mid_channels: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        mid_channels = mid_channels or out_channels
        bias = norm == "none"
        super().__init__(
            nn.Conv2d(in_channels, mid_channels, 3, padding=1, bias=bias),
            NORMS[norm](mid_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(mid_channels, out_channels, 3, padding=1, bias=bias),
            NORMS[norm](out_channels),
            nn.ReLU(inplace=True),
            *([nn.Dropout(dropout)] if dropout else []),
        )


class UnpaddedConvs(nn.Sequential):
    """Two unpadded 3x3 convolutions with bias, each followed by ReLU: (N, in, H, W) -> (N, out, H - 4, W - 4).

    dilation: of the convolutions, which eat that many times as much. dropout: chance that a value of the result is set
    to zero.
    """

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1, dropout: float = 0.0) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, dilation=dilation),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, dilation=dilation),
            nn.ReLU(inplace=True),
            *([nn.Dropout(dropout)] if dropout else []),
        )


class UpConv(nn.Sequential):
    """2x2 up-convolution with bias, and ReLU: (N, in, H, W) -> (N, in / 2, 2H, 2W)."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(nn.ConvTranspose2d(in_channels, in_channels // 2, 2, stride=2), nn.ReLU(inplace=True))


def sees_whole_image(norm: Norm) -> bool:
    """Whether a norm's statistics, in prediction, are of the image at hand: its answer then depends on every pixel."""
    return norm in ("group", "instance")


def pooled_geometry(depth: int, norm: Norm, pixels: int = 4) -> Geometry:
    """Of a U-Net of padded convolutions and 2x2 poolings, whose upsampling wants even sides. pixels: see pooled_reach.

    Instance norm needs a second pixel at the bottom: of a single one nothing would be left.
    """
    bottom = 2**depth
    return Geometry(
        multiple=bottom,
        least=2 * bottom if norm == "instance" else bottom,
        stride=bottom,
        reach=None if sees_whole_image(norm) else pooled_reach(depth, pixels),
    )


class Pointwise(nn.Conv2d):
    """A 1x1 convolution without bias whose stride is taken before it, (N, in, H, W) -> (N, out, ceil(H / stride), ...).

    The result is that of a convolution with this stride, whose backward pass crashes on processors without AVX-512 in
    torch 2.14 (oneDNN, channels last, 4 to 12 channels).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, 1, bias=False)
        self.step = stride

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[..., :: self.step, :: self.step])


def keep_variance(model: nn.Module) -> None:
    """Initial weights that no norm has to put right: each layer's output has the mean square of its input.

    Source: He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", ICCV 2015, section 2.2, for convolutions before a ReLU;
    no ReLU follows a transposed one, each of whose outputs is a sum over its input channels.
    """
    for module in model.modules():
        if isinstance(module, nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=module.in_channels**-0.5)
        elif isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)


def initialise_he(model: nn.Module) -> None:
    """Weights normal of variance 2 / N, N being the number of values that one value of a layer's output sums over;
    biases zero.

    Source: Ronneberger et al. 2015, section 3, after He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", ICCV 2015,
    section 2.2. Each output of a 2x2 up-convolution of stride 2 sums over its input channels only.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            incoming = module.in_channels if isinstance(module, nn.ConvTranspose2d) else module.weight[0].numel()
            nn.init.normal_(module.weight, std=(2 / incoming) ** 0.5)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
