"""The 3D U-Net, for volumes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unet_cli.models.blocks import kernel_at, padded_conv, stride_after, up_conv
from unet_cli.models.geometry import Geometry
from unet_cli.models.network import Network


class DoubleConv3d(nn.Sequential):
    """Two convolutions, each followed by batch norm and ReLU: (N, in, D, H, W) -> (N, out, D, H, W).

    kernel: odd sides of the convolutions.
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, kernel: tuple[int, ...]) -> None:
        super().__init__(
            padded_conv(in_channels, mid_channels, kernel, bias=False),
            nn.BatchNorm3d(mid_channels),
            nn.ReLU(inplace=True),
            padded_conv(mid_channels, out_channels, kernel, bias=False),
            nn.BatchNorm3d(out_channels),
            nn.ReLU(inplace=True),
        )


class Up(nn.Module):
    """Raise the resolution by the stride, keep the channels, concatenate the skip, convolve twice.

    (N, in, D / stride, H / stride, W / stride) and skip (N, skip, D, H, W) -> (N, skip, D, H, W).
    """

    def __init__(self, in_channels: int, skip_channels: int, kernel: tuple[int, ...], stride: tuple[int, ...]) -> None:
        super().__init__()
        self.upsample = up_conv(in_channels, in_channels, stride, bias=False)
        self.convs = DoubleConv3d(in_channels + skip_channels, skip_channels, skip_channels, kernel)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.convs(torch.cat([self.upsample(x), skip], dim=1))


class UNet3d(Network):
    """U-Net for volumes: (N, in_channels, D, H, W) float -> (N, out_channels, D, H, W) logits.

    D, H and W are multiples of 2^depth; others raise ValueError. base_channels: width of the first convolution; the
    second of each level of the encoder doubles it, before the pooling. flat: for D, H and W the number of uppermost
    levels that leave that axis as it is, with kernels of 1 and without pooling, see flat_for; the side is then a
    multiple of 2^(depth - flat).

    Source: Çiçek, Abdulkadir, Lienkamp, Brox, Ronneberger, "3D U-Net: Learning Dense Volumetric Segmentation from
    Sparse Annotation", MICCAI 2016, section 2 and figure 2. It differs in that convolutions are padded: the paper's
    lose 44 voxels at either end, so its input has sides of at least 92. And they have no bias, which batch norm
    replaces: the paper's 19,069,955 parameters for 3 channels and 3 labels include 2336 biases and no batch norm, ours
    are 19,072,291. In both the up-convolutions have no bias. The paper's axes are all alike: flat is (0, 0, 0).
    """

    encoder_parts = ("stem", "encoder")
    spatial_dims = 3

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        base_channels: int = 32,
        depth: int = 3,
        flat: tuple[int, ...] = (0, 0, 0),
    ) -> None:
        super().__init__()
        self.geometry = Geometry.of_axes([_geometry(depth - levels) for levels in flat])
        self.strides = [stride_after(level, flat) for level in range(depth)]
        kernels = [kernel_at(level, flat) for level in range(depth + 1)]
        # Channels double before a pooling rather than after it, to avoid bottlenecks (section 2 of the paper).
        widths = [2 * base_channels * 2**level for level in range(depth + 1)]
        self.stem = DoubleConv3d(in_channels, base_channels, widths[0], kernels[0])
        self.encoder = nn.ModuleList(
            DoubleConv3d(width, width, 2 * width, kernel) for width, kernel in zip(widths, kernels[1:], strict=False)
        )
        self.decoder = nn.ModuleList(
            Up(2 * widths[level], widths[level], kernels[level], self.strides[level])
            for level in reversed(range(depth))
        )
        self.head = nn.Conv3d(widths[0], out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        self.geometry.check(image)
        x = self.run(self.stem, image)
        skips = []
        for level, stride in zip(self.encoder, self.strides, strict=True):
            skips.append(x)
            # Level l: (N, 2^(l + 1) * base_channels, D / 2^l, H / 2^l, W / 2^l), but for axes that are flat above.
            x = self.run(level, F.max_pool3d(x, stride))
        for level in self.decoder:
            x = self.run(level, x, skips.pop())
        return self.head(x)


def _geometry(depth: int) -> Geometry:
    """Along an axis that is halved so many times."""
    return Geometry(multiple=2**depth, least=2**depth, stride=2**depth, reach=_reach(depth))


def _reach(depth: int) -> int:
    """The `reach`. If padding influences e voxels at the border, pooling makes that e / 2, rounded up, and two
    convolutions add 2: at most 4 at the bottom. Each decoder level makes it 2e + 2."""
    return 6 * 2**depth - 2
