"""What a TIFF file is made of: its directories, and which of its planes make which page of ours."""

from __future__ import annotations

import atexit
import logging
import math
import os
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from tifffile import TiffFile, TiffFrame, TiffPage, TiffPageSeries

from unet_cli.data.formats.decoded import CUT_OFF, Refused, check_page, check_ratio, file_size

# Of odd metadata; what matters for the pixels raises.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module=r"tifffile\.")

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NDPI_FORMAT = 65420  # a tag of every NDPI
TIFF_TYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8, 17: 8}  # bytes each


class Plane(NamedTuple):
    """A page of the TIFF, which may be one channel of a page of ours."""

    series: TiffPageSeries
    number: int

    @property
    def page(self) -> TiffPage | TiffFrame:
        """Raises ValueError where the file doesn't have it."""
        page = self.series[self.number]
        if page is None:
            raise ValueError(CUT_OFF)
        return page

    @property
    def place(self) -> tuple[int, ...]:
        """In the file: the number of its directory, and of the one below it."""
        index: int | tuple[int, ...] = self.page.index
        return index if isinstance(index, tuple) else (index,)


class PageTable(NamedTuple):
    """keyframe: stands for every plane. pages: the planes of each; a plane of `depth` slices is as many pages."""

    keyframe: TiffPage
    pages: list[list[Plane]]
    depth: int

    def __len__(self) -> int:
        return len(self.pages) * self.depth

    @property
    def area(self) -> int:
        """Pixels of a page."""
        return self.keyframe.imagewidth * self.keyframe.imagelength

    def planes(self, page: int | None) -> list[list[Plane]]:
        """Those of one page, or of every one. Raises Refused."""
        check_page(page, len(self))
        return self.pages if page is None else [self.pages[page // self.depth]]


class OpenTiff:
    """A TIFF that is open. identity: of the file as it was."""

    def __init__(self, file: BinaryIO) -> None:
        self.identity = _identity(file)
        self._file = open(file.name, "rb")  # noqa: SIM115  (closed by close)
        try:
            # a page in another file is that file's
            self.tif = TiffFile(self._file, _multifile=False, **_as_ndpi(self._file))
        except BaseException:
            self._file.close()
            raise

    @cached_property
    def table(self) -> PageTable:
        return page_table(self.tif)

    def close(self) -> None:
        self.tif.close()
        self._file.close()


def _as_ndpi(file: BinaryIO) -> dict[str, Any]:
    """That a file is no NDPI whatever its name says, for tifffile would read offsets of 64 bits from it."""
    if not str(file.name).lower().endswith(".ndpi"):
        return {}
    with TiffFile(file, _multifile=False, is_ndpi=False) as tif:
        is_ndpi = NDPI_FORMAT in tif.pages.first.tags
    file.seek(0)
    return {} if is_ndpi else {"is_ndpi": False}


_LOCK = threading.Lock()
_KEPT: list[OpenTiff] = []  # the last ones of many pages, which nobody is reading from
MAX_KEPT = 16


@atexit.register
def close_stacks() -> None:
    """Keep none open."""
    while _KEPT:
        _KEPT.pop().close()


@contextmanager
def open_tiff(file: BinaryIO) -> Iterator[OpenTiff]:
    """The file's directories, which are whole. A stack is read page by page, from any thread: it stays open for the
    next one, so that its directories are not looked through for each."""
    identity = _identity(file)
    with _LOCK:
        stack = next((one for one in _KEPT if one.identity == identity), None)
        if stack is not None:
            _KEPT.remove(stack)
    if stack is None:
        _check_directories(file)
        stack = OpenTiff(file)
    try:
        yield stack
    except BaseException:
        stack.close()
        raise
    dropped = [stack]
    if len(stack.tif.pages) > 1:
        with _LOCK:
            _KEPT.append(stack)
            dropped = [_KEPT.pop(0) for _ in range(len(_KEPT) - MAX_KEPT)]
    for one in dropped:
        one.close()


def _identity(file: BinaryIO) -> tuple[int, ...]:
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def page_table(tif: TiffFile) -> PageTable:
    """Which planes make which page. Pyramid levels, thumbnails and previews are left out."""
    size = tif.filehandle.size
    _check_ome(tif)
    series = [one for one in tif.series if not one.keyframe.is_reduced] or list(tif.series[:1])
    if series[0].kind not in ("generic", "uniform", "shaped", "imagej", "ome"):
        series = series[:1]  # a vendor's format: the others are labels and overviews
    keyframe = series[0].keyframe
    if any(one.keyframe.shaped != keyframe.shaped for one in series):
        raise Refused("holds images of different sizes: split it")
    if any(one.keyframe.dtype != keyframe.dtype or one.keyframe.photometric != keyframe.photometric for one in series):
        raise Refused("holds images of different kinds: split it")
    if tif.is_imagej and series[0].kind != "imagej" and (tif.imagej_metadata or {}).get("images", 1) > len(tif.pages):
        raise ValueError(CUT_OFF)
    if keyframe.dtype is None or keyframe.dtype.kind not in "biuf":
        kind = keyframe.dtype or f"{keyframe.bitspersample}-bit format {keyframe.sampleformat}"
        raise NotImplementedError(f"{kind} numbers are not supported")
    if keyframe.planarconfig not in (1, 2):  # tifffile would leave some of the samples to chance
        raise ValueError(f"its samples are arranged in an unknown way, {keyframe.planarconfig}")
    if 0 in keyframe.shaped:
        raise ValueError("it claims to have no pixels")

    area = keyframe.imagewidth * keyframe.imagelength
    check_ratio(area, keyframe.nbytes, size)
    check_ratio(area, keyframe.tilewidth * keyframe.tilelength * keyframe.tiledepth * keyframe.shaped[4], size)
    pages = [planes for one in series for planes in _planes_of_pages(one, size)]
    if len({len(planes) for planes in pages}) != 1:
        raise Refused("holds images of different numbers of channels: split it")
    if series[0].kind == "generic" and len(series) > 1:  # grouped by how they are stored
        pages.sort(key=lambda planes: planes[0].place)
    return PageTable(keyframe, pages, keyframe.shaped[1])


def _check_directories(file: BinaryIO) -> None:
    """Follow the chain of pages to its end, since tifffile stops without a word where it is cut off, and never in a
    loop; and see that every tag's value is in the file, since tifffile does without those that aren't.
    """
    size = file_size(file)
    file.seek(0)
    header = file.read(16)
    order = "<" if header[:2] == b"II" else ">"
    big = 43 in header[2:4]
    number, link, entry = (struct.Struct(order + code) for code in (("Q", "Q", "HHQQ") if big else ("H", "I", "HHII")))
    offset = link.unpack_from(header, 8 if big else 4)[0]
    seen: set[int] = set()
    while offset or not seen:
        if offset in seen:
            raise ValueError("its pages form a loop")
        seen.add(offset)
        file.seek(offset)
        tags = number.unpack(file.read(number.size))[0]
        if tags > 4096:
            raise ValueError("its list of pages is broken")
        for tag, kind, count, where in entry.iter_unpack(file.read(tags * entry.size)):
            length = count * TIFF_TYPES.get(kind, 0)
            if length > link.size and where + length > size and tag < 1000:  # private tags are not ours to judge
                raise ValueError(CUT_OFF)
        offset = link.unpack(file.read(link.size))[0]
    file.seek(0)


def _check_ome(tif: TiffFile) -> None:
    """tifffile makes room for as many planes as the description claims."""
    sizes: dict[str, int] = {}
    for axis, size in re.findall(r'Size([CZT])="(\d+)"', tif.ome_metadata or ""):
        sizes[axis] = max(int(size), sizes.get(axis, 1))
    if math.prod(sizes.values()) > 10_000_000:
        raise ValueError("its description claims more than 10 million planes")


def _planes_of_pages(series: TiffPageSeries, file_bytes: int) -> list[list[Plane]]:
    """The planes of a series by page: what its axes call a channel or a sample goes into one page."""
    keyframe = series.keyframe
    shape, axes = series.get_shape(squeeze=False), series.get_axes(squeeze=False)
    inner = (start for start in range(len(shape), -1, -1) if math.prod(shape[start:]) == keyframe.size)
    start = next(inner, None)  # where a plane's own axes begin
    leading, names = (shape[:start], axes[:start]) if start is not None else ((len(series),), "Q")
    count = math.prod(leading)
    if series.dataoffset is None:
        complete = count == len(series)
    else:
        complete = 0 < series.dataoffset <= file_bytes - count * keyframe.nbytes
    if count < 1 or not complete:
        raise ValueError(CUT_OFF)
    channels = [axis for axis, name in enumerate(names) if name in "CS"]
    order = np.moveaxis(np.arange(count).reshape(leading), channels, range(-len(channels), 0))
    rows = order.reshape(-1, math.prod(leading[axis] for axis in channels))
    return [[Plane(series, number) for number in row] for row in rows.tolist()]
