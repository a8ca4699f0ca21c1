"""The networks of nnU-Net: the plain one, and the one with a residual encoder; both also for volumes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unet_cli.models.blocks import CONVS, NORMS_FOR, kernel_at, padded_conv, pooled_geometry, stride_after, up_conv
from unet_cli.models.network import Network

MIN_EDGE = 4  # minimum side at the bottom, in pixels
MAX_CHANNELS = {2: 512, 3: 320}  # by the number of dimensions
RESIDUAL_BLOCKS = (1, 3, 4, 6)  # blocks of each stage; further stages have as many as the last
AVG_POOLS: dict[int, Callable[..., nn.Module]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
SLOPE = 0.01  # of LeakyReLU


def stages_for(size: int) -> int:
    """Depth for a side of `size` pixels: an edge is halved while it is at least 8, so at least 4 pixels remain.

    It is 7 for 512, which gives 8 stages, and 1 for a side that is too small to be halved.

    Source: Isensee et al. 2021 (see NNUNet), methods, with the rounding of the authors' code, version 2
    (get_pool_and_conv_props): an edge of 15 is padded to 16 and halved twice, one of 7 is left as it is.
    """
    depth, edge = 0, size
    while edge >= 2 * MIN_EDGE:
        depth, edge = depth + 1, -(-edge // 2)
    return max(depth, 1)


def _normed_conv(
    in_channels: int,
    out_channels: int,
    kernel: tuple[int, ...] = (3, 3),
    stride: int | tuple[int, ...] = 1,
    bias: bool = True,
) -> tuple[nn.Module, nn.Module]:
    conv = padded_conv(in_channels, out_channels, kernel, stride, bias)
    return conv, NORMS_FOR[len(kernel)]["instance"](out_channels)


class Convs(nn.Sequential):
    """Convolutions with bias, instance norm and LeakyReLU: (N, in, *spatial) -> (N, out, *spatial / stride).

    stride: stride of the first convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        count: int,
        kernel: tuple[int, ...] = (3, 3),
        stride: int | tuple[int, ...] = 1,
    ) -> None:
        super().__init__(*_normed_conv(in_channels, out_channels, kernel, stride), nn.LeakyReLU(SLOPE, inplace=True))
        for _ in range(count - 1):
            self.extend([*_normed_conv(out_channels, out_channels, kernel), nn.LeakyReLU(SLOPE, inplace=True)])


