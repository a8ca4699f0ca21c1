"""The U-Net as published in 2015: unpadded, without norms, for overlapping tiles."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unet_cli.models.blocks import UnpaddedConvs, UpConv, initialise_he
from unet_cli.models.geometry import Geometry
from unet_cli.models.network import Network


class Up(nn.Module):
    """Up-convolve, concatenate with the centre crop of the skip, convolve twice.

    (N, in, h, w) and skip (N, in / 2, H, W) -> (N, in / 2, 2h - 4, 2w - 4).
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.upsample = UpConv(in_channels)
        self.convs = UnpaddedConvs(in_channels, in_channels // 2)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.upsample(x)
        # Unpadded convolutions have eaten the border on the way through the levels below, on either side alike.
        for dim in (-2, -1):
            skip = skip.narrow(dim, (skip.shape[dim] - x.shape[dim]) // 2, x.shape[dim])
        return self.convs(torch.cat([skip, x], dim=1))


class UNetPaper(Network):
    """The network of the paper, for any number of channels.

    (N, in_channels, n, m) float -> (N, out_channels, n - 184, m - 184) logits; n and m are 12 more than a multiple of
    16, and at least 188. Other depths need other sides, see geometry. Raises ValueError for any other side.

    Source: Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
    figure 1 and section 3. Dropout "at the end of the contracting path" is after the second convolution of the last
    level, before both its pooling and its skip, and of the bottom, as in the authors' Caffe network, which also has the
    ReLU after each up-convolution. Initial weights are normal of variance 2 / N, N being the number of incoming nodes;
    biases, which the paper doesn't specify, are initially zero.
    """

    encoder_parts = ("encoder", "bottom")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        base_channels: int = 64,
        depth: int = 4,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.geometry = _geometry(depth)
        widths = [base_channels * 2**level for level in range(depth + 1)]
        self.encoder = nn.ModuleList(
            UnpaddedConvs(before, width, dropout=dropout if level == depth else 0.0)
            for level, (before, width) in enumerate(pairwise([in_channels, *widths[:-1]]), start=1)
        )
        self.bottom = UnpaddedConvs(widths[-2], widths[-1], dropout=dropout)
        self.decoder = nn.ModuleList(Up(width) for width in reversed(widths[1:]))
        self.head = nn.Conv2d(base_channels, out_channels, 1)
        initialise_he(self)

    def forward(self, image: Tensor) -> Tensor:
        self.geometry.check(image)
        x, skips = image, []
        for level in self.encoder:
            # Level l: (N, 2^l * base_channels, side / 2 - 4 of the level above).
            skips.append(self.run(level, x))
            x = F.max_pool2d(skips[-1], 2)
        x = self.run(self.bottom, x)
        for level in self.decoder:
            x = self.run(level, x, skips.pop())
        return self.head(x)


def _geometry(depth: int) -> Geometry:
    """The geometry: two 3x3 convolutions lose 2 pixels of their level at either end, in encoder, bottleneck and
    decoder.

    Poolings need even sides after the convolutions of their level, so input sides are -4 modulo 2^depth, and output
    sides 4.
    """
    bottom = 2**depth
    margin = 2 * (bottom - 1) + 2 * bottom + 2 * (bottom - 1)
    least = 2 * margin + min(bottom, 4)
    return Geometry(multiple=bottom, remainder=-4 % bottom, least=least, margin=margin, stride=bottom, reach=0)
