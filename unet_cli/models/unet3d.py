"""The 3D U-Net, for volumes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unet_cli.models.geometry import Geometry
from unet_cli.models.network import Network


class DoubleConv3d(nn.Sequential):
    """Two 3x3x3 convolutions, each followed by batch norm and ReLU: (N, in, D, H, W) -> (N, out, D, H, W)."""

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv3d(in_channels, mid_channels, 3, padding=1, bias=False),
            nn.BatchNorm3d(mid_channels),
            nn.ReLU(inplace=True),
            nn.Conv3d(mid_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm3d(out_channels),
            nn.ReLU(inplace=True),
        )


class Up(nn.Module):
    """Double the resolution, keep the channels, concatenate the skip, convolve twice.

    (N, in, D / 2, H / 2, W / 2) and skip (N, skip, D, H, W) -> (N, skip, D, H, W).
    """

    def __init__(self, in_channels: int, skip_channels: int) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose3d(in_channels, in_channels, 2, stride=2, bias=False)
        self.convs = DoubleConv3d(in_channels + skip_channels, skip_channels, skip_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.convs(torch.cat([self.upsample(x), skip], dim=1))


class UNet3d(Network):
    """U-Net for volumes: (N, in_channels, D, H, W) float -> (N, out_channels, D, H, W) logits.

    D, H and W are multiples of 2^depth; others raise ValueError. base_channels: width of the first convolution; the
    second of each level of the encoder doubles it, before the pooling.

    Source: Çiçek, Abdulkadir, Lienkamp, Brox, Ronneberger, "3D U-Net: Learning Dense Volumetric Segmentation from
    Sparse Annotation", MICCAI 2016, section 2 and figure 2. It differs in that convolutions are padded: the paper's
    lose 44 voxels at either end, so its input has sides of at least 92. And they have no bias, which batch norm
    replaces: the paper's 19,069,955 parameters for 3 channels and 3 labels include 2336 biases and no batch norm, ours
    are 19,072,291. In both the up-convolutions have no bias.
    """

    spatial_dims = 3

    def __init__(self, in_channels: int, out_channels: int, *, base_channels: int = 32, depth: int = 3) -> None:
        super().__init__()
        bottom = 2**depth
        self.geometry = Geometry(multiple=bottom, least=bottom, stride=bottom, reach=_reach(depth))
        # Channels double before a pooling rather than after it, to avoid bottlenecks (section 2 of the paper).
        widths = [2 * base_channels * 2**level for level in range(depth + 1)]
        self.stem = DoubleConv3d(in_channels, base_channels, widths[0])
        self.encoder = nn.ModuleList(DoubleConv3d(width, width, 2 * width) for width in widths[:-1])
        self.decoder = nn.ModuleList(Up(2 * width, width) for width in reversed(widths[:-1]))
        self.head = nn.Conv3d(widths[0], out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        self.geometry.check(image)
        x = self.run(self.stem, image)
        skips = []
        for level in self.encoder:
            skips.append(x)
            # Level l: (N, 2^(l + 1) * base_channels, D / 2^l, H / 2^l, W / 2^l).
            x = self.run(level, F.max_pool3d(x, 2))
        for level in self.decoder:
            x = self.run(level, x, skips.pop())
        return self.head(x)


def _reach(depth: int) -> int:
    """The `reach`. If padding influences e voxels at the border, pooling makes that e / 2, rounded up, and two
    convolutions add 2: at most 4 at the bottom. Each decoder level makes it 2e + 2."""
    return 6 * 2**depth - 2
