"""The U-Net with attention gates on its skips, in the common 2D form."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unet_cli.models.blocks import NORMS, Norm, keep_variance, pooled_geometry
from unet_cli.models.network import Network


def _conv(in_channels: int, out_channels: int, norm: Norm) -> list[nn.Module]:
    """A 3x3 convolution with bias, a norm and ReLU."""
    return [nn.Conv2d(in_channels, out_channels, 3, padding=1), NORMS[norm](out_channels), nn.ReLU(inplace=True)]


class Gate(nn.Module):
    """An attention gate, at the resolution of the skip.

    skip (N, skip_channels, h, w) and signal (N, signal_channels, h, w) -> coefficients (N, 1, h, w) in [0, 1].

    Source: Oktay et al. 2018, equations 1 and 2, with a norm after each of the three 1x1 convolutions.
    """

    def __init__(self, skip_channels: int, signal_channels: int, norm: Norm) -> None:
        super().__init__()
        inner = max(skip_channels // 2, 1)
        self.skip = nn.Sequential(nn.Conv2d(skip_channels, inner, 1), NORMS[norm](inner))
        self.signal = nn.Sequential(nn.Conv2d(signal_channels, inner, 1), NORMS[norm](inner))
        self.psi = nn.Sequential(nn.Conv2d(inner, 1, 1), NORMS[norm](1), nn.Sigmoid())

    def forward(self, skip: Tensor, signal: Tensor) -> Tensor:
        return self.psi(F.relu(self.skip(skip) + self.signal(signal)))


class Up(nn.Module):
    """Double the resolution and halve the channels, gate the skip with the result, concatenate, convolve twice.

    (N, 2 * channels, h, w) and skip (N, channels, 2h, 2w) -> (N, channels, 2h, 2w) and the gate's coefficients.
    """

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.upsample = nn.Sequential(nn.Upsample(scale_factor=2), *_conv(2 * channels, channels, norm))
        self.gate = Gate(channels, channels, norm)
        self.convs = nn.Sequential(*_conv(2 * channels, channels, norm), *_conv(channels, channels, norm))

    def forward(self, x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        x = self.upsample(x)
        coefficients = self.gate(skip, x)
        return self.convs(torch.cat([skip * coefficients, x], dim=1)), coefficients


class GatedUNet(Network):
    """The common base of U-Nets with attention gates on their skips.

    encoder: blocks, including the bottleneck. decoder: blocks that return their output and their gate's coefficients,
    None without a gate.
    """

    encoder: nn.ModuleList
    decoder: nn.ModuleList

    def logits(self, levels: list[Tensor]) -> Tensor:
        """Logits from the outputs of the decoder's blocks, coarsest first."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor:
        return self.with_attention(image)[0]

    def with_attention(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits, and the coefficients (N, 1, h, w) of each gate, finest level first, in [0, 1]."""
        self.geometry.check(image)
        skips: list[Tensor] = []
        x = image
        for level in self.encoder:
            x = self.run(level, F.max_pool2d(x, 2) if skips else x)  # level l: (N, 2^l * base_channels, H / 2^l, ...)
            skips.append(x)
        skips.pop()  # the bottleneck's output is no skip
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

    (N, in_channels, H, W) float -> (N, out_channels, H, W) logits, for H and W that are multiples of 2^depth; instance
    norm needs at least twice that. Convolutions are padded, and have a bias beside the norm. Upsampling is nearest
    neighbour and a 3x3 convolution.

    Source: Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", MIDL 2018, figures 1 and 2 and
    equations 1 and 2, in the common 2D form, which differs from theirs: in their gate a convolution of stride 2 reduces
    the skip, the gating signal, which is the coarser level before its upsampling, is resampled to that resolution, and
    the coefficients back to the skip's; here the signal is upsampled first, so that the whole gate has the skip's
    resolution. Theirs has no norm in the gate, no gate on the finest skip, and deep supervision. `attention-oktay` is
    theirs.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, base_channels: int = 64, depth: int = 4, norm: Norm = "batch"
    ) -> None:
        super().__init__()
        self.geometry = pooled_geometry(depth, norm, 5)
        widths = [base_channels * 2**level for level in range(depth + 1)]

        self.encoder = nn.ModuleList(
            nn.Sequential(*_conv(before, width, norm), *_conv(width, width, norm))
            for before, width in zip([in_channels, *widths], widths, strict=False)
        )
        self.decoder = nn.ModuleList(Up(width, norm) for width in reversed(widths[:-1]))
        self.head = nn.Conv2d(widths[0], out_channels, 1)
        if norm == "none":
            keep_variance(self)

    def logits(self, levels: list[Tensor]) -> Tensor:
        return self.head(levels[-1])
