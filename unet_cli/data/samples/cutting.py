"""Samples from images: resized, as random crops for training, or in a grid of tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from unet_cli.config.model import IGNORED
from unet_cli.data.objects import CLASSES
from unet_cli.data.preprocess import resize_image, resize_mask
from unet_cli.data.samples.warp import center_crop
from unet_cli.data.tiles import lay_tiles, mirrored

PATCH = 1.5  # side of a patch relative to the network input: warps need its surroundings
CROP_DRAWS = 1  # last part of the seed, to be independent of augmentation's numbers for the same sample


@dataclass(frozen=True, eq=False)
class ForegroundIndex:
    """Index of a mask's foreground pixels. classes: the foreground classes present. up_to: (H, classes) cumulative
    pixel counts of each over the rows, each row included."""

    classes: np.ndarray
    up_to: np.ndarray


@dataclass(frozen=True, eq=False)
class CachedSample:
    """A decoded pair: image (C, H, W) as in the file, mask (H, W) as in the data set, statistics (4,) of the whole
    image if tiles need them, and a foreground index if crops are centred on foreground."""

    image: Tensor
    mask: Tensor
    intensities: Tensor | None = None
    places: ForegroundIndex | None = None

    @property
    def nbytes(self) -> int:
        return self.image.nbytes + self.mask.nbytes + (self.places.up_to.nbytes if self.places else 0)


class Cutting(Protocol):
    """How images become samples.

    sizes: (H, W) of each pair, if samples are cut at the images' own resolution; None if images are resized.
    """

    sizes: list[tuple[int, int]] | None

    def count(self, pair: int) -> int:
        """The number of samples of pair number `pair` in an epoch."""

    def hold(self, image: Tensor, mask: Tensor, intensities: Tensor | None, size: int) -> CachedSample:
        """The data to cache for a pair. size: side of the network input, for resized images."""

    def cut(self, cached: CachedSample, number: int, index: int, epoch: int) -> tuple[Tensor, Tensor]:
        """One sample: image (C, P, P) and mask (P, P). number: its number within the pair; index: within the data
        set."""


class Whole:
    """Each image is one sample, resized to the network's size."""

    sizes: list[tuple[int, int]] | None = None

    def count(self, pair: int) -> int:
        return 1

    def hold(self, image: Tensor, mask: Tensor, intensities: Tensor | None, size: int) -> CachedSample:
        return CachedSample(resize_image(image, (size, size)), resize_mask(mask, (size, size)))

    def cut(self, cached: CachedSample, number: int, index: int, epoch: int) -> tuple[Tensor, Tensor]:
        return cached.image, cached.mask


