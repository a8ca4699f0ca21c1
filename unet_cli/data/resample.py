"""Resampling of volumes to another spacing of their voxels, for training and prediction alike.

Images are interpolated linearly along each axis, and smoothed where they shrink (antialiased); masks take the nearest
voxel. The outer borders of a volume stay where they are, to half a voxel.

Source: Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
Nature Methods 18, 2021, methods: all volumes at the median spacing of the training set. It differs in that images are
interpolated linearly, along thick slices too, where nnU-Net takes splines and the nearest slice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from unet_cli.config.spacing import describe_spacing
from unet_cli.errors import UserError

AGREEING = 0.01  # spacings that differ by no more than this share of them are taken for equal
MAX_VOXELS = 2**31  # of a resampled volume
MIN_WEIGHT = 1e-6  # smaller ones are rounding errors


def are_alike(spacing: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two spacings agree along each axis, or both are unknown (empty)."""
    return len(spacing) == len(other) and all(map(_agree, spacing, other))


def size_at(size: tuple[int, ...], spacing: Sequence[float] | None, wanted: Sequence[float]) -> tuple[int, ...]:
    """Sides (D, H, W) of a volume of voxels of `spacing` when it is resampled to `wanted`: unchanged along an axis on
    which these agree, and where one of them is unknown (None or empty). Raises UserError where it would be too
    large."""
    if not spacing or not wanted:
        return size
    sides = tuple(
        side if _agree(step, goal) else max(1, round(min(side * step / goal, MAX_VOXELS)))
        for side, step, goal in zip(size, spacing, wanted, strict=True)
    )
    if math.prod(sides) > MAX_VOXELS and sides != size:
        raise UserError(
            f"has voxels of {describe_spacing(spacing)}, and would have {math.prod(sides):.1e} at the network's "
            f"{describe_spacing(wanted)}: if its file tells a wrong size, state the right one with --spacing"
        )
    return sides


def _agree(step: float, other: float) -> bool:
    return abs(step - other) <= AGREEING * other


def resampled(volume: Tensor, size: tuple[int, ...]) -> Tensor:
    """(C, D, H, W) -> (C, *size), dtype kept: uint8, uint16 or float32."""
    if tuple(volume.shape[1:]) == size:
        return volume
    done = Resampler(tuple(volume.shape[1:]), size).add(0, volume)
    assert done is not None
    return done[1]


def resampled_mask(mask: Tensor, size: tuple[int, ...]) -> Tensor:
    """(D, H, W) of any dtype -> `size`, each voxel the nearest one."""
    for axis, (length, wanted) in enumerate(zip(mask.shape, size, strict=True)):
        if wanted != length:
            nearest = (torch.arange(wanted, dtype=torch.float64) + 0.5) * (length / wanted)
            mask = mask.index_select(axis, nearest.long().clamp_(max=length - 1))
    return mask


class Resampler:
    """Resamples a volume whose slabs come one after the other; the result doesn't depend on how it is cut into slabs.

    In memory are the slices that the next one depends on. first: the first slice of the volume that is needed.
    """

    def __init__(self, size: tuple[int, ...], wanted: tuple[int, ...], first: int = 0) -> None:
        """size, wanted: (D, H, W) of the volume before and after. first: slice of the result to begin with."""
        self._size, self._wanted, self._next = size, wanted, first
        self._weights = [_weights(place, size[0], wanted[0]) for place in range(wanted[0])]
        self.first = self._weights[first][0][0]
        self._held: dict[int, Tensor] = {}  # slices by their number, (C, *wanted[1:]) float32

    def add(self, start: int, slab: Tensor) -> tuple[int, Tensor] | None:
        """Add the next slab (C, d, H, W), whose first slice is number `start`. Returns the first of the resampled
        slices that it completes, and these (C, h, *wanted[1:]) of the same dtype; None if there are none."""
        first, done = self._next, []
        for place, image in enumerate(slab.unbind(1), start):
            if place < self.first:
                continue
            self._held[place] = _stretched(image.float(), self._wanted[1:])
            while self._next < self._wanted[0] and self._weights[self._next][-1][0] <= place:
                done.append(_rounded(self._sum(), slab.dtype))
                self._next += 1
                needed = self._weights[self._next][0][0] if self._next < self._wanted[0] else self._size[0]
                for earlier in [held for held in self._held if held < needed]:
                    del self._held[earlier]
        return (first, torch.stack(done, dim=1)) if done else None

    def _sum(self) -> Tensor:
        (place, weight), *others = self._weights[self._next]
        total = self._held[place] * weight
        for place, weight in others:
            total.add_(self._held[place], alpha=weight)
        return total


def _weights(place: int, length: int, wanted: int) -> list[tuple[int, float]]:
    """The slices of `length` on which number `place` of the `wanted` ones depends, and their weights, which sum to 1:
    those of `_stretched` along one axis."""
    scale = length / wanted
    center, reach = (place + 0.5) * scale - 0.5, max(scale, 1.0)
    near = range(max(0, math.floor(center - reach)), min(length, math.ceil(center + reach) + 1))
    weights = [(number, weight) for number in near if (weight := 1 - abs(number - center) / reach) > MIN_WEIGHT]
    total = sum(weight for _, weight in weights)
    return [(number, weight / total) for number, weight in weights]


def _stretched(image: Tensor, size: tuple[int, ...]) -> Tensor:
    """(C, H, W) float32 -> (C, *size), bilinear and antialiased."""
    if tuple(image.shape[1:]) == size:
        return image
    return F.interpolate(image[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]


def _rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values if dtype.is_floating_point else values.round().to(dtype)
