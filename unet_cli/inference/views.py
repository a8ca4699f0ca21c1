"""Network inputs of an image: stretched to the networks' size, or in tiles at its own resolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from unet_cli.data.imagefile import Bands
from unet_cli.data.intensities import sampled
from unet_cli.data.mirror import mirrored
from unet_cli.data.preprocess import (
    CONVERTED_TO_GRAY,
    EQUAL_CHANNELS,
    converted,
    measured_intensities,
    prepare,
    resize_image,
)
from unet_cli.data.tiles import Axis, Canvas, lay_tiles
from unet_cli.errors import UserError
from unet_cli.inference.member import Member
from unet_cli.inference.missing import Missing
from unet_cli.system.prefetch import prefetch

Measured = list[Tensor | None]  # for each member, see View.intensities


@dataclass(frozen=True)
class View:
    """One input for all ensemble members: for each its prepared input (C, *sides), and the intensity statistics of the
    whole image where they can't be computed from the input. number: number of the view, from 1. place: position within
    its picture, interpreted by that picture only: empty for a whole image, the tile's number along each axis for a
    tile, with the page before them in a stack."""

    inputs: list[Tensor]
    intensities: list[Tensor | None]
    number: int = 1
    place: tuple[int, ...] = ()


@dataclass(frozen=True)
class Band:
    """Finished rows of an image, from row `top`: the probabilities of each member (K, h, w), to be resized to `size`.
    missing: bool of this size, where pixels of the image are missing; None where none is."""

    top: int
    size: tuple[int, ...]
    probs: list[Tensor]
    missing: np.ndarray | None = None

    def combined(self) -> Tensor:
        """Mean over the ensemble members, (K, *size), in 0 to 1."""
        # Resizing is linear: members of one size are summed first, and resized once.
        by_size: dict[tuple[int, ...], list[Tensor]] = {}
        for probs in self.probs:
            by_size.setdefault(tuple(probs.shape), []).append(probs)
        total = sum(resize_image(_sum(group), self.size) for group in by_size.values())
        assert isinstance(total, Tensor)
        mean = total if len(self.probs) == 1 else total / len(self.probs)
        return mean.clamp_(0, 1)  # rounding may leave the range

    def finished(self) -> Tensor:
        """`combined`, checked to be finite before it becomes a mask. Raises UserError."""
        probs = self.combined()
        if not bool(torch.isfinite(probs).all()):
            raise UserError(
                "the network's output is not finite, since the image's values are too far from those of the training "
                "images: look for no-data values such as -3.4e38 and replace them, or try --precision float32"
            )
        return probs


class Picture(Protocol):
    """An image, stack or volume as a sequence of network inputs (views).

    size: (H, W); of a stack or volume (D * H, W), with its pages or slices one below the other. shape: (H, W), or
    (D, H, W). notes: conversions that were made. view_count: total number of views; views_are: what a view is called in
    messages.
    """

    size: tuple[int, int]
    shape: tuple[int, ...]
    notes: set[str]
    view_count: int
    views_are: str

    def views(self, top: int = 0) -> Generator[View]:
        """The views for the rows from `top` on, in order. Raises UserError."""

    def add(self, view: View, probs: list[Tensor]) -> Band | None:
        """Add the probabilities of a view; returns the rows that it completes, if any. Views are added in their order.
        Rows above `top` may be among them."""


class Stretched:
    """An image that is stretched to the network's size in a single view; its probabilities are stretched back.

    See Picture. Raises UserError where the image doesn't fit the network.
    """

    views_are = "image"

    def __init__(
        self,
        members: Sequence[Member],
        pixels: np.ndarray,
        notes: Iterable[str] = (),
        intensities: Measured | None = None,
    ) -> None:
        """pixels: (C, H, W). intensities: statistics for each member, where they aren't those of the image itself."""
        self.size = (pixels.shape[1], pixels.shape[2])
        self.shape: tuple[int, ...] = self.size
        self.view_count = 1
        prepared = [prepare(pixels, member.preprocessing) for member in members]
        self.notes = {*notes, *(note for _, note in prepared if note)}
        self._view = View([image for image, _ in prepared], intensities or [None] * len(prepared))
        self._missing = Missing()
        self._missing.note(0, pixels)

    def views(self, top: int = 0) -> Generator[View]:
        yield self._view

    def add(self, view: View, probs: list[Tensor]) -> Band | None:
        return Band(0, self.size, probs, self._missing.taken(0, self.size))


