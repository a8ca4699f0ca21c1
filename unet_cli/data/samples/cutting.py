"""How images become samples of the network's size: stretched, as random crops for training, or in a grid of tiles."""

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

PATCH = 1.5  # side of what is cut out, as a multiple of what the network sees: warps bring in what is around it
CROP_DRAWS = 1  # last part of the seed: other numbers than those that augmentation draws for the same sample


@dataclass(frozen=True, eq=False)
class ForegroundIndex:
    """Where a mask has foreground. classes: those it has. up_to: (H, classes) pixels of each, in the rows up to each
    one, itself included."""

    classes: np.ndarray
    up_to: np.ndarray


@dataclass(frozen=True, eq=False)
class CachedSample:
    """What is held of a pair that was read: image (C, H, W) as in the file, mask (H, W) as of the data set,
    intensities (4,) of the whole image where tiles need them, and places where crops are laid on foreground."""

    image: Tensor
    mask: Tensor
    intensities: Tensor | None = None
    places: ForegroundIndex | None = None

    @property
    def nbytes(self) -> int:
        return self.image.nbytes + self.mask.nbytes + (self.places.up_to.nbytes if self.places else 0)


class Cutting(Protocol):
    """Samples out of images.

    sizes: (H, W) of each pair, where samples are cut at the images' own resolution; None where images are stretched.
    """

    sizes: list[tuple[int, int]] | None

    def count(self, pair: int) -> int:
        """How many samples pair number `pair` gives in an epoch."""

    def hold(self, image: Tensor, mask: Tensor, intensities: Tensor | None, size: int) -> CachedSample:
        """What samples are cut from. size: side of what the network sees, if it's stretched."""

    def cut(self, held: CachedSample, number: int, index: int, epoch: int) -> tuple[Tensor, Tensor]:
        """One sample: image (C, P, P) and mask (P, P). number: which one of its pair; index: of the data set."""


class Whole:
    """Each image is one sample, stretched to the network's size."""

    sizes: list[tuple[int, int]] | None = None

    def count(self, pair: int) -> int:
        return 1

    def hold(self, image: Tensor, mask: Tensor, intensities: Tensor | None, size: int) -> CachedSample:
        return CachedSample(resize_image(image, (size, size)), resize_mask(mask, (size, size)))

    def cut(self, held: CachedSample, number: int, index: int, epoch: int) -> tuple[Tensor, Tensor]:
        return held.image, held.mask


class Crops:
    """Random crops, so many that an epoch sees each pixel about once; a function of seed, epoch and sample alone.

    They are cut at the images' own resolution, or, with `stretched`, out of images stretched to that side. A crop is
    `patch_side` pixels wide, of which the network sees the `side` pixels in the middle once the patch is warped. This
    middle lies within the image; where the image is smaller, it has the image in its centre. Beyond the image's border
    it goes on mirrored.

    foreground: share of the samples whose middle is laid on a pixel of foreground: first one of the foreground classes
    that the mask has, each as likely, so that rare ones come as often; then one of its pixels, which may come to lie
    anywhere in the middle. A mask without foreground gives plain crops.

    repeats: an epoch is so many times as long.
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
        """sizes: (H, W) of each pair. patch_side: see `patch_side_of`; `side` where nothing is warped."""
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

    def cut(self, held: CachedSample, number: int, index: int, epoch: int) -> tuple[Tensor, Tensor]:
        draw = np.random.default_rng((self.seed, epoch, index, CROP_DRAWS))
        pixel = None
        if draw.random() < self.foreground and held.places is not None:
            pixel = _draw_foreground(_classes(held.mask), held.places, draw)
        rim = (self.patch_side - self.side) // 2
        top, left = (
            self._start(length, None if pixel is None else pixel[axis], draw) - rim
            for axis, length in enumerate(held.mask.shape)
        )
        return _window(held.image, top, left, self.patch_side), _window(held.mask, top, left, self.patch_side)

    def _start(self, length: int, place: int | None, draw: np.random.Generator) -> int:
        """Where the middle begins along an axis, so that it contains `place`, if given."""
        if length <= self.side:
            return -((self.side - length) // 2)
        if place is None:
            return int(draw.integers(length - self.side + 1))
        return int(np.clip(place - draw.integers(self.side), 0, length - self.side))


class Grid:
    """Tiles side by side that cover each image, in reading order.

    The last of a row or column is moved back into the image, where the image is smaller it is mirrored; the mask there
    is IGNORED, so that each pixel of the image counts exactly once. Around each tile a rim of its surroundings comes
    with it, IGNORED too.
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

    def cut(self, held: CachedSample, number: int, index: int, epoch: int) -> tuple[Tensor, Tensor]:
        height, width = held.mask.shape
        row, column = divmod(number, len(_starts(width, self.side)))
        (top, rows), (left, columns) = self._own(height, row), self._own(width, column)
        seen = self.side + 2 * self.rim
        mask = torch.full((seen, seen), IGNORED, dtype=held.mask.dtype)
        center_crop(mask, self.side)[rows, columns] = _window(held.mask, top, left, self.side)[rows, columns]
        return _window(held.image, top - self.rim, left - self.rim, seen), mask

    def _own(self, length: int, tile: int) -> tuple[int, slice]:
        """Where a tile begins along an axis, and the part of it that is in the image and in no earlier tile."""
        starts = _starts(length, self.side)
        start = starts[tile]
        first = max(0, starts[tile - 1] + self.side) if tile else 0
        return start, slice(first - start, min(start + self.side, length) - start)


@lru_cache(maxsize=4096)
def _starts(length: int, side: int) -> tuple[int, ...]:
    return lay_tiles(length, side, overlap=0.0).starts


def patch_side_of(side: int) -> int:
    """Side of patches that are warped before the network sees the `side` pixels in their middle."""
    return side + 2 * math.ceil((PATCH - 1) * side / 2)


def _classes(mask: Tensor) -> np.ndarray:
    """Of a mask that may hold numbers of objects too, see objects.numbered."""
    return mask.numpy() if mask.dtype == torch.uint8 else (mask % CLASSES).to(torch.uint8).numpy()


def find_places(mask: np.ndarray) -> ForegroundIndex | None:
    """Where an (H, W) uint8 mask has foreground: neither background nor IGNORED; None if nowhere."""
    counts = np.stack([np.bincount(row, minlength=IGNORED + 1)[1:IGNORED] for row in mask])
    present = np.flatnonzero(counts.any(0))
    return ForegroundIndex(present + 1, counts[:, present].cumsum(0)) if len(present) else None


def _draw_foreground(mask: np.ndarray, places: ForegroundIndex, draw: np.random.Generator) -> tuple[int, int]:
    """Row and column of a pixel of a class, both drawn evenly."""
    which = int(draw.integers(len(places.classes)))
    up_to = places.up_to[:, which]
    rank = int(draw.integers(up_to[-1]))
    row = int(np.searchsorted(up_to, rank, side="right"))
    columns = np.flatnonzero(mask[row] == places.classes[which])
    return row, int(columns[rank - (up_to[row - 1] if row else 0)])


def _window(pixels: Tensor, top: int, left: int, side: int) -> Tensor:
    """(..., H, W) -> (..., side, side) from that place on, mirrored beyond the border; a copy, unless it is all."""
    height, width = pixels.shape[-2:]
    values = pixels.numpy()
    if min(top, left) >= 0 and top + side <= height and left + side <= width:
        part = values[..., top : top + side, left : left + side]
    else:
        part = values[..., mirrored(top, top + side, height)[:, None], mirrored(left, left + side, width)]
    return torch.from_numpy(np.ascontiguousarray(part))
