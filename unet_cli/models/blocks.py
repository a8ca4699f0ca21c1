"""Pieces that several networks share."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import nn

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


def sees_whole_image(norm: Norm) -> bool:
    """Whether a norm's statistics, in prediction, are of the image at hand: its answer then depends on every pixel."""
    return norm in ("group", "instance")


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
