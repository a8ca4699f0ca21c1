"""U-Nets with a dilated encoder: one as published, and one whose output is aligned with the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unet_cli.models.blocks import UnpaddedConvs, UpConv, initialise_he
from unet_cli.models.geometry import Geometry
from unet_cli.models.network import Network


class _Dilated(Network):
    """The layers of both networks, whose weights are interchangeable."""

    encoder_parts = ("encoder", "middle.0")

    def __init__(self, in_channels: int, out_channels: int, *, base_channels: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        first, second, third, fourth, fifth = (base_channels * 2**level for level in range(5))
        self.encoder = nn.ModuleList(
            [
                UnpaddedConvs(in_channels, first, dilation=2),
                UnpaddedConvs(first, second, dilation=2),
                UnpaddedConvs(second, third, dilation=2),
                UnpaddedConvs(third, fourth, dilation=2, dropout=dropout),
            ]
        )
        self.middle = nn.Sequential(UnpaddedConvs(fourth, fifth, dropout=dropout), UpConv(fifth))
        self.decoder = nn.ModuleList(
            [
                nn.Sequential(UnpaddedConvs(fifth, fourth), UpConv(fourth)),
                nn.Sequential(UnpaddedConvs(fourth, third), UpConv(third)),
                nn.Sequential(UnpaddedConvs(third, second), UpConv(second)),
                UnpaddedConvs(second, first),
            ]
        )
        self.head = nn.Conv2d(first, out_channels, 1)
        initialise_he(self)

    def encode(self, image: Tensor) -> list[Tensor]:
        """The skips, which are the pooled outputs of the encoder levels; the last is the bottleneck's input too."""
        skips = [image]
        for level in self.encoder:
            # Rounded up as in the published network; UNetDilated's sides are even, so there it makes no difference.
            skips.append(F.max_pool2d(self.run(level, skips[-1]), 2, ceil_mode=True))
        return skips[1:]


class UNetDilatedPublished(_Dilated):
    """The dilated U-Net as published: for whole images only, since its output is stretched.

    (N, in_channels, H, W) float -> (N, out_channels, H, W) logits, for H and W of at least 233. Raises ValueError for
    smaller ones.

    Skips, taken after pooling, cover the whole image, but unpadded convolutions leave only the centre to the decoder:
    for a side of 512 pixels, 122 to 397. Skips are resized to the decoder's features, and the output to the image. For
    a side of 233 the output has 4 pixels before that, so small images should be enlarged. UNetDilated doesn't stretch.

    Source: the UNet of the repository bodokaiser/piwise, piwise/network.py (2017), after Ronneberger et al. 2015: the
    convolutions of the encoder are dilated by 2. Initial weights are as in UNetPaper.
    """

    only_whole = True
    geometry = Geometry(least=233)

    def forward(self, image: Tensor) -> Tensor:
        self.geometry.check(image)
        skips = self.encode(image)
        x = self.run(self.middle, skips[-1])
        for level in self.decoder:
            x = self.run(level, torch.cat([x, _resized(skips.pop(), x)], dim=1))
        return _resized(self.head(x), image)


class UNetDilated(_Dilated):
    """The dilated U-Net with an output that is aligned with the image, pixel by pixel.

    (N, in_channels, n, m) float -> (N, out_channels, n - 244, m - 244) logits; n and m are 8 more than a multiple of
    16, and at least 248. Raises ValueError for any other side.

    Source: UNetDilatedPublished, with the same layers. It differs in three ways. The published one resizes skips of the
    whole image to the decoder, which covers only the centre, so features of different positions are combined and edges
    are lost; here the part of each skip that the decoder covers is cropped and upsampled by 2. The published one
    resizes the output for the centre to the whole image; here it keeps its position, and the image is padded by
    reflection (see Fitted), as in Ronneberger et al. 2015, section 2. And sides are divisible by the poolings, since
    with a pixel added at one end of a level the decoder would not be centred. Tiles and crops are then exact, as for
    any unpadded network.
    """

    # Either end loses 4, 8, 16, 32 pixels in the encoder, 32 in the bottleneck, 16, 8, 4, 2 in the decoder.
    geometry = Geometry(multiple=16, remainder=8, least=248, margin=122, stride=16, reach=0)

    def forward(self, image: Tensor) -> Tensor:
        self.geometry.check(image)
        skips = self.encode(image)
        x = self.run(self.middle, skips[-1])
        for level in self.decoder:
            x = self.run(level, torch.cat([x, _upsampled_center(skips.pop(), x)], dim=1))
        return self.head(x)


def _resized(x: Tensor, like: Tensor) -> Tensor:
    """x, resized to the spatial sides of `like` with aligned corners."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=True)


def _upsampled_center(skip: Tensor, x: Tensor) -> Tensor:
    """The part of a skip, at half the resolution, that x covers, upsampled by 2: (N, C, H, W) -> (N, C, *sides of x).

    The crop has one pixel more at either end, so that the interpolation at the border uses the true neighbours.
    """
    for dim in (-2, -1):
        side = x.shape[dim] // 2 + 2
        skip = skip.narrow(dim, (skip.shape[dim] - side) // 2, side)
    return F.interpolate(skip, scale_factor=2, mode="bilinear", align_corners=False)[..., 2:-2, 2:-2]
