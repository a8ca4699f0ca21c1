"""UNet++: a U-Net with nested, dense skips."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unet_cli.errors import UserError
from unet_cli.models.blocks import DoubleConv, Norm, keep_variance, pooled_geometry
from unet_cli.models.geometry import pooled_reach
from unet_cli.models.network import Network


class Node(nn.Module):
    """X(i, j) for j > 0: double the resolution of X(i+1, j-1), concatenate it with all earlier nodes, convolve twice.

    (N, below_channels, h, w) and j times (N, channels, 2h, 2w) -> (N, channels, 2h, 2w).

    Source: Zhou et al. 2018, equation 1.
    """

    def __init__(self, below_channels: int, channels: int, column: int, norm: Norm) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(below_channels, channels, 2, stride=2)
        self.convs = DoubleConv((column + 1) * channels, channels, norm)

    def forward(self, below: Tensor, *before: Tensor) -> Tensor:
        return self.convs(torch.cat([*before, self.upsample(below)], dim=1))


class UNetPlusPlus(Network):
    """Nested U-Nets of depth 1 to `depth` on one encoder, with a head on the finest level of each.

    (N, in_channels, H, W) float -> (N, out_channels, H, W) logits, for H and W that are multiples of 2^depth; instance
    norm needs at least twice that. With deep supervision, the output is a list of the logits of the heads on
    X(0, depth) to X(0, 1), in this order, in training mode, and their mean in evaluation mode; without, there is only
    the head on X(0, depth).

    Source: Zhou et al., "UNet++: A Nested U-Net Architecture for Medical Image Segmentation", DLMIA 2018, section 3,
    figure 1 and equation 1; transposed convolutions and the widths are those of the authors' code. It differs in
    averaging logits where section 3.2 averages the heads' outputs after the sigmoid, and in having no dropout.
    """

    encoder_parts = ("encoder",)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        base_channels: int = 32,
        depth: int = 4,
        norm: Norm = "none",
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.geometry = pooled_geometry(depth, norm)
        widths = [base_channels * 2**level for level in range(depth + 1)]

        self.encoder = nn.ModuleList(
            DoubleConv(before, width, norm) for before, width in zip([in_channels, *widths], widths, strict=False)
        )
        self.nodes = nn.ModuleDict(
            {
                f"{level}_{column}": Node(widths[level + 1], widths[level], column, norm)
                for column in range(1, depth + 1)
                for level in range(depth + 1 - column)
            }
        )
        columns = range(depth, 0, -1) if deep_supervision else [depth]
        self.heads = nn.ModuleDict({str(column): nn.Conv2d(widths[0], out_channels, 1) for column in columns})
        self.head_weights = (1 / len(self.heads),) * len(self.heads)
        if norm == "none":
            keep_variance(self)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        self.geometry.check(image)
        rows: list[list[Tensor]] = []  # rows[i][j] is X(i, j)
        for block in self.encoder:
            rows.append([self.run(block, F.max_pool2d(rows[-1][0], 2) if rows else image)])
        # Column by column, since X(i, j) needs all nodes of its row before it and X(i + 1, j - 1).
        for column in range(1, len(rows)):
            for level, row in enumerate(rows[:-column]):
                row.append(self.run(self.nodes[f"{level}_{column}"], rows[level + 1][column - 1], *row))
        logits = [head(rows[0][int(column)]) for column, head in self.heads.items()]
        if len(logits) == 1:
            return logits[0]
        return logits if self.training else torch.stack(logits).mean(0)

    def prune(self, heads: int) -> None:
        """Keep only the head on X(0, heads), counted from 1, and the nodes that it needs.

        Its logits don't change; images are still padded as for the whole network. Raises UserError where there is no
        such head.

        Source: Zhou et al. 2018, section 3.2 and figure 1c.
        """
        if not self.deep_supervision:
            raise UserError(
                "--prune needs deep supervision, and this network was trained without it: leave --prune out, "
                "or train with --deep-supervision"
            )
        if str(heads) not in self.heads:
            available = ", ".join(sorted(self.heads, key=int))
            raise UserError(f"--prune {heads}: this network has no such head, it has {available}: choose one of these")
        # X(0, heads) depends on X(i, j) only where i + j is at most `heads`.
        self.encoder = self.encoder[: heads + 1]
        for name in [name for name in self.nodes if sum(map(int, name.split("_"))) > heads]:
            del self.nodes[name]
        for name in [name for name in self.heads if name != str(heads)]:
            del self.heads[name]
        self.head_weights = (1.0,)
        if self.geometry.reach is not None:
            self.geometry = replace(self.geometry, reach=pooled_reach(heads))
