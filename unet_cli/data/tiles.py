"""Tiling: positions of tiles along an axis, their blending weights, and how they are merged.

Predictions near the border of a tile are worse than in its centre, since the network sees padding instead of the image.
So tiles overlap, and each has weight 0 within a margin of its border, rising smoothly towards its centre. If the
overlap is at least twice the reach of the padding, and tiles start on the network's stride grid, the result equals that
of the whole image, up to rounding. Beyond the image border, tiles see the image mirrored.

Source: the overlap-tile strategy of Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image
Segmentation", MICCAI 2015, figure 2, which positions unpadded tiles side by side; here they are blended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Axis:
    """The tiles along one side of an image of `length` pixels.

    starts: start of each tile's output, on a grid of the network's stride; may be negative, and the last tile may end
    beyond the image. weights: (tiles, side) float32; they sum to 1 over all tiles at each pixel of the image.
    """

    length: int
    side: int
    starts: tuple[int, ...]
    weights: Tensor

    def inside(self, tile: int) -> tuple[slice, slice]:
        """The part of a tile's output within the image: as a slice of the image, and as one of the tile."""
        return _inside(self.starts[tile], self.side, self.length)


def lay_tiles(length: int, side: int, overlap: float, multiple: int = 1, reach: int | None = None) -> Axis:
    """Tiles with an output of `side` pixels along an axis of `length`, with at least this fraction of overlap.

    multiple: tiles start on this grid. reach: distance from its border within which a tile's output depends on the
    padding; None: everywhere. The weight is 0 within the reach of the border if the overlap covers it twice; otherwise
    within a quarter of the overlap, and an axis of at most `side` gets one tile.
    """
    stride = max(multiple, int(side * (1 - overlap)) // multiple * multiple)
    shared = max(side - stride, 0)
    covered = reach is not None and shared > 2 * reach
    margin = reach if reach is not None and covered else shared // 4
    if length <= side and not covered:
        starts = (-((side - length) // 2 // multiple * multiple),)
    else:
        first = -_up(margin, multiple)
        last = first + _up(max(length + margin - side - first, 0), multiple)
        starts = (*range(first, last, stride), last)
    ramp = _ramp(side, margin, shared - 2 * margin) if len(starts) > 1 else np.ones(side)
    positions = [_inside(start, side, length) for start in starts]
    # Normalized by their sum: at the image border and between the last two tiles the ramps do not add up to 1.
    total = np.zeros(length)
    for target, source in positions:
        total[target] += ramp[source]
    weights = np.zeros((len(starts), side), np.float32)
    for own, (target, source) in zip(weights, positions, strict=True):
        own[source] = ramp[source] / total[target]
    return Axis(length, side, starts, torch.from_numpy(weights))


def _inside(start: int, side: int, length: int) -> tuple[slice, slice]:
    first, last = max(start, 0), min(start + side, length)
    return slice(first, last), slice(first - start, last - start)


def _ramp(side: int, margin: int, width: int) -> np.ndarray:
    """(side,) weights: 0 within `margin` of both ends, then rising smoothly (smoothstep) over `width` pixels to 1; the
    rise of one tile and the fall of its neighbour sum to 1."""
    distance = np.minimum(np.arange(side), np.arange(side)[::-1])
    rise = np.clip((distance - margin + 0.5) / max(width, 1), 0, 1)
    return np.where(distance < margin, 0, rise * rise * (3 - 2 * rise))


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


class Canvas:
    """Merges tiles, one layer of them along the first axis after the other, and returns what is complete: the rows of
    an image, or the slices of a volume.

    Memory: one layer of tiles, (K, side, *rest of the image) float32, and what is complete of it.
    """

    def __init__(self, axes: Sequence[Axis], first: int = 0) -> None:
        """axes: of each spatial side. first: the layer of tiles that is added first."""
        self.axes = tuple(axes)
        self._layer = first
        self._sums: Tensor | None = None

    def add(self, place: tuple[int, ...], tile: Tensor) -> tuple[int, Tensor] | None:
        """Add the (K, *sides) output of the tile that is number `place` along each axis; tiles come in row-major order.
        Returns, after the last tile of a layer, the first of the rows or slices that no later tile changes, and these
        (K, h, *rest of the image); None if there are none."""
        first, *others = self.axes
        if self._sums is None:
            self._sums = torch.zeros(len(tile), first.side, *(axis.length for axis in others))
        assert place[0] == self._layer
        targets: tuple[slice, ...] = (slice(None), slice(None))
        sources = targets
        weight = first.weights[self._layer]
        for axis, number in zip(others, place[1:], strict=True):
            target, source = axis.inside(number)
            targets, sources = (*targets, target), (*sources, source)
            weight = weight[..., None] * axis.weights[number, source]
        self._sums[targets].addcmul_(tile[sources], weight)
        is_last = all(number == len(axis.starts) - 1 for axis, number in zip(others, place[1:], strict=True))
        return self._next_layer() if is_last else None

    def _next_layer(self) -> tuple[int, Tensor] | None:
        assert self._sums is not None
        axis = self.axes[0]
        start = axis.starts[self._layer]
        is_last = self._layer == len(axis.starts) - 1
        end = axis.length if is_last else min(axis.starts[self._layer + 1], axis.length)
        top, bottom = max(start, 0), max(end, 0)
        done = self._sums[:, top - start : bottom - start].clone() if bottom > top else None
        self._layer += 1
        if not is_last:
            shift = axis.starts[self._layer] - start
            kept = axis.side - shift
            for place in range(kept):  # one by one, since a copy of all would double the memory
                self._sums[:, place] = self._sums[:, place + shift]
            self._sums[:, kept:] = 0
        return None if done is None else (top, done)
