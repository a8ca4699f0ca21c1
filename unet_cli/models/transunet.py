"""TransUNet: a residual encoder, a transformer on its deepest features, and a U-Net decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unet_cli.models.blocks import NORMS, Norm, every, group_norm
from unet_cli.models.geometry import Geometry
from unet_cli.models.network import Network

GRID = 14  # learned position embeddings along a side: one for each 16 pixels of 224


@dataclass(frozen=True)
class Sizes:
    """The sizes of a TransUNet.

    base_channels: width of the first convolution; the stages at strides 4, 8 and 16 have 1, 2 and 4 times that. blocks:
    number of residual blocks in each stage. bottleneck: whether these are ResNet-50's, whose outputs are four times as
    wide, rather than ResNet-18's. layers, width, heads, mlp: number of transformer layers, channels of a token,
    attention heads of a layer and width of its hidden layer. decoder: channels of the convolution after the
    transformer, then of the decoder's four levels. norm: norm of the decoder.
    """

    base_channels: int
    blocks: tuple[int, int, int]
    bottleneck: bool
    layers: int
    width: int
    heads: int
    mlp: int
    decoder: tuple[int, int, int, int, int]
    norm: Norm


R50_VIT_B16 = Sizes(
    base_channels=64,
    blocks=(3, 4, 9),
    bottleneck=True,
    layers=12,
    width=768,
    heads=12,
    mlp=3072,
    decoder=(512, 256, 128, 64, 16),
    norm="batch",
)


def light(base_channels: int) -> Sizes:
    return Sizes(
        base_channels=base_channels,
        blocks=(2, 2, 2),
        bottleneck=False,
        layers=4,
        width=256,
        heads=4,
        mlp=1024,
        decoder=(
            base_channels * 4,
            base_channels * 2,
            base_channels,
            max(base_channels // 2, 1),
            max(base_channels // 4, 1),
        ),
        norm="group",
    )


class StdConv2d(nn.Conv2d):
    """A convolution without bias whose filters are standardised to mean 0 and variance 1.

    Source: Qiao, Wang, Liu, Shen, Yuille, "Micro-Batch Training with Batch-Channel Normalization and Weight
    Standardization", 2019, equation 2, with 1e-5 added to the variance.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) * torch.rsqrt(variance + 1e-5)
        if self.kernel_size == (1, 1):  # see blocks.every
            return F.conv2d(every(x, self.stride), weight)
        return F.conv2d(x, weight, stride=self.stride, padding=self.padding)


def encoder_norm(channels: int) -> nn.GroupNorm:
    """Group norm with 32 groups where each has at least 2 channels, as in the ResNet of ViT; fewer in narrow
    networks."""
    return nn.GroupNorm(32, channels, eps=1e-6) if channels % 64 == 0 else group_norm(channels)


class Residual(nn.Module):
    """(N, in, H, W) -> (N, out, H / stride, W / stride); out is 4 * width of a bottleneck, width otherwise.

    Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, figure 5, with the stride on
    the 3x3 convolution of a bottleneck. Where the shape changes, the shortcut is a 1x1 convolution whose norm has a
    group for each channel, as in the authors' code of TransUNet.
    """

    def __init__(self, in_channels: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        out_channels = 4 * width if bottleneck else width
        if bottleneck:
            self.branch = nn.Sequential(
                StdConv2d(in_channels, width, 1),
                encoder_norm(width),
                nn.ReLU(inplace=True),
                StdConv2d(width, width, 3, stride),
                encoder_norm(width),
                nn.ReLU(inplace=True),
                StdConv2d(width, out_channels, 1),
                encoder_norm(out_channels),
            )
        else:
            self.branch = nn.Sequential(
                StdConv2d(in_channels, width, 3, stride),
                encoder_norm(width),
                nn.ReLU(inplace=True),
                StdConv2d(width, out_channels, 3),
                encoder_norm(out_channels),
            )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                StdConv2d(in_channels, out_channels, 1, stride), nn.GroupNorm(out_channels, out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.branch(x))


class Attention(nn.Module):
    """Multi-head self-attention: (N, tokens, width) -> (N, tokens, width).

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.2.2.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        # One matrix product for all three; scaled_dot_product_attention chooses the fastest kernel.
        split = self.query_key_value(tokens).unflatten(2, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)  # each (N, heads, tokens, width / heads)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.out(attended.transpose(1, 2).flatten(2))


class TransformerLayer(nn.Module):
    """A pre-norm transformer layer: (N, tokens, width) -> (N, tokens, width).

    Source: Chen et al. 2021 (see TransUNet), equations 2 and 3.
    """

    def __init__(self, width: int, heads: int, mlp: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width, eps=1e-6), Attention(width, heads))
        self.mlp = nn.Sequential(
            nn.LayerNorm(width, eps=1e-6),
            nn.Linear(width, mlp),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(mlp, width),
            nn.Dropout(dropout),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(tokens)
        return tokens + self.mlp(tokens)


class Embedding(nn.Module):
    """A token for each pixel of the deepest features: (N, in, h, w) -> (N, h * w, width).

    The learned position embeddings are resized bilinearly to h x w with aligned corners, as the authors' code does with
    those of a pretrained transformer. Source: Chen et al. 2021 (see TransUNet), equation 1.
    """

    def __init__(self, in_channels: int, width: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Conv2d(in_channels, width, 1)
        self.positions = nn.Parameter(torch.empty(1, width, GRID, GRID))
        self.dropout = nn.Dropout(dropout)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        positions = F.interpolate(self.positions, x.shape[-2:], mode="bilinear", align_corners=True)
        return self.dropout(self.project(x) + positions).flatten(2).transpose(1, 2)


class ConvNormReLU(nn.Sequential):
    def __init__(self, in_channels: int, out_channels: int, norm: Norm) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            NORMS[norm](out_channels),
            nn.ReLU(inplace=True),
        )


class Up(nn.Module):
    """Double the resolution, concatenate the skip where there is one, convolve twice.

    (N, in, h, w) and skip (N, skip, 2h, 2w) -> (N, out, 2h, 2w).
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, norm: Norm) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.convs = nn.Sequential(
            ConvNormReLU(in_channels + skip_channels, out_channels, norm),
            ConvNormReLU(out_channels, out_channels, norm),
        )

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = self.upsample(x)
        return self.convs(x if skip is None else torch.cat([x, skip], dim=1))


