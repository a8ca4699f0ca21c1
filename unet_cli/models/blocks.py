"""Building blocks that several networks share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from unet_cli.models.geometry import Geometry, pooled_reach

Norm = Literal["batch", "group", "instance", "none"]


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with up to 8 groups of at least 2 channels each, the largest number that divides the channels: 8 for
    powers of 2 from 16 on.

    Source: Wu, He, "Group Normalization", ECCV 2018, which has 32 groups for networks of 64 channels or more.
    """
    return nn.GroupNorm(max(math.gcd(16, channels) // 2, 1), channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": group_norm,
    "instance": partial(nn.InstanceNorm2d, affine=True),
    "none": nn.Identity,
}
# By the number of spatial dimensions.
CONVS: dict[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
UP_CONVS: dict[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX_POOLS: dict[int, Callable[..., Tensor]] = {2: F.max_pool2d, 3: F.max_pool3d}
NORMS_FOR: dict[int, dict[str, Callable[[int], nn.Module]]] = {
    2: NORMS,
    3: NORMS | {"batch": nn.BatchNorm3d, "instance": partial(nn.InstanceNorm3d, affine=True)},
}


def padded_conv(
    in_channels: int, out_channels: int, kernel: Sequence[int], stride: int | Sequence[int] = 1, bias: bool = True
) -> nn.Module:
    """A convolution with padding: (N, in, *spatial) -> (N, out, *ceil(spatial / stride)).

    kernel: odd sides, as many as there are dimensions.
    """
    padding = tuple(side // 2 for side in kernel)
    return CONVS[len(kernel)](in_channels, out_channels, tuple(kernel), stride=stride, padding=padding, bias=bias)


def up_conv(in_channels: int, out_channels: int, stride: Sequence[int], bias: bool = True) -> nn.Module:
    """An up-convolution whose kernel is its stride: (N, in, *spatial) -> (N, out, *spatial * stride)."""
    return UP_CONVS[len(stride)](in_channels, out_channels, tuple(stride), stride=tuple(stride), bias=bias)


def max_pool(x: Tensor, stride: Sequence[int]) -> Tensor:
    """(N, C, *spatial) -> (N, C, *spatial / stride), rounded down."""
    return MAX_POOLS[len(stride)](x, tuple(stride))


def repeated(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Upsampling to the nearest neighbour: (N, C, *spatial) -> (N, C, *spatial * stride)."""
    return F.interpolate(x, scale_factor=[float(factor) for factor in stride], mode="nearest")


def every(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Every stride-th value along each axis: (N, C, *spatial) -> (N, C, *ceil(spatial / stride)).

    Before a 1x1 convolution it gives the result of a strided one, whose backward pass crashes on processors without
    AVX-512 in torch 2.14 (oneDNN, channels last, 4 to 12 channels).
    """
    steps: list[Any] = [slice(None, None, step) for step in stride]
    return x[(..., *steps)]


def kernel_at(level: int, flat: Sequence[int]) -> tuple[int, ...]:
    """Sides of a convolution's kernel at a level, the finest being 0: 1 along axes that are flat there, else 3. flat:
    see ModelConfig."""
    return tuple(1 if level < levels else 3 for levels in flat)


def stride_after(level: int, flat: Sequence[int]) -> tuple[int, ...]:
    """Factors between the resolutions of a level and the next coarser one: 1 along axes that are flat there, else 2."""
    return tuple(1 if level < levels else 2 for levels in flat)


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions, each followed by a norm and ReLU: (N, in, H, W) -> (N, out, H, W).

    norm: name in NORMS; it replaces the bias. dropout: probability that an output value is set to zero.
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
        bias = norm == "none"  # a norm subtracts any bias before it
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

    dilation: dilation of the convolutions, by which the lost margin is multiplied. dropout: probability that an output
    value is set to zero.
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
    """Whether the norm uses statistics of the image in prediction, so that every output depends on every pixel."""
    return norm in ("group", "instance")


def pooled_geometry(depth: int, norm: Norm, pixels: int = 4, flat: Sequence[int] = (0, 0)) -> Geometry:
    """Geometry of a U-Net with padded convolutions and poolings by 2, whose upsampling needs even sides. pixels: see
    pooled_reach. flat: see ModelConfig.

    Instance norm needs a second pixel at the bottom, since it maps a single one to zero: along the axes that are pooled
    from the first level on.
    """
    return Geometry.of_axes(
        [
            Geometry(
                multiple=2 ** (depth - levels),
                least=2 ** (depth - levels) * (2 if norm == "instance" and not levels else 1),
                stride=2 ** (depth - levels),
                reach=None if sees_whole_image(norm) else pooled_reach(depth - levels, pixels),
            )
            for levels in flat
        ]
    )


def keep_variance(model: nn.Module) -> None:
    """Initialise a network without norms: each layer's output has the mean square of its input.

    Source: He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", ICCV 2015, section 2.2, for convolutions before a ReLU;
    no ReLU follows a transposed one, each of whose outputs is a sum over its input channels.
    """
    for module in model.modules():
        if isinstance(module, nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=module.in_channels**-0.5)
        elif isinstance(module, nn.Conv2d | nn.Conv3d) and max(module.kernel_size) == 3:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)


def initialise_he(model: nn.Module) -> None:
    """Initialise with normal weights of variance 2 / N, N being the number of values that an output value sums over,
    and zero biases.

    Source: Ronneberger et al. 2015, section 3, after He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", ICCV 2015,
    section 2.2. Each output of a 2x2 up-convolution of stride 2 sums over its input channels only.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            incoming = module.in_channels if isinstance(module, nn.ConvTranspose2d) else module.weight[0].numel()
            nn.init.normal_(module.weight, std=(2 / incoming) ** 0.5)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
