"""The deep residual U-Net."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unet_cli.models.blocks import CONVS, NORMS_FOR, every, kernel_at, padded_conv, repeated, stride_after
from unet_cli.models.geometry import Geometry
from unet_cli.models.network import Network


class ResidualUnit(nn.Module):
    """Two pre-activated convolutions beside a shortcut: (N, in, *spatial) -> (N, out, *spatial / stride).

    The shortcut is the identity where that has the shape of the sum, else a 1x1 convolution with the unit's stride.
    kernel: sides of the convolutions. activated: whether batch norm and ReLU precede the first convolution.

    Source: He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016, figure 4 (e).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, ...] = (3, 3),
        stride: tuple[int, ...] = (1, 1),
        activated: bool = True,
    ) -> None:
        super().__init__()
        batch_norm = NORMS_FOR[len(kernel)]["batch"]
        self.residual = nn.Sequential(
            *([batch_norm(in_channels), nn.ReLU(inplace=True)] if activated else []),
            padded_conv(in_channels, out_channels, kernel, stride, bias=False),
            batch_norm(out_channels),
            nn.ReLU(inplace=True),
            padded_conv(out_channels, out_channels, kernel, bias=False),
        )
        self.stride = stride
        same = max(stride) == 1 and in_channels == out_channels
        self.shortcut = (
            nn.Identity() if same else padded_conv(in_channels, out_channels, (1,) * len(kernel), bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        # No ReLU follows the sum, as the next unit begins with one: the path through the shortcuts stays linear.
        return self.residual(x) + self.shortcut(every(x, self.stride))


class Up(nn.Module):
    """Raise the resolution by the stride, concatenate the skip, apply a residual unit.

    (N, in, *spatial / stride) and skip (N, skip, *spatial) -> (N, skip, *spatial).
    """

    def __init__(self, in_channels: int, skip_channels: int, kernel: tuple[int, ...], stride: tuple[int, ...]) -> None:
        super().__init__()
        self.stride = stride
        self.unit = ResidualUnit(in_channels + skip_channels, skip_channels, kernel, (1,) * len(kernel))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.unit(torch.cat([repeated(x, self.stride), skip], dim=1))


class ResUNet(Network):
    """U-Net with residual units: (N, in_channels, *spatial) float -> (N, out_channels, *spatial) logits.

    Sides are multiples of 2^depth; others raise ValueError. axes: for each axis the number of uppermost levels that
    leave it as it is, see ModelConfig.flat; three make it a network for volumes, as in `resunet3d`.

    Source: Zhang, Liu, Wang, "Road Extraction by Deep Residual U-Net", IEEE Geoscience and Remote Sensing Letters 15,
    2018, section II and figure 2. All of its table 1 is followed: seven levels of two 3x3 convolutions each, their
    widths (64, 128, 256; bridge 512; 256, 128, 64), stride 2 in the first convolution of levels 2 to 4 in place of
    pooling, and the 1x1 convolution of the output, without batch norm or ReLU before it. As in figure 2, the first unit
    starts with its convolution. The weights of these 15 convolutions are the 7.8 million parameters of the paper.

    It differs in the shortcuts, which are identities in the paper's equation 1: every unit of the table changes the
    shape, so each has a projection (He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016,
    equation 2), 0.43 million weights in all. The paper doesn't specify the upsampling (here nearest neighbour), nor
    whether convolutions have a bias (here only the output's has).
    """

    encoder_parts = ("stem", "encoder")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        base_channels: int = 64,
        depth: int = 3,
        axes: tuple[int, ...] = (0, 0),
    ) -> None:
        super().__init__()
        self.spatial_dims = len(axes)
        self.geometry = Geometry.of_axes([_geometry(depth - levels) for levels in axes])
        kernels = [kernel_at(level, axes) for level in range(depth + 1)]
        strides = [stride_after(level, axes) for level in range(depth)]
        widths = [base_channels * 2**level for level in range(depth + 1)]
        self.stem = ResidualUnit(in_channels, base_channels, kernels[0], (1,) * len(axes), activated=False)
        self.encoder = nn.ModuleList(
            ResidualUnit(width, 2 * width, kernel, stride)
            for width, kernel, stride in zip(widths, kernels[1:], strides, strict=False)
        )
        self.decoder = nn.ModuleList(
            Up(2 * widths[level], widths[level], kernels[level], strides[level]) for level in reversed(range(depth))
        )
        self.head = CONVS[len(axes)](base_channels, out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        self.geometry.check(image)
        x = self.run(self.stem, image)
        skips = []
        for level in self.encoder:
            skips.append(x)
            x = self.run(level, x)  # level l: (N, 2^l * base_channels, *spatial / 2^l)
        for level in self.decoder:
            x = self.run(level, x, skips.pop())
        return self.head(x)


def resunet3d(
    in_channels: int,
    out_channels: int,
    *,
    base_channels: int = 32,
    depth: int = 3,
    flat: tuple[int, ...] = (0, 0, 0),
) -> ResUNet:
    """ResUNet for volumes, of half its width: (N, in_channels, D, H, W) float -> (N, out_channels, D, H, W) logits."""
    return ResUNet(in_channels, out_channels, base_channels=base_channels, depth=depth, axes=flat)


def _geometry(depth: int) -> Geometry:
    """Along an axis that is halved so many times."""
    return Geometry(multiple=2**depth, least=2**depth, stride=2**depth, reach=_reach(depth))


def _reach(depth: int) -> int:
    """The `reach`. If padding influences e pixels at the border, a strided convolution makes that (e + 1) / 2, rounded
    up, and the second of the unit adds 1: 3 at the bottom. Each decoder level makes it 2e + 2."""
    return 5 * 2**depth - 2
