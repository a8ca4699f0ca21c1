"""The Attention U-Net as its authors describe it, in two dimensions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unet_cli.models.attention import GatedUNet
from unet_cli.models.blocks import DoubleConv, Norm, keep_variance, pooled_geometry

OPEN = 3.0  # initial logit of a gate's coefficients, which are then 0.95


class GridGate(nn.Module):
    """An attention gate, at the resolution of the coarser level.

    skip (N, skip_channels, 2h, 2w) and signal (N, signal_channels, h, w) -> coefficients (N, 1, 2h, 2w) in [0, 1].

    Source: Oktay et al. 2018, figure 2 and equations 1 and 2: W_x, without bias, has stride 2 and, as in the authors'
    code, a 2x2 kernel and the skip's number of channels; coefficients are resampled linearly. The signal is resampled
    to W_x's grid in the paper; here it has that grid.
    """

    def __init__(self, skip_channels: int, signal_channels: int) -> None:
        super().__init__()
        self.skip = nn.Conv2d(skip_channels, skip_channels, 2, stride=2, bias=False)
        self.signal = nn.Conv2d(signal_channels, skip_channels, 1)
        self.psi = nn.Conv2d(skip_channels, 1, 1)
        # Weights are small beside the bias, so that an untrained gate is open for every pixel and still has a gradient.
        nn.init.normal_(self.psi.weight, std=0.1 * skip_channels**-0.5)
        nn.init.constant_(self.psi.bias, OPEN)  # type: ignore[arg-type]

    def forward(self, skip: Tensor, signal: Tensor) -> Tensor:
        return _doubled(torch.sigmoid(self.psi(F.relu(self.skip(skip) + self.signal(signal)))))


class Up(nn.Module):
    """Gate the skip with the coarser level, double the resolution of that, concatenate, convolve twice.

    (N, 2 * channels, h, w) and skip (N, channels, 2h, 2w) -> (N, channels, 2h, 2w) and the gate's coefficients, None
    without a gate.
    """

    def __init__(self, channels: int, norm: Norm, gated: bool) -> None:
        super().__init__()
        self.gate = GridGate(channels, 2 * channels) if gated else None
        self.convs = DoubleConv(3 * channels, channels, norm)

    def forward(self, x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor | None]:
        coefficients = self.gate(skip, x) if self.gate else None
        gated = skip if coefficients is None else skip * coefficients
        return self.convs(torch.cat([gated, _doubled(x)], dim=1)), coefficients


class OktayAttentionUNet(GatedUNet):
    """U-Net with an attention gate, on the grid of the coarser level, on each skip except the finest.

    (N, in_channels, H, W) float -> (N, out_channels, H, W) logits, for H and W that are multiples of 2^depth; instance
    norm needs at least twice that. With a depth of 1 there is no gate.

    Source: Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", MIDL 2018, section 2.2, figures 1
    and 2, equations 1 and 2. The gating signal is the decoder's coarser level, for the coarsest skip the bottleneck;
    gates are initially open (section 3), here 0.95. Deep supervision is as in the authors' code: the logits of all
    decoder levels are upsampled and joined by a 1x1 convolution, so there is one output in training. It differs in
    having two dimensions instead of three and a width of 64 instead of 16, in that the norm replaces the bias of the
    3x3 convolutions, and in leaving out what their code has and the paper does not: a 1x1 convolution of the bottleneck
    before it gates, and two of the gated skip.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, base_channels: int = 64, depth: int = 4, norm: Norm = "batch"
    ) -> None:
        super().__init__()
        self.geometry = pooled_geometry(depth, norm, 6)
        self.strides = [(2, 2)] * depth
        widths = [base_channels * 2**level for level in range(depth + 1)]

        self.encoder = nn.ModuleList(
            DoubleConv(before, width, norm) for before, width in zip([in_channels, *widths], widths, strict=False)
        )
        self.decoder = nn.ModuleList(Up(widths[level], norm, gated=level > 0) for level in reversed(range(depth)))
        self.heads = nn.ModuleList(nn.Conv2d(width, out_channels, 1) for width in reversed(widths[:-1]))
        self.join = nn.Conv2d(depth * out_channels, out_channels, 1)
        if norm == "none":
            keep_variance(self)

    def logits(self, levels: list[Tensor]) -> Tensor:
        size = levels[-1].shape[-2:]
        logits = [head(level) for head, level in zip(self.heads, levels, strict=True)]
        return self.join(torch.cat([F.interpolate(one, size, mode="bilinear") for one in logits], dim=1))


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear")
