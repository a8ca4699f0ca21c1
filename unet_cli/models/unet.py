"""The plain U-Net, with padded convolutions and a choice of norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from unet_cli.config import ModelConfig
from unet_cli.models.geometry import Geometry


def group_norm(channels: int) -> nn.GroupNorm:
    """Up to 8 groups of 2 channels or more, as many as divide them; 8 from 16 channels on if these are a power of 2.

    Source: Wu, He, "Group Normalization", ECCV 2018, which has 32 groups for networks of 64 channels or more.
    """
    return nn.GroupNorm(max(math.gcd(16, channels) // 2, 1), channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": group_norm,
    "instance": partial(nn.InstanceNorm2d, affine=True),
    "none": nn.Identity,
}


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions, each followed by a norm and ReLU: (N, in, H, W) -> (N, out, H, W).

    norm: its name in NORMS; it replaces the bias.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: str, mid_channels: int | None = None) -> None:
        mid_channels = mid_channels or out_channels
        bias = norm == "none"
        super().__init__(
            nn.Conv2d(in_channels, mid_channels, 3, padding=1, bias=bias),
            NORMS[norm](mid_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(mid_channels, out_channels, 3, padding=1, bias=bias),
            NORMS[norm](out_channels),
            nn.ReLU(inplace=True),
        )


class Up(nn.Module):
    """Double the resolution, pad to the skip, concatenate, convolve twice.

    Transposed: (N, in, h, w) and skip (N, skip, H, W) -> (N, out, H, W), the upsampling having halved the channels.
    Bilinear: the upsampling keeps the channels, so the convolutions narrow in two steps.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, bilinear: bool, norm: str) -> None:
        super().__init__()
        self.upsample: nn.Module
        if bilinear:
            self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            merged = in_channels + skip_channels
            self.convs = DoubleConv(merged, out_channels, norm, merged // 2)
        else:
            self.upsample = nn.ConvTranspose2d(in_channels, in_channels // 2, 2, stride=2)
            self.convs = DoubleConv(in_channels // 2 + skip_channels, out_channels, norm)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.upsample(x)
        dy, dx = skip.shape[-2] - x.shape[-2], skip.shape[-1] - x.shape[-1]
        if dy or dx:  # a side was odd, and pooling dropped its last pixel
            x = F.pad(x, (dx // 2, dx - dx // 2, dy // 2, dy - dy // 2))
        return self.convs(torch.cat([skip, x], dim=1))


class UNet(nn.Module):
    """U-Net with padding, norms and logits of the input's size.

    (N, in_channels, H, W) float -> (N, K, H, W) logits, for H and W of at least 2^depth; K is `config.out_channels`.
    Instance norm needs twice that: of a single pixel at the bottom nothing would be left.

    Source: Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
    figure 1. It differs in what has become common since: convolutions are padded, so nothing is cropped; batch norm
    (or another, `config.norm`) replaces the bias; there is no dropout. With `upsampling="bilinear"` the bottleneck and
    the decoder have half the channels, and corners are aligned.

    gradient_checkpointing: keep only each level's input for the gradient, and compute the rest again. It may be changed
    between training steps.
    """

    def __init__(self, config: ModelConfig, gradient_checkpointing: bool = False) -> None:
        super().__init__()
        self.depth = config.depth
        bottom = 2**config.depth
        least = 2 * bottom if config.norm == "instance" else bottom
        self.geometry = Geometry(least=least, stride=bottom, reach=_reach(config))
        self.gradient_checkpointing = gradient_checkpointing
        bilinear = config.upsampling == "bilinear"
        widths = [config.base_channels * 2**level for level in range(config.depth + 1)]
        outs = [width // 2 if bilinear else width for width in widths]  # of the decoder, the bottleneck last

        self.stem = DoubleConv(config.in_channels, widths[0], config.norm)
        self.encoder = nn.ModuleList(
            DoubleConv(widths[level - 1], outs[level] if level == config.depth else widths[level], config.norm)
            for level in range(1, config.depth + 1)
        )
        self.decoder = nn.ModuleList(
            Up(outs[level + 1], widths[level], outs[level] if level else widths[0], bilinear, config.norm)
            for level in reversed(range(config.depth))
        )
        self.head = nn.Conv2d(widths[0], config.out_channels, 1)
        if config.norm == "none":
            _keep_variance(self)

    def forward(self, image: Tensor) -> Tensor:
        if min(image.shape[-2:]) < self.geometry.least:
            raise ValueError(
                f"an image of {image.shape[-1]}x{image.shape[-2]} pixels vanishes in {self.depth} poolings: "
                f"both sides need at least {self.geometry.least}"
            )
        x = self._run(self.stem, image)
        skips = []
        for level in self.encoder:
            skips.append(x)
            x = self._run(level, F.max_pool2d(x, 2))
        for level in self.decoder:
            x = self._run(level, x, skips.pop())
        return self.head(x)

    def _run(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        """Call the block; where gradients are wanted and memory is short, forget its activations and recompute them."""
        if not (self.gradient_checkpointing and torch.is_grad_enabled() and self.training):
            return block(*inputs)
        contexts = _first_pass_counts(block)
        return checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)


def _reach(config: ModelConfig) -> int | None:
    """Two 3x3 convolutions at each level on the way down, at the bottom and on the way up reach 2 pixels of the level
    each, and the grid of the poolings lies anywhere within 2^depth - 1 pixels. None with aligned corners, whose
    interpolation depends on the size of the whole, and with norms over the whole of each image."""
    if config.upsampling == "bilinear" or config.norm in ("group", "instance"):
        return None
    bottom = 2**config.depth
    return 2 * 2 * (bottom - 1) + 2 * bottom + bottom - 1


def _keep_variance(model: nn.Module) -> None:
    """Initial weights that no norm has to put right: each layer's output has the mean square of its input.

    Source: He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", ICCV 2015, section 2.2, for convolutions before a ReLU;
    no ReLU follows a transposed one, each of whose outputs is a sum over its input channels.
    """
    for module in model.modules():
        if isinstance(module, nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=module.in_channels**-0.5)
        elif isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)


def _first_pass_counts(
    block: nn.Module,
) -> Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]:
    """Contexts for the first and the repeated forward pass: the repetition leaves batch-norm statistics alone."""

    @contextmanager
    def restored() -> Iterator[None]:
        buffers = list(block.buffers())
        before = [buffer.clone() for buffer in buffers]
        try:
            yield
        finally:
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)

    return lambda: (nullcontext(), restored())