class TransUNet(Network):
    """(N, in_channels, H, W) float -> (N, out_channels, H, W) logits, for H and W that are multiples of 16 from 32 on.

    dropout: dropout of the embedded tokens and, twice, of the transformer's hidden layers; attention weights have none.

    Source: Chen et al., "TransUNet: Transformers Make Strong Encoders for Medical Image Segmentation", 2021, section 3
    and figure 1, as R50-ViT-B/16. What the paper doesn't specify is as in the authors' code: the encoder is ResNet-50
    without its last stage, its third having 9 blocks, with weight standardisation, group norm and ReLU after the sum;
    its pooling isn't padded, so the skip at a quarter of the resolution lacks its last row and column, which are filled
    with zeros. The position embeddings are resized in every forward pass, so the input may have any size. Theirs starts
    from weights trained on ImageNet-21k and repeats a gray image in three channels; here weights are random, and the
    first convolution has as many channels as the image. With random weights it needs much data: see `transunet_light`.
    """

    encoder_parts = ("root", "stages", "embedding", "layers", "norm")

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float = 0.1, plan: Sizes = R50_VIT_B16) -> None:
        super().__init__()
        # The shortcuts' norms have one channel per group, and so would map a single pixel to zero.
        self.geometry = Geometry(multiple=16, least=32, stride=16)
        base = plan.base_channels
        factor = 4 if plan.bottleneck else 1
        widths = [base, base * factor, base * factor * 2, base * factor * 4]  # at strides 2, 4, 8 and 16
        skips = [*reversed(widths[:3]), 0]

        self.root = nn.Sequential(StdConv2d(in_channels, base, 7, 2), encoder_norm(base), nn.ReLU(inplace=True))
        self.stages = nn.ModuleList(
            nn.Sequential(
                Residual(widths[stage], base * 2**stage, 2 if stage else 1, plan.bottleneck),
                *(Residual(widths[stage + 1], base * 2**stage, 1, plan.bottleneck) for _ in range(blocks - 1)),
            )
            for stage, blocks in enumerate(plan.blocks)
        )
        self.embedding = Embedding(widths[3], plan.width, dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(plan.width, plan.heads, plan.mlp, dropout) for _ in range(plan.layers)
        )
        self.norm = nn.LayerNorm(plan.width, eps=1e-6)
        self.bottleneck = ConvNormReLU(plan.width, plan.decoder[0], plan.norm)
        self.decoder = nn.ModuleList(
            Up(plan.decoder[level], skips[level], plan.decoder[level + 1], plan.norm) for level in range(4)
        )
        self.head = nn.Conv2d(plan.decoder[4], out_channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        self.geometry.check(image)
        half = self.run(self.root, image)
        quarter = self.run(self.stages[0], F.max_pool2d(half, 3, stride=2))
        eighth = self.run(self.stages[1], quarter)
        x = self.run(self.stages[2], eighth)
        # The pooling is unpadded, so a quarter of the side is short of one pixel; the last level has no skip.
        skips = [eighth, F.pad(quarter, (0, 1, 0, 1)), half, None]

        tokens = self.run(self.embedding, x)  # (N, H / 16 * W / 16, width)
        for layer in self.layers:
            tokens = self.run(layer, tokens)
        x = self.norm(tokens).transpose(1, 2).unflatten(2, x.shape[-2:])  # (N, width, H / 16, W / 16)

        x = self.run(self.bottleneck, x)
        for level, skip in zip(self.decoder, skips, strict=True):
            x = self.run(level, x, skip)
        return self.head(x)


def transunet_light(in_channels: int, out_channels: int, *, base_channels: int = 64, dropout: float = 0.1) -> TransUNet:
    """A TransUNet that is small enough to train from scratch on little data. It is ours, not the paper's.

    Its encoder is ResNet-18 without its last stage, and its transformer has 4 layers of 256 channels, 4 heads and a
    hidden layer of 1024. Its decoder has half the paper's channels, except at the last level, and group norm, so that
    nothing depends on the batch size. base_channels scales encoder and decoder, not the transformer.
    """
    return TransUNet(in_channels, out_channels, dropout=dropout, plan=light(base_channels))
