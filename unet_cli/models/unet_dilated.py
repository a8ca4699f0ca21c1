"""U-Nets whose encoder is dilated: one as published, and one whose answer lies over the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unet_cli.models.blocks import UnpaddedConvs, UpConv, initialise_he
from unet_cli.models.geometry import Geometry
from unet_cli.models.network import Network


class _Dilated(Network):
    """The layers of both; weights of one fit the other."""

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
        """The skips, which are what the encoder's levels pool: the last is also what the middle gets."""
        skips = [image]
        for level in self.encoder:
            skips.append(F.max_pool2d(self.run(level, skips[-1]), 2, ceil_mode=True))
        return skips[1:]


class UNetDilatedPublished(_Dilated):
    """The dilated U-Net as published: for whole images only, since its answer is stretched.

    (N, in_channels, H, W) float -> (N, out_channels, H, W) logits, for H and W of at least 233. Raises ValueError at
    smaller ones.

    Skips, taken after pooling, cover the whole image, but unpadded convolutions leave the decoder only its middle: of a
    side of 512 pixels, 122 to 397. Both are laid over each other by resizing, and so is the answer over the image.
    Of a side of 233 it has 4 pixels before that, so small images are better enlarged. UNetDilated doesn't stretch.

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
    """The dilated U-Net with every pixel of the answer over its pixel of the image.

    (N, in_channels, n, m) float -> (N, out_channels, n - 244, m - 244) logits; n and m are 8 more than a multiple of
    16, and at least 248. Raises ValueError at any other side.

    Source: UNetDilatedPublished, with the same layers. It differs in three ways. The published one resizes skips of the
    whole image to the decoder, which covers only the middle, so that features of different places meet, and edges are
    lost; here the part of each skip that the decoder covers is cut out, and doubled. The published one resizes the
    answer for the middle to the whole image; here it stays where it is, and the image is mirrored at its border
    beforehand (see Fitted), as Ronneberger et al. 2015 do, section 2. And sides are such that poolings divide, since
    with a pixel added at one end of a level the decoder would no longer lie in the middle. Tiles and crops are then
    exact, as of any unpadded network.
    """

    # Either end loses 4, 8, 16, 32 pixels in the encoder, 32 in the middle, 16, 8, 4, 2 in the decoder.
    geometry = Geometry(multiple=16, remainder=8, least=248, margin=122, stride=16, reach=0)

    def forward(self, image: Tensor) -> Tensor:
        self.geometry.check(image)
        skips = self.encode(image)
        x = self.run(self.middle, skips[-1])
        for level in self.decoder:
            x = self.run(level, torch.cat([x, _doubled_middle(skips.pop(), x)], dim=1))
        return self.head(x)


def _resized(x: Tensor, like: Tensor) -> Tensor:
    """Its corner pixels become the corner pixels of `like`."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=True)


def _doubled_middle(skip: Tensor, x: Tensor) -> Tensor:
    """The part of a skip, whose pixels are twice as large, over x: (N, C, H, W) -> (N, C, *sides of x).

    A pixel more at either end is doubled with it, so that the interpolation knows the neighbours there as well.
    """
    for dim in (-2, -1):
        side = x.shape[dim] // 2 + 2
        skip = skip.narrow(dim, (skip.shape[dim] - side) // 2, side)
    return F.interpolate(skip, scale_factor=2, mode="bilinear", align_corners=False)[..., 2:-2, 2:-2]
