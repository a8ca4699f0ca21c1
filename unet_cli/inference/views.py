"""Network inputs of an image: stretched to the networks' size, or in tiles at its own resolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from unet_cli.data.imagefile import Bands
from unet_cli.data.preprocess import (
    CONVERTED_TO_GRAY,
    EQUAL_CHANNELS,
    converted,
    measured_intensities,
    measured_step,
    prepare,
    resize_image,
)
from unet_cli.data.tiles import Canvas, lay_tiles, mirrored
from unet_cli.errors import UserError
from unet_cli.inference.member import Member
from unet_cli.system.prefetch import prefetch


@dataclass(frozen=True)
class View:
    """One input for all ensemble members: for each its prepared input (C, S, S), and the intensity statistics of the
    whole image where they can't be computed from the input. number: number of the view, from 1. place: position within
    its picture, interpreted by that picture only: empty for a whole image, (row, column) for a tile, with the page
    before them in a stack."""

    inputs: list[Tensor]
    intensities: list[Tensor | None]
    number: int = 1
    place: tuple[int, ...] = ()


@dataclass(frozen=True)
class Band:
    """Finished rows of an image, from row `top`: the probabilities of each member (K, h, w), to be resized to
    `size`."""

    top: int
    size: tuple[int, int]
    probs: list[Tensor]

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
    """An image as a sequence of network inputs (views). size: (H, W). notes: conversions that were made. view_count:
    total number of views; views_are: what a view is called in messages."""

    size: tuple[int, int]
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

    def __init__(self, members: Sequence[Member], pixels: np.ndarray, notes: Iterable[str] = ()) -> None:
        """pixels: (C, H, W)."""
        self.size = (pixels.shape[1], pixels.shape[2])
        self.view_count = 1
        prepared = [prepare(pixels, member.preprocessing) for member in members]
        self.notes = {*notes, *(note for _, note in prepared if note)}
        self._view = View([image for image, _ in prepared], [None] * len(prepared))

    def views(self, top: int = 0) -> Generator[View]:
        yield self._view

    def add(self, view: View, probs: list[Tensor]) -> Band | None:
        return Band(0, self.size, probs)


class Tiled:
    """An image that is predicted in overlapping tiles, one row of tiles after another; see data/tiles.py.

    In memory are the image rows that a row of tiles needs, and their probabilities. The members of an ensemble share
    the tile grid, with the largest of their sizes. See Picture.
    """

    views_are = "tile"

    def __init__(self, members: Sequence[Member], bands: Bands, overlap: float) -> None:
        self.size = (bands.height, bands.width)
        self.notes = set(bands.notes)
        self._members, self._bands = members, bands
        reaches = [member.geometry.reach for member in members]
        reach = None if None in reaches else max(value for value in reaches if value is not None)
        self._side, stride = tile_side(members)
        self.rows, self.columns = (lay_tiles(length, self._side, overlap, stride, reach) for length in self.size)
        self.view_count = len(self.rows.starts) * len(self.columns.starts)
        self._canvas: Canvas | None = None

    def views(self, top: int = 0) -> Generator[View]:
        # The first row of tiles that reaches below `top`: rows above it may be predicted again.
        first = next(row for row, start in enumerate(self.rows.starts) if start + self._side > top)
        self._canvas = Canvas(self.rows, self.columns, first)
        intensities = self._intensities()
        for row, (start, pixels) in enumerate(self._rows(first), first):
            for column, left in enumerate(self.columns.starts):
                inputs = [self._cut(pixels, start, row, left, member) for member in self._members]
                yield View(inputs, intensities, 1 + row * len(self.columns.starts) + column, (row, column))

    def add(self, view: View, probs: list[Tensor]) -> Band | None:
        assert self._canvas is not None
        row, column = view.place
        # Members with other geometries may give more than the tile's side at the end: it is cut off.
        tiles = [part[:, : self._side, : self._side] for part in probs]
        done = self._canvas.add(row, column, Band(0, (self._side, self._side), tiles).combined())
        return Band(done[0], (done[1].shape[1], done[1].shape[2]), [done[1]]) if done else None

    def _rows_needed(self, row: int) -> np.ndarray:
        """Indices of the image rows that any member needs for a row of tiles, with reflection beyond the image."""
        start = self.rows.starts[row]
        extents = [
            (start - member.geometry.margin, start - member.geometry.margin + member.input_side(self._side))
            for member in self._members
        ]
        return mirrored(min(first for first, _ in extents), max(end for _, end in extents), self.rows.length)

    def _rows(self, first: int) -> Iterator[tuple[int, np.ndarray]]:
        """For each row of tiles from `first` on: index of the first image row in memory, and (C, h, W) pixels that
        contain all rows that it needs."""
        needed = [self._rows_needed(row) for row in range(len(self.rows.starts))]
        # Reflection at the end may need earlier rows than the row of tiles before: rows are kept for all later ones.
        keep_from = [int(rows.min()) for rows in needed]
        for tile in reversed(range(len(needed) - 1)):
            keep_from[tile] = min(keep_from[tile], keep_from[tile + 1])
        blocks = self._bands.rows(keep_from[first])
        start, pixels = next(blocks)
        for tile in range(first, len(needed)):
            unneeded = max(keep_from[tile] - start, 0)
            start, parts = start + unneeded, [pixels[:, unneeded:]]
            end = start + parts[0].shape[1]
            while end <= needed[tile].max():
                parts.append(next(blocks)[1])
                end += parts[-1].shape[1]
            pixels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
            del parts  # or the blocks would stay in memory beside their concatenation
            yield start, pixels

    def _cut(self, pixels: np.ndarray, start: int, row: int, left: int, member: Member) -> Tensor:
        """A member's input for a tile, (C, S, S), with reflection beyond the image."""
        side, margin = member.input_side(self._side), member.geometry.margin
        top = self.rows.starts[row] - margin
        ys = mirrored(top, top + side, self.rows.length) - start
        xs = mirrored(left - margin, left - margin + side, self.columns.length)
        tile, note = converted(np.ascontiguousarray(pixels[:, ys[:, None], xs]), member.preprocessing)
        if note:  # equal channels in one tile don't mean that the image is gray
            self.notes.add(CONVERTED_TO_GRAY if note == EQUAL_CHANNELS else note)
        return torch.from_numpy(tile)

    def _intensities(self) -> list[Tensor | None]:
        """Intensity statistics of the whole image for each member, from every nth row and column of a large image. A
        tile's own statistics would differ between tiles of one image."""
        if all(member.preprocessing.intensity == "dataset" for member in self._members):
            return [None] * len(self._members)
        step = measured_step(self._bands.channels, *self.size)
        sample = np.concatenate([block[:, -top % step :: step, ::step] for top, block in self._bands.rows()], axis=1)
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


def tile_side(members: Sequence[Member]) -> tuple[int, int]:
    """Output side of a tile for all members, and the grid on which tiles start, in pixels."""
    stride = math.lcm(*(member.geometry.stride for member in members))
    size = max(member.preprocessing.size for member in members)
    return -(-size // stride) * stride, stride


def _sum(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.stack(tensors).sum(0)
