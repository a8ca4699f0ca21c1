"""Read a page of a TIFF in bands of rows from top to bottom, with memory for a band instead of the page."""

from __future__ import annotations

import math
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

import numpy as np
from tifffile import TiffFile, TiffFrame, TiffPage

from unet_cli.data.formats.decoded import Decoded, Outline, check_pixels
from unet_cli.data.formats.tiff import JPEG, check_part, check_segments, left_to_pillow, rules_itself, tiff_colours
from unet_cli.data.formats.tiff_pages import PageTable, Plane, open_tiff
from unet_cli.system.prefetch import default_workers, prefetch

BAND_ROWS = 256  # minimum rows of a band without tiles: fewer cost more overhead than decoding
SMALL_PART = 65_536  # pixels: strips and tiles below are decoded several per task, since each is cheaper than a task


class _Part(NamedTuple):
    """A piece of a band. values: (h, w, interleaved samples), which may extend beyond the right and lower edge."""

    sample: int
    top: int
    left: int
    values: np.ndarray


class _Storage(Protocol):
    """How a plane is stored in its file. rows: of a band. part_pixels: pixels that one `read` returns; it is
    thread-safe."""

    @property
    def rows(self) -> int: ...

    @property
    def part_pixels(self) -> int: ...

    def parts(self, top: int, bottom: int) -> list[Any]:
        """The arguments of `read` for a band."""

    def read(self, part: Any) -> _Part: ...


@dataclass(frozen=True)
class _Rows:
    """Uncompressed contiguous rows, with separate samples one after the other."""

    file: BinaryIO
    order: Any  # byte order
    keyframe: TiffPage
    offset: int
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def rows(self) -> int:
        return BAND_ROWS

    @property
    def part_pixels(self) -> int:
        return self.rows * self.keyframe.imagewidth

    def parts(self, top: int, bottom: int) -> list[tuple[int, int, int]]:
        return [(sample, top, bottom) for sample in range(self.keyframe.shaped[0])]

    def read(self, part: tuple[int, int, int]) -> _Part:
        sample, top, bottom = part
        _, _, height, width, together = self.keyframe.shaped
        assert self.keyframe.dtype is not None
        kind = self.keyframe.dtype.newbyteorder(self.order)
        start = self.offset + (sample * height + top) * width * together * kind.itemsize
        with self.lock:
            self.file.seek(start)
            values = np.frombuffer(self.file.read((bottom - top) * width * together * kind.itemsize), kind)
        return _Part(sample, top, 0, values.reshape(bottom - top, width, together))


@dataclass(frozen=True)
class _Segments:
    """Tiles, with one row of tiles a band, or strips."""

    file: BinaryIO
    keyframe: TiffPage
    page: TiffPage | TiffFrame
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def length(self) -> int:
        return self.keyframe.tilelength if self.keyframe.is_tiled else self.keyframe.rowsperstrip

    @property
    def width(self) -> int:
        return self.keyframe.tilewidth if self.keyframe.is_tiled else self.keyframe.imagewidth

    @property
    def rows(self) -> int:
        return self.length * (1 if self.keyframe.is_tiled else math.ceil(BAND_ROWS / self.length))

    @property
    def part_pixels(self) -> int:
        return self.length * self.width

    def parts(self, top: int, bottom: int) -> list[int]:
        down = math.ceil(self.keyframe.imagelength / self.length)
        across = math.ceil(self.keyframe.imagewidth / self.width)
        first, last = top // self.length, math.ceil(bottom / self.length)
        starts = (sample * down * across for sample in range(self.keyframe.shaped[0]))
        return [part for start in starts for part in range(start + first * across, start + last * across)]

    def read(self, part: int) -> _Part:
        with self.lock:
            self.file.seek(self.page.dataoffsets[part])
            content = self.file.read(self.page.databytecounts[part])
        if rules_itself(self.keyframe):
            check_part(self.keyframe, content)
        tables = {"jpegtables": self.page.jpegtables} if self.keyframe.compression in JPEG else {}
        values, (sample, _, top, left, _), _ = self.keyframe.decode(content, part, **tables)
        assert values is not None  # None stands for a missing segment, which check_segments has excluded
        return _Part(sample, top, left, values[0])


def outline_tiff(file: BinaryIO, page: int | None) -> Outline | None:
    """None if bands would save nothing, or the page needs more than decoding: several planes, slices, or an
    orientation."""
    with open_tiff(file) as stack:
        table = stack.table
        planes = table.planes(page)
        storage = _storage(file, stack.tif, table, planes)
        if storage is None or storage.rows >= table.keyframe.imagelength:
            return None
        check_pixels(storage.rows * table.keyframe.imagewidth)
        separate, _, height, width, together = table.keyframe.shaped
        pixel = np.zeros((1, separate * together, 1, 1), table.keyframe.dtype)
        return Outline(height, width, tiff_colours(table.keyframe, pixel, planes=1))


def decode_tiff_bands(file: BinaryIO, page: int | None, top: int) -> Iterator[tuple[int, Decoded]]:
    """(first row, decoded rows) of a page that has an outline, from the band that contains row `top` on."""
    with open_tiff(file) as stack:
        table = stack.table
        storage = _storage(file, stack.tif, table, table.planes(page))
        assert storage is not None
        for start, pixels in _bands(storage, table.keyframe, top):
            yield start, tiff_colours(table.keyframe, pixels, planes=1)


def _storage(file: BinaryIO, tif: TiffFile, table: PageTable, pages: list[list[Plane]]) -> _Storage | None:
    keyframe = table.keyframe
    if len(pages) > 1 or len(pages[0]) > 1 or table.depth > 1 or left_to_pillow(keyframe):
        return None
    if keyframe.tags.valueof(274, default=1) != 1:
        return None
    plane = pages[0][0]
    keyframe = plane.series.keyframe
    if plane.series.dataoffset is not None:
        return _Rows(file, tif.byteorder, keyframe, plane.series.dataoffset + plane.number * keyframe.nbytes)
    check_segments(tif, plane)
    page = plane.page
    if keyframe.is_final:
        return _Rows(file, tif.byteorder, keyframe, page.dataoffsets[0])
    if keyframe.is_contiguous or keyframe.jpegheader is not None:  # tifffile decodes it in one piece
        return None
    keyframe.init_decode()
    return _Segments(file, keyframe, page)


def _bands(storage: _Storage, keyframe: TiffPage, top: int) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, (1, C, h, W)); the parts of the next bands are prefetched, at most as many as a band has."""
    separate, _, height, width, together = keyframe.shaped
    starts = range(top // storage.rows * storage.rows, height, storage.rows)
    bands = [(start, min(start + storage.rows, height)) for start in starts]
    chunk = max(1, SMALL_PART // storage.part_pixels)
    at_once = len(storage.parts(0, min(storage.rows, height))) // chunk
    parts = chain.from_iterable(storage.parts(start, stop) for start, stop in bands)
    read = prefetch(storage.read, parts, depth=max(1, min(2 * default_workers(), at_once)), chunk=chunk)
    with closing(cast("Generator[_Part]", read)):
        for start, stop in bands:
            pixels = np.empty((separate, together, stop - start, width), keyframe.dtype)
            for sample, first, left, values in islice(read, len(storage.parts(start, stop))):
                free = pixels[sample, :, first - start :, left:]
                seen = np.moveaxis(values, -1, 0)[:, : free.shape[1], : free.shape[2]]
                free[:, : seen.shape[1], : seen.shape[2]] = seen
            yield start, pixels.reshape(1, -1, stop - start, width)