class Residual(nn.Module):
    """Two convolutions and a shortcut around them: (N, in, *spatial) -> (N, out, *spatial / stride).

    Source: He et al., "Bag of Tricks for Image Classification with Convolutional Neural Networks", CVPR 2019, figure 2c
    (ResNet-D): the shortcut is average-pooled, then projected where the channels change, by a convolution without bias.
    The residual branch is initially zero: Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 5.1.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, ...], stride: tuple[int, ...]) -> None:
        super().__init__()
        second, norm = _normed_conv(out_channels, out_channels, kernel)
        assert isinstance(norm.weight, Tensor)
        nn.init.zeros_(norm.weight)  # so that the block is initially its shortcut
        self.convs = nn.Sequential(*Convs(in_channels, out_channels, 1, kernel, stride), second, norm)
        self.shortcut = nn.Sequential()
        if max(stride) > 1:
            self.shortcut.append(AVG_POOLS[len(stride)](stride))
        if in_channels != out_channels:
            self.shortcut.extend(_normed_conv(in_channels, out_channels, kernel=(1,) * len(kernel), bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.convs(x) + self.shortcut(x), SLOPE, inplace=True)


class Up(nn.Module):
    """Raise the resolution by the stride to that of the skip, concatenate, convolve.

    (N, in, *spatial / stride) and skip (N, skip, *spatial) -> (N, skip, *spatial).
    """

    def __init__(
        self, in_channels: int, skip_channels: int, convs: int, kernel: tuple[int, ...], stride: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.upsample = up_conv(in_channels, skip_channels, stride)
        self.convs = Convs(2 * skip_channels, skip_channels, convs, kernel)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.convs(torch.cat([self.upsample(x), skip], dim=1))


class DeeplySupervised(Network):
    """An encoder whose stages after the first halve the resolution, and a decoder with a head at each stage.

    widths: channels of each encoder stage. convs: convolutions of each decoder stage. axes: for each axis the number of
    uppermost levels that leave it as it is, see ModelConfig.flat.
    """

    encoder_parts = ("encoder",)

    def __init__(
        self,
        encoder: list[nn.Module],
        widths: list[int],
        out_channels: int,
        convs: int,
        deep_supervision: bool,
        axes: tuple[int, ...] = (0, 0),
    ) -> None:
        super().__init__()
        self.spatial_dims, depth = len(axes), len(widths) - 1
        self.geometry = pooled_geometry(depth, "instance", flat=axes)
        self.encoder = nn.ModuleList(encoder)
        self.decoder = nn.ModuleList(
            Up(widths[level + 1], widths[level], convs, kernel_at(level, axes), stride_after(level, axes))
            for level in reversed(range(depth))
        )
        supervised = widths[:-1] if deep_supervision else widths[:1]
        self.heads = nn.ModuleList(CONVS[len(axes)](width, out_channels, 1) for width in supervised)
        self.head_weights = _halving_weights(len(self.heads))
        _initialise(self)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        self.geometry.check(image)
        x, skips = image, []
        for stage in self.encoder:
            x = self.run(stage, x)
            skips.append(x)
        skips.pop()
        levels: list[Tensor] = []  # finest first
        for stage in self.decoder:
            x = self.run(stage, x, skips.pop())
            # Coarser levels are for deep supervision; in evaluation mode they are released at once.
            levels = [x, *levels] if self.training else [x]
        logits = [head(level) for head, level in zip(self.heads, levels, strict=False)]
        return logits if len(logits) > 1 else logits[0]


class NNUNet(DeeplySupervised):
    """The plain network of nnU-Net.

    (N, in_channels, *spatial) float -> (N, out_channels, *spatial) logits, for sides that are multiples of 2^depth and
    at least twice that, since instance norm maps a single pixel at the bottom to zero. In training with deep
    supervision the output is a list of `depth` logits, finest first, each at half the resolution of the one before;
    head_weights are 1, 1/2, 1/4 and so on, but 0 for the coarsest, normalised to sum 1.

    base_channels: channels of the first stage; they double up to 512, or 320 in three dimensions. depth: halvings of
    the resolution, see stages_for. axes: for each axis the number of uppermost levels that leave it as it is, see
    ModelConfig.flat; three make it a network for volumes, as in `nnunet3d`.

    Source: Isensee, Jaeger, Kohl, Petersen, Maier-Hein, "nnU-Net: a self-configuring method for deep learning-based
    biomedical image segmentation", Nature Methods 18, 2021, methods, with strided convolutions, their biases, one head
    more than have a loss and the initialisation as in the authors' code, version 2 (PlainConvUNet of
    dynamic_network_architectures). It differs in that all sides are halved equally often, whatever their ratio, but
    for the levels at which voxels are longer along an axis.
    Without deep supervision only the finest head exists, where the authors keep the others unused.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        base_channels: int = 32,
        depth: int = 7,
        deep_supervision: bool = True,
        axes: tuple[int, ...] = (0, 0),
    ) -> None:
        widths = _widths(base_channels, depth, len(axes))
        encoder: list[nn.Module] = [Convs(in_channels, widths[0], 2, kernel_at(0, axes))]
        encoder += [
            Convs(before, width, 2, kernel_at(level + 1, axes), stride_after(level, axes))
            for level, (before, width) in enumerate(pairwise(widths))
        ]
        super().__init__(encoder, widths, out_channels, 2, deep_supervision, axes)


