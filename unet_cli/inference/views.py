"""How an image goes through the networks: stretched to their size, or in tiles at its own."""

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
    """What the networks see at once: for each member its prepared input (C, S, S), and the intensities of the image
    that it is from where these aren't to be found from the input itself. number: of the view, from 1. place: where its
    picture puts it, known to that picture alone: nothing for a whole image, row and column of a tile, the page first
    where it is of a stack."""

    inputs: list[Tensor]
    intensities: list[Tensor | None]
    number: int = 1
    place: tuple[int, ...] = ()


@dataclass(frozen=True)
class Band:
    """Finished rows of an image: the probabilities of each member, (K, h, w), which are of any size that is yet to be
    stretched to `size`."""

    top: int
    size: tuple[int, int]
    probs: list[Tensor]

    def combined(self) -> Tensor:
        """The mean over the members, (K, *size), 0 to 1 whatever was rounded on the way."""
        by_size: dict[tuple[int, ...], list[Tensor]] = {}
        for probs in self.probs:
            by_size.setdefault(tuple(probs.shape), []).append(probs)
        total = sum(resize_image(_sum(group), self.size) for group in by_size.values())
        assert isinstance(total, Tensor)
        mean = total if len(self.probs) == 1 else total / len(self.probs)
        return mean.clamp_(0, 1)

    def finished(self) -> Tensor:
        """The same, of rows that are to become a mask. Raises UserError where there are no probabilities."""
        probs = self.combined()
        if not bool(torch.isfinite(probs).all()):
            raise UserError(
                "the network's answer is not finite, since the values of the image are too far from those of the "
                "training images: look for no-data values such as -3.4e38 and replace them, or try --precision float32"
            )
        return probs


class Picture(Protocol):
    """An image, and how it goes through the networks. size: (H, W). notes: what was converted. view_count: how many
    views there are in all; views_are: what one of several is called."""

    size: tuple[int, int]
    notes: set[str]
    view_count: int
    views_are: str

    def views(self, top: int = 0) -> Generator[View]:
        """What the networks have to see for the rows from `top` on, in order. Raises UserError."""

    def add(self, view: View, probs: list[Tensor]) -> Band | None:
        """What the networks made of a view -> the rows that are finished by it, if any; views come in their order.
        Rows above `top` may be among them."""


class Stretched:
    """An image that is stretched to the network's size, and its probabilities stretched back: a single view.

    See Picture. Raises UserError where the image doesn't suit the network.
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
    """An image that is predicted in overlapping tiles, row of tiles after row of tiles; see tiles.py.

    It holds the rows of the image that a row of tiles needs, and the probabilities of these. With several networks
    their tiles lie alike: the largest of their sizes rules. See Picture.
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
        own = [part[:, : self._side, : self._side] for part in probs]
        done = self._canvas.add(row, column, Band(0, (self._side, self._side), own).combined())
        return Band(done[0], (done[1].shape[1], done[1].shape[2]), [done[1]]) if done else None

    def _rows_seen(self, row: int) -> np.ndarray:
        """The rows of the image that all members together see for a row of tiles, and their mirrors."""
        start = self.rows.starts[row]
        extents = [
            (start - member.geometry.margin, start - member.geometry.margin + member.input_side(self._side))
            for member in self._members
        ]
        return mirrored(min(first for first, _ in extents), max(end for _, end in extents), self.rows.length)

    def _rows(self, first: int) -> Iterator[tuple[int, np.ndarray]]:
        """For each row of tiles from `first` on: the first row of the image that is held, and (C, h, W) pixels that
        hold all rows that it needs."""
        needed = [self._rows_seen(row) for row in range(len(self.rows.starts))]
        keep_from = [int(rows.min()) for rows in needed]
        for tile in reversed(range(len(needed) - 1)):
            keep_from[tile] = min(keep_from[tile], keep_from[tile + 1])
        blocks = self._bands.rows(keep_from[first])
        start, held = next(blocks)
        for tile in range(first, len(needed)):
            passed = max(keep_from[tile] - start, 0)
            start, parts = start + passed, [held[:, passed:]]
            end = start + parts[0].shape[1]
            while end <= needed[tile].max():
                parts.append(next(blocks)[1])
                end += parts[-1].shape[1]
            held = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
            del parts
            yield start, held

    def _cut(self, pixels: np.ndarray, start: int, row: int, left: int, member: Member) -> Tensor:
        """A member's input for a tile, (C, S, S), mirrored beyond the image."""
        side, margin = member.input_side(self._side), member.geometry.margin
        top = self.rows.starts[row] - margin
        ys = mirrored(top, top + side, self.rows.length) - start
        xs = mirrored(left - margin, left - margin + side, self.columns.length)
        tile, note = converted(np.ascontiguousarray(pixels[:, ys[:, None], xs]), member.preprocessing)
        if note:  # some tiles of a colour image are gray
            self.notes.add(CONVERTED_TO_GRAY if note == EQUAL_CHANNELS else note)
        return torch.from_numpy(tile)

    def _intensities(self) -> list[Tensor | None]:
        """For each member those of the whole image, from every nth row and column of a large one."""
        if all(member.preprocessing.intensity == "dataset" for member in self._members):
            return [None] * len(self._members)
        step = measured_step(self._bands.channels, *self.size)
        sample = np.concatenate([block[:, -top % step :: step, ::step] for top, block in self._bands.rows()], axis=1)
        return [measured_intensities(sample, member.preprocessing) for member in self._members]


class Stack:
    """The pages of a stack as one image, one below the other: rows of the nth are those from n * H on.

    Some pages are opened ahead; each is let go with its last row, so that memory doesn't depend on their number. See
    Picture. Raises UserError where the first page can't be had.
    """

    def __init__(self, read: Callable[[int], Picture], pages: int, workers: int | None, ahead_of: int | None) -> None:
        """read: opens a page, counted from 0. ahead_of: how many are opened ahead; two for each worker unless given."""
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
        pages = prefetch(self._open, range(first, self._pages), self._workers, self._ahead_of)
        try:
            for page, picture in enumerate(pages, first):
                self._opened[page] = picture
                for view in picture.views(max(top - page * self._height, 0)):
                    yield replace(view, place=(page, *view.place), number=view.number + page * picture.view_count)
        except UserError as error:
            raise UserError(
                f"{error}; the stack has no mask, those of its other pages come with --format png"
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
    """Of the output of a tile that suits all, and the grid that tiles start on, in pixels."""
    stride = math.lcm(*(member.geometry.stride for member in members))
    size = max(member.preprocessing.size for member in members)
    return -(-size // stride) * stride, stride


def _sum(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.stack(tensors).sum(0)
