"""The U-Net with attention gates on its skips, in the common form."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unet_cli.models.blocks import (
    CONVS,
    NORMS_FOR,
    Norm,
    keep_variance,
    kernel_at,
    max_pool,
    padded_conv,
    pooled_geometry,
    stride_after,
)
from unet_cli.models.network import Network


def _conv(in_channels: int, out_channels: int, norm: Norm, kernel: tuple[int, ...]) -> list[nn.Module]:
    """A convolution with bias, a norm and ReLU."""
    normed = NORMS_FOR[len(kernel)][norm](out_channels)
    return [padded_conv(in_channels, out_channels, kernel), normed, nn.ReLU(inplace=True)]


class Gate(nn.Module):
    """An attention gate, at the resolution of the skip.

    skip (N, skip_channels, *spatial) and signal (N, signal_channels, *spatial) -> coefficients (N, 1, *spatial), 0 to
    1.

    Source: Oktay et al. 2018, equations 1 and 2, with a norm after each of the three 1x1 convolutions.
    """

    def __init__(self, skip_channels: int, signal_channels: int, norm: Norm, dims: int = 2) -> None:
        super().__init__()
        inner = max(skip_channels // 2, 1)
        conv, normed = CONVS[dims], NORMS_FOR[dims][norm]
        self.skip = nn.Sequential(conv(skip_channels, inner, 1), normed(inner))
        self.signal = nn.Sequential(conv(signal_channels, inner, 1), normed(inner))
        self.psi = nn.Sequential(conv(inner, 1, 1), normed(1), nn.Sigmoid())

    def forward(self, skip: Tensor, signal: Tensor) -> Tensor:
        return self.psi(F.relu(self.skip(skip) + self.signal(signal)))


class Up(nn.Module):
    """Raise the resolution by the stride and halve the channels, gate the skip with the result, concatenate, convolve
    twice.

    (N, 2 * channels, *spatial / stride) and skip (N, channels, *spatial) -> (N, channels, *spatial) and the gate's
    coefficients.
    """

    def __init__(self, channels: int, norm: Norm, kernel: tuple[int, ...], stride: tuple[int, ...]) -> None:
        super().__init__()
        self.upsample = nn.Sequential(nn.Upsample(scale_factor=stride), *_conv(2 * channels, channels, norm, kernel))
        self.gate = Gate(channels, channels, norm, len(kernel))
        self.convs = nn.Sequential(
            *_conv(2 * channels, channels, norm, kernel), *_conv(channels, channels, norm, kernel)
        )

    def forward(self, x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        x = self.upsample(x)
        coefficients = self.gate(skip, x)
        return self.convs(torch.cat([skip * coefficients, x], dim=1)), coefficients


class GatedUNet(Network):
    """The common base of U-Nets with attention gates on their skips.

    encoder: blocks, including the bottleneck. strides: of the poolings between them. decoder: blocks that return their
    output and their gate's coefficients, None without a gate.
    """

    encoder_parts = ("encoder",)
    strides: list[tuple[int, ...]]
    encoder: nn.ModuleList
    decoder: nn.ModuleList

    def logits(self, levels: list[Tensor]) -> Tensor:
        """Logits from the outputs of the decoder's blocks, coarsest first."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor:
        return self.with_attention(image)[0]

    def with_attention(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits, and the coefficients (N, 1, *spatial) of each gate, finest level first, in [0, 1]."""
        self.geometry.check(image)
        skips: list[Tensor] = []
        x = self.run(self.encoder[0], image)
        for level, stride in zip(self.encoder[1:], self.strides, strict=True):
            skips.append(x)
            x = self.run(level, max_pool(x, stride))  # level l: (N, 2^l * base_channels, *spatial / 2^l)
        levels: list[Tensor] = []
        attention: list[Tensor] = []
        for level in self.decoder:
            x, coefficients = self.run(level, x, skips.pop())
            levels.append(x)
            if coefficients is not None:
                attention.insert(0, coefficients)
        return self.logits(levels), attention


class AttentionUNet(GatedUNet):
    """U-Net with an attention gate on each skip.

    (N, in_channels, *spatial) float -> (N, out_channels, *spatial) logits, for sides that are multiples of 2^depth;
    instance norm needs at least twice that. Convolutions are padded, and have a bias beside the norm. Upsampling is
    nearest neighbour and a 3x3 convolution. axes: for each axis the number of uppermost levels that leave it as it is,
    see ModelConfig.flat; three make it a network for volumes, as in `attention3d`.

    Source: Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", MIDL 2018, figures 1 and 2 and
    equations 1 and 2, in the common form, which differs from theirs: in their gate a convolution of stride 2 reduces
    the skip, the gating signal, which is the coarser level before its upsampling, is resampled to that resolution, and
    the coefficients back to the skip's; here the signal is upsampled first, so that the whole gate has the skip's
    resolution. Theirs has no norm in the gate, no gate on the finest skip, and deep supervision. `attention-oktay` is
    theirs.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        base_channels: int = 64,
        depth: int = 4,
        norm: Norm = "batch",
        axes: tuple[int, ...] = (0, 0),
    ) -> None:
        super().__init__()
        self.spatial_dims = len(axes)
        self.geometry = pooled_geometry(depth, norm, 5, axes)
        self.strides = [stride_after(level, axes) for level in range(depth)]
        kernels = [kernel_at(level, axes) for level in range(depth + 1)]
        widths = [base_channels * 2**level for level in range(depth + 1)]

        self.encoder = nn.ModuleList(
            nn.Sequential(*_conv(before, width, norm, kernel), *_conv(width, width, norm, kernel))
            for before, width, kernel in zip([in_channels, *widths], widths, kernels, strict=False)
        )
        self.decoder = nn.ModuleList(
            Up(widths[level], norm, kernels[level], self.strides[level]) for level in reversed(range(depth))
        )
        self.head = CONVS[len(axes)](widths[0], out_channels, 1)
        if norm == "none":
            keep_variance(self)

    def logits(self, levels: list[Tensor]) -> Tensor:
        return self.head(levels[-1])


def attention3d(
    in_channels: int,
    out_channels: int,
    *,
    base_channels: int = 32,
    depth: int = 3,
    norm: Norm = "batch",
    flat: tuple[int, ...] = (0, 0, 0),
) -> AttentionUNet:
    """AttentionUNet for volumes, of half its width and a level less: (N, in_channels, D, H, W) float ->
    (N, out_channels, D, H, W) logits."""
    return AttentionUNet(in_channels, out_channels, base_channels=base_channels, depth=depth, norm=norm, axes=flat)
