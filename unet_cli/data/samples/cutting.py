"""Samples from images: resized, as random crops for training, or in a grid of tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from unet_cli.config.model import IGNORED
from unet_cli.data.mirror import mirrored
from unet_cli.data.objects import CLASSES
from unet_cli.data.preprocess import resize_image, resize_mask
from unet_cli.data.samples.warp import center_crop, is_cube
from unet_cli.data.tiles import lay_tiles

PATCH = 1.5  # side of a patch relative to the network input: warps need its surroundings
CROP_DRAWS = 1  # last part of the seed, to be independent of augmentation's numbers for the same sample


@dataclass(frozen=True, eq=False)
class ForegroundIndex:
    """Index of a mask's foreground pixels. classes: the foreground classes present. up_to: (rows, classes) cumulative
    pixel counts of each over the rows, each row included; a volume has the rows of all its slices."""

    classes: np.ndarray
    up_to: np.ndarray


@dataclass(frozen=True, eq=False)
class CachedSample:
    """A decoded pair: image (C, *spatial) with the values of the file, perhaps in a smaller type that holds them; mask
    (*spatial) as in the data set, statistics (4,) of the whole image if tiles need them, and a foreground index if
    crops are centred on foreground."""

    image: Tensor
    mask: Tensor
    intensities: Tensor | None = None
    places: ForegroundIndex | None = None

    @property
    def nbytes(self) -> int:
        return self.image.nbytes + self.mask.nbytes + (self.places.up_to.nbytes if self.places else 0)


class Cutting(Protocol):
    """How images become samples.

    sizes: (H, W) of each pair, (D, H, W) of volumes, if samples are cut at the images' own resolution; None if images
    are resized.
    """

    sizes: list[tuple[int, ...]] | None

    def count(self, pair: int) -> int:
        """The number of samples of pair number `pair` in an epoch."""

    def hold(self, image: Tensor, mask: Tensor, intensities: Tensor | None, size: int) -> CachedSample:
        """The data to cache for a pair. size: side of the network input, for resized images."""

    def cut(self, cached: CachedSample, number: int, index: int, epoch: int) -> tuple[Tensor, Tensor]:
        """One sample: image (C, *sides) and mask (*sides). number: its number within the pair; index: within the data
        set."""


class Whole:
    """Each image is one sample, resized to the network's size."""

    sizes: list[tuple[int, ...]] | None = None

    def count(self, pair: int) -> int:
        return 1

    def hold(self, image: Tensor, mask: Tensor, intensities: Tensor | None, size: int) -> CachedSample:
        return CachedSample(resize_image(image, (size, size)), resize_mask(mask, (size, size)))

    def cut(self, cached: CachedSample, number: int, index: int, epoch: int) -> tuple[Tensor, Tensor]:
        return cached.image, cached.mask