def nnunet3d(
    in_channels: int,
    out_channels: int,
    *,
    base_channels: int = 32,
    depth: int = 4,
    deep_supervision: bool = True,
    flat: tuple[int, ...] = (0, 0, 0),
) -> NNUNet:
    """NNUNet for volumes: (N, in_channels, D, H, W) float -> (N, out_channels, D, H, W) logits.

    The default depth is that of nnU-Net for patches of 64 to 127 voxels.
    """
    return NNUNet(
        in_channels,
        out_channels,
        base_channels=base_channels,
        depth=depth,
        deep_supervision=deep_supervision,
        axes=flat,
    )


class NNUNetResEnc(DeeplySupervised):
    """nnU-Net with a residual encoder and a light decoder. Shapes, settings, heads and head_weights are as in NNUNet.

    The encoder is a convolution at full resolution, then stages of 1, 3, 4, 6, 6, 6, 6 and 6 residual blocks, all but
    the first of which start by halving the resolution; a smaller depth leaves out the last stages, a larger one adds
    stages of 6. A block is initially its shortcut alone.

    Source: Isensee et al., "nnU-Net Revisited: A Call for Rigorous Validation in 3D Medical Image Segmentation", MICCAI
    2024, with the numbers of blocks and the initialisation of the authors' code (ResEncUNetPlanner
    of nnU-Net, and ResidualEncoderUNet with BasicBlockD of dynamic_network_architectures).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        base_channels: int = 32,
        depth: int = 7,
        deep_supervision: bool = True,
        axes: tuple[int, ...] = (0, 0),
    ) -> None:
        widths = _widths(base_channels, depth, len(axes))
        stem = Convs(in_channels, widths[0], 1, kernel_at(0, axes))
        encoder: list[nn.Module] = [nn.Sequential(stem, *_blocks(widths[0], widths[0], 0, axes))]
        encoder += [
            nn.Sequential(*_blocks(before, width, stage, axes))
            for stage, (before, width) in enumerate(pairwise(widths), 1)
        ]
        super().__init__(encoder, widths, out_channels, 1, deep_supervision, axes)


def nnunet_resenc3d(
    in_channels: int,
    out_channels: int,
    *,
    base_channels: int = 32,
    depth: int = 4,
    deep_supervision: bool = True,
    flat: tuple[int, ...] = (0, 0, 0),
) -> NNUNetResEnc:
    """NNUNetResEnc for volumes, see nnunet3d."""
    return NNUNetResEnc(
        in_channels,
        out_channels,
        base_channels=base_channels,
        depth=depth,
        deep_supervision=deep_supervision,
        axes=flat,
    )


def _widths(base_channels: int, depth: int, dims: int = 2) -> list[int]:
    """Channels of each encoder stage."""
    return [min(base_channels * 2**stage, max(MAX_CHANNELS[dims], base_channels)) for stage in range(depth + 1)]


def _blocks(in_channels: int, out_channels: int, stage: int, axes: tuple[int, ...]) -> list[nn.Module]:
    """Residual blocks of an encoder stage, the first of which changes the shape."""
    kernel, same = kernel_at(stage, axes), (1,) * len(axes)
    first = Residual(in_channels, out_channels, kernel, stride_after(stage - 1, axes) if stage else same)
    count = RESIDUAL_BLOCKS[min(stage, len(RESIDUAL_BLOCKS) - 1)]
    return [first, *(Residual(out_channels, out_channels, kernel, same) for _ in range(count - 1))]


def _halving_weights(heads: int) -> tuple[float, ...]:
    """Weights 1, 1/2, 1/4, ... with 0 for the last of several, normalised to sum 1."""
    weights = [2.0**-head for head in range(max(heads - 1, 1))]
    return tuple(weight / sum(weights) for weight in weights) + (0.0,) * (heads - len(weights))


def _initialise(model: nn.Module) -> None:
    """Initialise with normal weights that keep the variance through a LeakyReLU, and zero biases.

    Source: He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", ICCV 2015, section 2.2.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Conv3d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, a=SLOPE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
