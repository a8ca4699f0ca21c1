"""The U-Net with strided convolutions, reflection padding and channel dropout."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unet_cli.models.geometry import Geometry
from unet_cli.models.network import Network


def _conv(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, padding_mode="reflect", bias=False)


class ReflectedConvs(nn.Sequential):
    """Two 3x3 convolutions, each followed by batch norm, dropout and LeakyReLU: (N, in, H, W) -> (N, out, H, W).

    Padding is by reflection. dropout: probability that a channel of an image is set to zero.
    """

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__(
            _conv(in_channels, out_channels),
            nn.BatchNorm2d(out_channels),
            nn.Dropout2d(dropout),
            nn.LeakyReLU(inplace=True),
            _conv(out_channels, out_channels),
            nn.BatchNorm2d(out_channels),
            nn.Dropout2d(dropout),
            nn.LeakyReLU(inplace=True),
        )


class Down(nn.Sequential):
    """Halve the resolution by a strided convolution, then convolve twice: (N, in, H, W) -> (N, out, H / 2, W / 2)."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__(
            _conv(in_channels, in_channels, stride=2),
            nn.BatchNorm2d(in_channels),
            nn.LeakyReLU(inplace=True),
            ReflectedConvs(in_channels, out_channels, dropout),
        )


class Up(nn.Module):
    """Double the resolution, halve the channels, concatenate the skip, convolve twice.

    (N, in, H / 2, W / 2) and skip (N, in / 2, H, W) -> (N, in / 2, H, W).
    """

    def __init__(self, in_channels: int, dropout: float) -> None:
        super().__init__()
        self.upsample = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(in_channels, in_channels // 2, 1)
        )
        self.convs = ReflectedConvs(in_channels, in_channels // 2, dropout)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.convs(torch.cat([self.upsample(x), skip], dim=1))


class StridedUNet(Network):
    """U-Net with strided convolutions for pooling, and reflection padding.

    (N, in_channels, H, W) float -> (N, out_channels, H, W) logits, for H and W that are multiples of 2^depth and at
    least twice that, since reflection needs a second pixel at the bottom. Other sides raise ValueError. dropout:
    probability that a channel is set to zero, after each batch norm except those of the strided convolutions.

    Source: `net.py` of qiaofengsheng/pytorch-UNet, with widths 64 to 1024, after Ronneberger, Fischer, Brox, "U-Net",
    MICCAI 2015, figure 1. As there, the head is a 3x3 convolution with zero padding.
    """

    encoder_parts = ("stem", "encoder")

    def __init__(
        self, in_channels: int, out_channels: int, *, base_channels: int = 64, depth: int = 4, dropout: float = 0.3
    ) -> None:
        super().__init__()
        bottom = 2**depth
        self.geometry = Geometry(multiple=bottom, least=2 * bottom, stride=bottom, reach=_reach(depth))
        widths = [base_channels * 2**level for level in range(depth + 1)]
        self.stem = ReflectedConvs(in_channels, base_channels, dropout)
        self.encoder = nn.ModuleList(Down(width, 2 * width, dropout) for width in widths[:-1])
        self.decoder = nn.ModuleList(Up(width, dropout) for width in reversed(widths[1:]))
        self.head = nn.Conv2d(base_channels, out_channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        self.geometry.check(image)
        x = self.run(self.stem, image)
        skips = []
        for level in self.encoder:
            skips.append(x)
            x = self.run(level, x)  # level l: (N, 2^l * base_channels, H / 2^l, W / 2^l)
        for level in self.decoder:
            x = self.run(level, x, skips.pop())
        return self.head(x)


def _reach(depth: int) -> int:
    """The `reach`. If padding influences e pixels at the border, a strided convolution makes that (e + 1) / 2, rounded
    up, and two convolutions add 2: at most 5 at the bottom. Each decoder level makes it 2e + 2, and the head adds 1."""
    return 7 * 2**depth - 1