class Crops:
    """Random crops, as many as cover each pixel about once an epoch; determined by seed, epoch and sample.

    They are cut at the images' own resolution, or, with `stretched`, from images resized to that side. A crop has the
    sides `patch`, of which the network sees the centre, `sides`, after the patch is warped. This centre lies within the
    image; if the image is smaller, it is centred in it. Beyond the image border, pixels are reflected.

    foreground: fraction of the samples whose centre contains a chosen foreground pixel: a class is drawn uniformly from
    those in the mask, so that rare ones come as often; then one of its pixels, which may lie anywhere in the centre.
    Masks without foreground give plain crops.

    repeats: factor of the number of samples in an epoch.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, ...]],
        sides: tuple[int, ...],
        foreground: float,
        seed: int,
        patch: tuple[int, ...] | None = None,
        stretched: int | None = None,
        repeats: int = 1,
    ) -> None:
        """sizes: (H, W) of each pair, (D, H, W) of volumes. patch: see `patch_of`; by default `sides`, without
        warps."""
        self.sizes: list[tuple[int, ...]] | None = None if stretched else list(sizes)
        self.sides, self.foreground, self.seed = sides, foreground, seed
        self.patch = patch or sides
        self._rims = [(outer - inner) // 2 for outer, inner in zip(self.patch, sides, strict=True)]
        assert all(outer == inner + 2 * rim for outer, inner, rim in zip(self.patch, sides, self._rims, strict=True))
        seen = [(stretched, stretched)] * len(sizes) if stretched else sizes
        self._counts = [repeats * max(1, round(math.prod(size) / math.prod(sides))) for size in seen]

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
            pixel = _draw_foreground(cached.mask, cached.places, draw)
        starts = [
            self._start(axis, length, None if pixel is None else pixel[axis], draw) - self._rims[axis]
            for axis, length in enumerate(cached.mask.shape)
        ]
        return _window(cached.image, starts, self.patch), _window(cached.mask, starts, self.patch)

    def _start(self, axis: int, length: int, place: int | None, draw: np.random.Generator) -> int:
        """Start of the centre along an axis, such that it contains position `place`, if given."""
        side = self.sides[axis]
        if length <= side:
            return -((side - length) // 2)
        if place is None:
            return int(draw.integers(length - side + 1))
        return int(np.clip(place - draw.integers(side), 0, length - side))


class Grid:
    """Adjacent tiles that cover each image, in row-major order.

    The last tile of a row or column is shifted back into the image, and smaller images are reflected; overlaps and
    reflections are IGNORED in the mask, so that each pixel of the image counts exactly once. Each tile includes a rim
    of its surroundings, also IGNORED.
    """

    def __init__(self, sizes: Sequence[tuple[int, ...]], sides: tuple[int, ...], rim: int = 0) -> None:
        """sizes: (H, W) of each pair, (D, H, W) of volumes."""
        self.sizes: list[tuple[int, ...]] | None = list(sizes)
        self.sides, self.rim = sides, rim
        self._counts = [math.prod(self._tiles(size)) for size in sizes]

    def count(self, pair: int) -> int:
        return self._counts[pair]

    def hold(self, image: Tensor, mask: Tensor, intensities: Tensor | None, size: int) -> CachedSample:
        return CachedSample(image, mask, intensities)

    def cut(self, cached: CachedSample, number: int, index: int, epoch: int) -> tuple[Tensor, Tensor]:
        size = tuple(cached.mask.shape)
        place = map(int, np.unravel_index(number, self._tiles(size)))
        starts, own = zip(*map(self._own, size, self.sides, place), strict=True)
        seen = [side + 2 * self.rim for side in self.sides]
        mask = torch.full(seen, IGNORED, dtype=cached.mask.dtype)
        center_crop(mask, self.sides)[own] = _window(cached.mask, starts, self.sides)[own]
        return _window(cached.image, [start - self.rim for start in starts], seen), mask

    def _tiles(self, size: Sequence[int]) -> tuple[int, ...]:
        """Number of tiles along each axis."""
        return tuple(len(_starts(length, side)) for length, side in zip(size, self.sides, strict=True))

    @staticmethod
    def _own(length: int, side: int, tile: int) -> tuple[int, slice]:
        """Start of a tile along an axis, and the part of it within the image and in no earlier tile."""
        starts = _starts(length, side)
        start = starts[tile]
        first = max(0, starts[tile - 1] + side) if tile else 0
        return start, slice(first - start, min(start + side, length) - start)


@lru_cache(maxsize=4096)
def _starts(length: int, side: int) -> tuple[int, ...]:
    return lay_tiles(length, side, overlap=0.0).starts


def patch_of(sides: tuple[int, ...]) -> tuple[int, ...]:
    """Sides of the patches that are warped for a network input of these sides: along the axes that a warp mixes, see
    `augment`."""
    turned = sides if is_cube(sides) else sides[-2:]
    return (*sides[: -len(turned)], *(side + 2 * math.ceil((PATCH - 1) * side / 2) for side in turned))


def _classes(mask: Tensor) -> np.ndarray:
    """The class indices of a mask that may have object numbers too, see objects.numbered."""
    return mask.numpy() if mask.dtype == torch.uint8 else (mask % CLASSES).to(torch.uint8).numpy()


def find_places(mask: np.ndarray) -> ForegroundIndex | None:
    """Index of the foreground of a (*spatial) uint8 mask: neither background nor IGNORED; None without foreground."""
    rows = mask.reshape(-1, mask.shape[-1])
    counts = np.stack([np.bincount(row, minlength=IGNORED + 1)[1:IGNORED] for row in rows])
    present = np.flatnonzero(counts.any(0))
    return ForegroundIndex(present + 1, counts[:, present].cumsum(0)) if len(present) else None


def _draw_foreground(mask: Tensor, places: ForegroundIndex, draw: np.random.Generator) -> tuple[int, ...]:
    """Place of a foreground pixel along each axis; its class and then the pixel are drawn uniformly."""
    which = int(draw.integers(len(places.classes)))
    up_to = places.up_to[:, which]
    rank = int(draw.integers(up_to[-1]))
    # The n-th pixel of the class: the row by binary search in the cumulative counts, then the column within the row. So
    # only an (H, classes) table is cached, not all coordinates.
    row = int(np.searchsorted(up_to, rank, side="right"))
    columns = np.flatnonzero(_classes(mask.view(-1, mask.shape[-1])[row]) == places.classes[which])
    around = np.unravel_index(row, mask.shape[:-1])
    return *map(int, around), int(columns[rank - (up_to[row - 1] if row else 0)])


def _window(pixels: Tensor, starts: Sequence[int], sides: Sequence[int]) -> Tensor:
    """(..., *spatial) -> (..., *sides) from `starts` on, reflected beyond the border; a copy, unless it is the whole
    array."""
    values = pixels.numpy()
    spans = list(zip(starts, sides, pixels.shape[-len(sides) :], strict=True))
    places: tuple[Any, ...] = tuple(slice(start, start + side) for start, side, _ in spans)
    if not all(start >= 0 and start + side <= length for start, side, length in spans):
        places = np.ix_(*(mirrored(start, start + side, length) for start, side, length in spans))
    return torch.from_numpy(np.ascontiguousarray(values[(..., *places)]))