class Tiled:
    """An image or volume that is predicted in overlapping tiles, one layer of tiles along the first axis after another;
    see data/tiles.py.

    In memory are the rows of an image, or the slices of a volume, that a layer of tiles needs, and their probabilities.
    The members of an ensemble share the tile grid, with the largest of their sides along each axis. See Picture.
    """

    views_are = "tile"

    def __init__(
        self,
        members: Sequence[Member],
        bands: Bands,
        overlap: float,
        measured: Bands | None = None,
        intensities: Measured | None = None,
    ) -> None:
        """measured: the file of which the intensity statistics are taken, if `bands` are not as in the file.
        intensities: statistics for each member, where they aren't those of this file."""
        self._known = intensities
        self.shape: tuple[int, ...] = bands.spatial
        self.size = (math.prod(self.shape[:-1]), self.shape[-1])
        self.notes = set(bands.notes)
        self._missing = Missing()
        self._members, self._bands, self._measured = members, self._missing.noted(bands), measured or bands
        self.axes = tuple(_laid(members, axis, length, overlap) for axis, length in enumerate(self.shape))
        self.view_count = math.prod(len(axis.starts) for axis in self.axes)
        self._rows_each = math.prod(self.shape[1:-1])  # of a slice of a volume; the row itself of an image
        self._canvas: Canvas | None = None

    def views(self, top: int = 0) -> Generator[View]:
        start_at, axis = top // self._rows_each, self.axes[0]
        # The first layer of tiles that reaches below `top`: rows above it may be predicted again.
        first = next(layer for layer, start in enumerate(axis.starts) if start + axis.side > start_at)
        self._canvas = Canvas(self.axes, first)
        intensities = self._intensities()
        number = first * (self.view_count // len(axis.starts))
        for layer, (start, pixels) in enumerate(self._layers(first), first):
            for place in product(*(range(len(axis.starts)) for axis in self.axes[1:])):
                number += 1
                inputs = [self._cut(pixels, start, (layer, *place), member) for member in self._members]
                yield View(inputs, intensities, number, (layer, *place))

    def add(self, view: View, probs: list[Tensor]) -> Band | None:
        assert self._canvas is not None
        sides = tuple(axis.side for axis in self.axes)
        # Members with other geometries may give more than the tile's side at the end: it is cut off.
        tiles = [part[(slice(None), *map(slice, sides))] for part in probs]
        done = self._canvas.add(view.place, Band(0, sides, tiles).combined())
        if done is None:
            return None
        first, complete = done
        rows, missing = complete.flatten(1, -2), self._missing.taken(first, complete.shape[1:])
        return Band(first * self._rows_each, (rows.shape[1], rows.shape[2]), [rows], missing)

    def _needed(self, layer: int) -> np.ndarray:
        """Indices of the rows, or slices, that any member needs for a layer of tiles, with reflection beyond the
        image."""
        extents = [self._extent(member, 0, layer) for member in self._members]
        first, end = min(first for first, _ in extents), max(end for _, end in extents)
        return mirrored(first, end, self.axes[0].length)

    def _extent(self, member: Member, axis: int, tile: int) -> tuple[int, int]:
        """The first and the end of what a member sees along an axis for a tile, which may lie beyond the image."""
        first = self.axes[axis].starts[tile] - member.along(axis).margin
        return first, first + member.input_side(self.axes[axis].side, axis)

    def _layers(self, first: int) -> Iterator[tuple[int, np.ndarray]]:
        """For each layer of tiles from `first` on: index of the first row or slice in memory, and (C, h, *rest) pixels
        that contain all that it needs."""
        needed = [self._needed(layer) for layer in range(len(self.axes[0].starts))]
        # Reflection at the end may need earlier rows than the layer of tiles before: rows are kept for all later ones.
        keep_from = [int(rows.min()) for rows in needed]
        for layer in reversed(range(len(needed) - 1)):
            keep_from[layer] = min(keep_from[layer], keep_from[layer + 1])
        blocks = self._bands.rows(keep_from[first])
        start, pixels = next(blocks)
        for layer in range(first, len(needed)):
            unneeded = max(keep_from[layer] - start, 0)
            start, parts = start + unneeded, [pixels[:, unneeded:]]
            end = start + parts[0].shape[1]
            while end <= needed[layer].max():
                parts.append(next(blocks)[1])
                end += parts[-1].shape[1]
            pixels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
            del parts  # or the blocks would stay in memory beside their concatenation
            yield start, pixels

    def _cut(self, pixels: np.ndarray, start: int, place: tuple[int, ...], member: Member) -> Tensor:
        """A member's input for a tile, (C, *sides), with reflection beyond the image. start: index of the first row or
        slice of the pixels."""
        seen = [mirrored(*self._extent(member, axis, tile), self.axes[axis].length) for axis, tile in enumerate(place)]
        grid = np.ix_(seen[0] - start, *seen[1:])
        tile, note = converted(np.stack([channel[grid] for channel in pixels]), member.preprocessing)
        if note:  # equal channels in one tile don't mean that the image is gray
            self.notes.add(CONVERTED_TO_GRAY if note == EQUAL_CHANNELS else note)
        return torch.from_numpy(tile)

    def _intensities(self) -> Measured:
        """Intensity statistics of the whole image for each member, from every nth slice, row and column of a large one.
        A tile's own statistics would differ between tiles of one image."""
        if self._known is not None:
            return self._known
        if all(member.preprocessing.intensity == "dataset" for member in self._members):
            return [None] * len(self._members)
        sample = sampled(self._measured)
        return [measured_intensities(sample, member.preprocessing) for member in self._members]


class Stack:
    """The pages of a stack as one image, one below the other: page n has the rows from n * H on.

    Pages are prefetched, and each is released with its last row, so that memory doesn't depend on their number. See
    Picture. Raises UserError where the first page can't be read.
    """

    def __init__(self, read: Callable[[int], Picture], pages: int, workers: int | None, ahead_of: int | None) -> None:
        """read: function that opens a page, counted from 0. ahead_of: number of prefetched pages, None: two for each
        worker."""
        self._read, self._pages, self._workers, self._ahead_of = read, pages, workers, ahead_of
        first = read(0)
        self._height, self._width = first.size
        self.size = (pages * self._height, self._width)
        self.shape: tuple[int, ...] = (pages, *first.size)
        self.notes: set[str] = set()
        self.view_count = pages * first.view_count
        self.views_are = "page" if first.view_count == 1 else first.views_are
        self._opened: dict[int, Picture] = {}

    def views(self, top: int = 0) -> Generator[View]:
        first = top // self._height
        # Pages are opened ahead in threads, but their views are taken in order, since bands must be complete in order.
        pages = prefetch(self._open, range(first, self._pages), self._workers, self._ahead_of)
        try:
            for page, picture in enumerate(pages, first):
                self._opened[page] = picture
                for view in picture.views(max(top - page * self._height, 0)):
                    yield replace(view, place=(page, *view.place), number=view.number + page * picture.view_count)
        except UserError as error:
            raise UserError(
                f"{error}; so the stack has no mask; --format png writes those of its other pages"
            ) from error

    def add(self, view: View, probs: list[Tensor]) -> Band | None:
        page, *place = view.place
        picture = self._opened[page]
        band = picture.add(replace(view, place=tuple(place)), probs)
        if band is None:
            return None
        if band.top + band.size[0] == self._height:
            del self._opened[page]
            self.notes |= picture.notes
        return replace(band, top=band.top + page * self._height)

    def _open(self, page: int) -> Picture:
        picture = self._read(page)
        assert picture.size == (self._height, self._width), "readers refuse stacks of several sizes"
        return picture


def tile_sides(members: Sequence[Member]) -> tuple[int, ...]:
    """Output sides of a tile for all members, one for each spatial axis."""
    return tuple(_tile_side(members, axis)[0] for axis in range(len(members[0].preprocessing.sides)))


def check_inputs(members: Sequence[Member], mode: str) -> None:
    """Raises UserError where networks of fixed size would see images or tiles of another. mode: 'resize' or 'tile'."""
    outputs = tile_sides(members)
    for member in members:
        wanted: tuple[int | None, ...] = member.preprocessing.sides
        why = "its own description" if mode == member.preprocessing.mode else f"--mode {mode}"
        if mode == "tile":
            wanted = tuple(member.input_side(side, axis) for axis, side in enumerate(outputs))
            why = f"{why}, with tiles for all --weights" if len(members) > 1 else why
        elif member.preprocessing.scale is not None:
            wanted = (None, None)  # images differ in size
        member.check_input(wanted, why)


def _tile_side(members: Sequence[Member], axis: int) -> tuple[int, int]:
    """Output side of a tile for all members along an axis, and the grid on which tiles start, in pixels."""
    stride = math.lcm(*(member.along(axis).stride for member in members))
    side = max(member.preprocessing.sides[axis] for member in members)
    return -(-side // stride) * stride, stride


def _laid(members: Sequence[Member], axis: int, length: int, overlap: float) -> Axis:
    """The tiles along an axis."""
    reaches = [member.along(axis).reach for member in members]
    reach = None if None in reaches else max(value for value in reaches if value is not None)
    side, stride = _tile_side(members, axis)
    return lay_tiles(length, side, overlap, stride, reach)


def _sum(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.stack(tensors).sum(0)
