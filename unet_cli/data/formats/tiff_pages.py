"""The structure of a TIFF file: its directories, and which planes form which page."""

from __future__ import annotations

import atexit
import logging
import math
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

from unet_cli.data.formats.decoded import CUT_OFF, Refused, check_page, check_ratio, file_size, identity_of

# Warnings about odd metadata; errors that matter for the pixels are raised.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module=r"tifffile\.")

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NDPI_FORMAT = 65420  # a tag of every NDPI
TIFF_TYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8, 17: 8}  # type -> bytes


class Plane(NamedTuple):
    """A page in the sense of TIFF, which may be one channel of a page of ours."""

    series: TiffPageSeries
    number: int

    @property
    def page(self) -> TiffPage | TiffFrame:
        """The TIFF page. Raises ValueError if the file lacks it."""
        page = self.series[self.number]
        if page is None:
            raise ValueError(CUT_OFF)
        return page

    @property
    def place(self) -> tuple[int, ...]:
        """Position in the file: the index of its directory, and of its subdirectory."""
        index: int | tuple[int, ...] = self.page.index
        return index if isinstance(index, tuple) else (index,)


class PageTable(NamedTuple):
    """The pages of a file. keyframe: the TIFF page whose tags apply to all planes. pages: the planes of each page; a
    plane with `depth` slices is that many pages."""

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
        """The planes of one page, or of all pages. Raises Refused."""
        check_page(page, len(self))
        return self.pages if page is None else [self.pages[page // self.depth]]

    def directory(self, page: int | None) -> TiffPage:
        """The TIFF page with the tags of a page of ours, or of the first. Raises Refused."""
        series, number = plane = self.planes(page)[0][0]
        # a contiguous series may have a directory for its first plane only
        return series.keyframe if series.dataoffset is not None and number else plane.page.aspage()


class OpenTiff:
    """An open TIFF. identity: device, inode, size and modification time when it was opened."""

    def __init__(self, file: BinaryIO) -> None:
        self.identity = identity_of(file)
        self._file = open(file.name, "rb")  # noqa: SIM115  (closed by close)
        try:
            # _multifile=False: pages in other files of an OME set belong to those files
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
    """Options that keep tifffile from reading a file named .ndpi with 64-bit offsets, if it is no NDPI."""
    if not str(file.name).lower().endswith(".ndpi"):
        return {}
    with TiffFile(file, _multifile=False, is_ndpi=False) as tif:
        is_ndpi = NDPI_FORMAT in tif.pages.first.tags
    file.seek(0)
    return {} if is_ndpi else {"is_ndpi": False}


_LOCK = threading.Lock()
_KEPT: list[OpenTiff] = []  # pool of idle multi-page files, the last used at the end
MAX_KEPT = 16


@atexit.register
def close_stacks() -> None:
    """Close all files of the pool."""
    while _KEPT:
        _KEPT.pop().close()


@contextmanager
def open_tiff(file: BinaryIO) -> Iterator[OpenTiff]:
    """An open TIFF with checked directories. Multi-page files are read page by page from several threads, so they are
    kept open in a pool: their directories are then not parsed for each page."""
    identity = identity_of(file)
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


def page_table(tif: TiffFile) -> PageTable:
    """Assign planes to pages. Pyramid levels, thumbnails, previews and transparency masks are left out."""
    size = tif.filehandle.size
    _check_ome(tif)
    whole = [one for one in tif.series if not (one.keyframe.is_reduced or one.keyframe.is_mask)]
    series = whole or list(tif.series[:1])
    if series[0].kind not in ("generic", "uniform", "shaped", "imagej", "ome"):
        series = series[:1]  # in vendors' formats the other series are labels and overviews
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
    if keyframe.planarconfig not in (1, 2):  # tifffile would leave some samples uninitialized
        raise ValueError(f"its samples are arranged in an unknown way, {keyframe.planarconfig}")
    if 0 in keyframe.shaped:
        raise ValueError("it claims to have no pixels")

    area = keyframe.imagewidth * keyframe.imagelength
    check_ratio(area, keyframe.nbytes, size)
    check_ratio(area, keyframe.tilewidth * keyframe.tilelength * keyframe.tiledepth * keyframe.shaped[4], size)
    pages = [planes for one in series for planes in _planes_of_pages(one, size)]
    if len({len(planes) for planes in pages}) != 1:
        raise Refused("holds images of different numbers of channels: split it")
    if series[0].kind == "generic" and len(series) > 1:  # tifffile has grouped them by storage
        pages.sort(key=lambda planes: planes[0].place)
    return PageTable(keyframe, pages, keyframe.shaped[1])


def _check_directories(file: BinaryIO) -> None:
    """Follow the chain of directories to its end, since tifffile silently stops where it is truncated, and detect
    loops; and check that every tag's value is within the file, since tifffile ignores missing ones."""
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
            if length > link.size and where + length > size and tag < 1000:  # private tags may be anything
                raise ValueError(CUT_OFF)
        offset = link.unpack(file.read(link.size))[0]
    file.seek(0)


def _check_ome(tif: TiffFile) -> None:
    """Limit the planes that the OME description claims: tifffile allocates for all of them."""
    sizes: dict[str, int] = {}
    for axis, size in re.findall(r'Size([CZT])="(\d+)"', tif.ome_metadata or ""):
        sizes[axis] = max(int(size), sizes.get(axis, 1))
    if math.prod(sizes.values()) > 10_000_000:
        raise ValueError("its description claims more than 10 million planes")


def _planes_of_pages(series: TiffPageSeries, file_bytes: int) -> list[list[Plane]]:
    """The planes of a series by page: the axes C (channel) and S (sample) are joined in one page."""
    keyframe = series.keyframe
    shape, axes = series.get_shape(squeeze=False), series.get_axes(squeeze=False)
    inner = (start for start in range(len(shape), -1, -1) if math.prod(shape[start:]) == keyframe.size)
    start = next(inner, None)  # first axis within a plane
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
