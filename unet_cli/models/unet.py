"""The plain U-Net, with padded convolutions and a choice of norms."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unet_cli.models.blocks import DoubleConv, Norm, keep_variance, sees_whole_image
from unet_cli.models.geometry import Geometry, pooled_reach
from unet_cli.models.network import Network


class Up(nn.Module):
    """Double the resolution, pad to the skip, concatenate, convolve twice.

    Transposed: (N, in, h, w) and skip (N, skip, H, W) -> (N, out, H, W); the upsampling halves the channels. Bilinear:
    the upsampling keeps the channels, so the two convolutions reduce them in steps.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, bilinear: bool, norm: Norm) -> None:
        super().__init__()
        self.upsample: nn.Module
        if bilinear:
            # Bilinear upsampling has no weights, so it can't reduce the channels.
            self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            merged = in_channels + skip_channels
            self.convs = DoubleConv(merged, out_channels, norm, merged // 2)
        else:
            self.upsample = nn.ConvTranspose2d(in_channels, in_channels // 2, 2, stride=2)
            self.convs = DoubleConv(in_channels // 2 + skip_channels, out_channels, norm)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.upsample(x)
        dy, dx = skip.shape[-2] - x.shape[-2], skip.shape[-1] - x.shape[-1]
        if dy or dx:  # a side was odd, and pooling dropped its last pixel
            x = F.pad(x, (dx // 2, dx - dx // 2, dy // 2, dy - dy // 2))
        return self.convs(torch.cat([skip, x], dim=1))


class UNet(Network):
    """U-Net with padding, norms and logits of the input's size.

    (N, in_channels, H, W) float -> (N, out_channels, H, W) logits, for H and W of at least 2^depth. Instance norm needs
    twice that, since it maps a single pixel at the bottom to zero.

    Source: Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
    figure 1. It differs in ways that have become common since: convolutions are padded, so nothing is cropped; batch
    norm (or another) replaces the bias; dropout, at the end of the last two encoder levels, is 0 by default. With
    bilinear upsampling the bottleneck and the decoder have half the channels, and corners are aligned.
    """

    encoder_parts = ("stem", "encoder")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        base_channels: int = 64,
        depth: int = 4,
        upsampling: Literal["transposed", "bilinear"] = "transposed",
        norm: Norm = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.depth = depth
        bilinear = upsampling == "bilinear"
        bottom = 2**depth
        # Aligned corners make the sampling positions depend on the side, so tiles differ from the whole everywhere.
        reach = None if bilinear or sees_whole_image(norm) else pooled_reach(depth)
        self.geometry = Geometry(least=2 * bottom if norm == "instance" else bottom, stride=bottom, reach=reach)
        widths = [base_channels * 2**level for level in range(depth + 1)]
        outs = [width // 2 if bilinear else width for width in widths]  # decoder widths, the bottleneck last
        dropouts = [dropout if level >= depth - 1 else 0.0 for level in range(depth + 1)]

        self.stem = DoubleConv(in_channels, widths[0], norm, dropout=dropouts[0])
        self.encoder = nn.ModuleList(
            DoubleConv(
                widths[level - 1], outs[level] if level == depth else widths[level], norm, dropout=dropouts[level]
            )
            for level in range(1, depth + 1)
        )
        self.decoder = nn.ModuleList(
            Up(outs[level + 1], widths[level], outs[level] if level else widths[0], bilinear, norm)
            for level in reversed(range(depth))
        )
        self.head = nn.Conv2d(widths[0], out_channels, 1)
        if norm == "none":  # without norms the initial weights alone keep activations from vanishing
            keep_variance(self)

    def forward(self, image: Tensor) -> Tensor:
        self.geometry.check(image)
        x = self.run(self.stem, image)  # (N, base_channels, H, W)
        skips = []
        for level in self.encoder:
            skips.append(x)
            # Level l: (N, 2^l * base_channels, H / 2^l, W / 2^l), rounded down.
            x = self.run(level, F.max_pool2d(x, 2))
        for level in self.decoder:
            x = self.run(level, x, skips.pop())
        return self.head(x)
