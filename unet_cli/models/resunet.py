"""The deep residual U-Net."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unet_cli.models.blocks import Pointwise
from unet_cli.models.geometry import Geometry
from unet_cli.models.network import Network


class ResidualUnit(nn.Module):
    """Two pre-activated 3x3 convolutions beside a shortcut: (N, in, H, W) -> (N, out, H / stride, W / stride).

    The shortcut is the identity where that has the shape of the sum, else a 1x1 convolution with the unit's stride.
    activated: whether batch norm and ReLU precede the first convolution.

    Source: He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016, figure 4 (e).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, activated: bool = True) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *([nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True)] if activated else []),
            nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        )
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else Pointwise(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        # No ReLU follows the sum, as the next unit begins with one: the path through the shortcuts stays linear.
        return self.residual(x) + self.shortcut(x)


class Up(nn.Module):
    """Double the resolution, concatenate the skip, apply a residual unit.

    (N, in, H / 2, W / 2) and skip (N, skip, H, W) -> (N, skip, H, W).
    """

    def __init__(self, in_channels: int, skip_channels: int) -> None:
        super().__init__()
        self.unit = ResidualUnit(in_channels + skip_channels, skip_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.unit(torch.cat([x, skip], dim=1))


class ResUNet(Network):
    """U-Net with residual units: (N, in_channels, H, W) float -> (N, out_channels, H, W) logits.

    H and W are multiples of 2^depth; others raise ValueError.

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

    def __init__(self, in_channels: int, out_channels: int, *, base_channels: int = 64, depth: int = 3) -> None:
        super().__init__()
        bottom = 2**depth
        self.geometry = Geometry(multiple=bottom, least=bottom, stride=bottom, reach=_reach(depth))
        widths = [base_channels * 2**level for level in range(depth + 1)]
        self.stem = ResidualUnit(in_channels, base_channels, activated=False)
        self.encoder = nn.ModuleList(ResidualUnit(width, 2 * width, stride=2) for width in widths[:-1])
        self.decoder = nn.ModuleList(Up(2 * width, width) for width in reversed(widths[:-1]))
        self.head = nn.Conv2d(base_channels, out_channels, 1)

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
    up, and the second of the unit adds 1: 3 at the bottom. Each decoder level makes it 2e + 2."""
    return 5 * 2**depth - 2