class Crops:
    """Random crops, as many as cover each pixel about once an epoch; determined by seed, epoch and sample.

    They are cut at the images' own resolution, or, with `stretched`, from images resized to that side. A crop has
    `patch_side` pixels a side, of which the network sees the central `side` after the patch is warped. This centre lies
    within the image; if the image is smaller, it is centred in it. Beyond the image border, pixels are reflected.

    foreground: fraction of the samples whose centre contains a chosen foreground pixel: a class is drawn uniformly from
    those in the mask, so that rare ones come as often; then one of its pixels, which may lie anywhere in the centre.
    Masks without foreground give plain crops.

    repeats: factor of the number of samples in an epoch.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        side: int,
        foreground: float,
        seed: int,
        patch_side: int | None = None,
        stretched: int | None = None,
        repeats: int = 1,
    ) -> None:
        """sizes: (H, W) of each pair. patch_side: see `patch_side_of`; by default `side`, without warps."""
        self.sizes: list[tuple[int, int]] | None = None if stretched else list(sizes)
        self.side, self.foreground, self.seed = side, foreground, seed
        self.patch_side = side if patch_side is None else patch_side
        assert self.patch_side >= side
        assert (self.patch_side - side) % 2 == 0
        seen = [(stretched, stretched)] * len(sizes) if stretched else sizes
        self._counts = [repeats * max(1, round(height * width / side**2)) for height, width in seen]

    def count(self, pair: int) -> int:
        return self._counts[pair]

    def hold(self, image: Tensor, mask: Tensor, intensities: Tensor | None, size: int) -> CachedSample:
        if self.sizes is None:
            image, mask = resize_image(image, (size, size)), resize_mask(mask, (size, size))
        return CachedSample(image, mask, intensities, find_places(_classes(mask)) if self.foreground else None)

    def cut(self, cached: CachedSample, number: int, index: int, epoch: int) -> tuple[Tensor, Tensor]:
        draw = np.random.default_rng((self.seed, epoch, index, CROP_DRAWS))
        pixel = None
        if draw.random() < self.foreground and cached.places is not None:
            pixel = _draw_foreground(_classes(cached.mask), cached.places, draw)
        rim = (self.patch_side - self.side) // 2
        top, left = (
            self._start(length, None if pixel is None else pixel[axis], draw) - rim
            for axis, length in enumerate(cached.mask.shape)
        )
        return _window(cached.image, top, left, self.patch_side), _window(cached.mask, top, left, self.patch_side)

    def _start(self, length: int, place: int | None, draw: np.random.Generator) -> int:
        """Start of the centre along an axis, such that it contains position `place`, if given."""
        if length <= self.side:
            return -((self.side - length) // 2)
        if place is None:
            return int(draw.integers(length - self.side + 1))
        return int(np.clip(place - draw.integers(self.side), 0, length - self.side))


class Grid:
    """Adjacent tiles that cover each image, in row-major order.

    The last tile of a row or column is shifted back into the image, and smaller images are reflected; overlaps and
    reflections are IGNORED in the mask, so that each pixel of the image counts exactly once. Each tile includes a rim
    of its surroundings, also IGNORED.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], side: int, rim: int = 0) -> None:
        """sizes: (H, W) of each pair."""
        self.sizes: list[tuple[int, int]] | None = list(sizes)
        self.side, self.rim = side, rim
        self._counts = [len(_starts(height, side)) * len(_starts(width, side)) for height, width in sizes]

    def count(self, pair: int) -> int:
        return self._counts[pair]

    def hold(self, image: Tensor, mask: Tensor, intensities: Tensor | None, size: int) -> CachedSample:
        return CachedSample(image, mask, intensities)

    def cut(self, cached: CachedSample, number: int, index: int, epoch: int) -> tuple[Tensor, Tensor]:
        height, width = cached.mask.shape
        row, column = divmod(number, len(_starts(width, self.side)))
        (top, rows), (left, columns) = self._own(height, row), self._own(width, column)
        seen = self.side + 2 * self.rim
        mask = torch.full((seen, seen), IGNORED, dtype=cached.mask.dtype)
        center_crop(mask, self.side)[rows, columns] = _window(cached.mask, top, left, self.side)[rows, columns]
        return _window(cached.image, top - self.rim, left - self.rim, seen), mask

    def _own(self, length: int, tile: int) -> tuple[int, slice]:
        """Start of a tile along an axis, and the part of it within the image and in no earlier tile."""
        starts = _starts(length, self.side)
        start = starts[tile]
        first = max(0, starts[tile - 1] + self.side) if tile else 0
        return start, slice(first - start, min(start + self.side, length) - start)


@lru_cache(maxsize=4096)
def _starts(length: int, side: int) -> tuple[int, ...]:
    return lay_tiles(length, side, overlap=0.0).starts


def patch_side_of(side: int) -> int:
    """Side of the patches that are warped for a network input of `side` pixels."""
    return side + 2 * math.ceil((PATCH - 1) * side / 2)


def _classes(mask: Tensor) -> np.ndarray:
    """The class indices of a mask that may have object numbers too, see objects.numbered."""
    return mask.numpy() if mask.dtype == torch.uint8 else (mask % CLASSES).to(torch.uint8).numpy()


def find_places(mask: np.ndarray) -> ForegroundIndex | None:
    """Index of the foreground of an (H, W) uint8 mask: neither background nor IGNORED; None without foreground."""
    counts = np.stack([np.bincount(row, minlength=IGNORED + 1)[1:IGNORED] for row in mask])
    present = np.flatnonzero(counts.any(0))
    return ForegroundIndex(present + 1, counts[:, present].cumsum(0)) if len(present) else None


def _draw_foreground(mask: np.ndarray, places: ForegroundIndex, draw: np.random.Generator) -> tuple[int, int]:
    """Row and column of a foreground pixel; its class and then the pixel are drawn uniformly."""
    which = int(draw.integers(len(places.classes)))
    up_to = places.up_to[:, which]
    rank = int(draw.integers(up_to[-1]))
    # The n-th pixel of the class: the row by binary search in the cumulative counts, then the column within the row. So
    # only an (H, classes) table is cached, not all coordinates.
    row = int(np.searchsorted(up_to, rank, side="right"))
    columns = np.flatnonzero(mask[row] == places.classes[which])
    return row, int(columns[rank - (up_to[row - 1] if row else 0)])


def _window(pixels: Tensor, top: int, left: int, side: int) -> Tensor:
    """(..., H, W) -> (..., side, side) from (top, left) on, reflected beyond the border; a copy, unless it is the whole
    array."""
    height, width = pixels.shape[-2:]
    values = pixels.numpy()
    if min(top, left) >= 0 and top + side <= height and left + side <= width:
        part = values[..., top : top + side, left : left + side]
    else:
        part = values[..., mirrored(top, top + side, height)[:, None], mirrored(left, left + side, width)]
    return torch.from_numpy(np.ascontiguousarray(part))
