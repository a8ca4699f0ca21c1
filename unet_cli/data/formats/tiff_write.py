"""Write masks as TIFF in a stream of rows, with the tags taken over from their image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import DTypeLike
from tifffile import TiffFile, TiffPage, TiffWriter

from unet_cli.data.formats.decoded import read
from unet_cli.data.formats.geo import (
    KEY_NUMBERS,
    KEY_TEXTS,
    KEYS,
    ORIENTATION,
    PIXEL_SCALE,
    RATIONAL_POLYNOMIALS,
    TIE_POINTS,
    TRANSFORMATION,
    tagged_place,
    turned_tags,
)
from unet_cli.data.formats.tiff_pages import TIFF_SIGNATURES, open_tiff
from unet_cli.data.slabs import regrouped
from unet_cli.system.prefetch import default_workers

SOFTWARE = "unet"
TILE = 512
CLASSIC_BYTES = 2**32 - 2**26  # maximum bytes of pixels in a classic TIFF, with room for the directory
TILES_AHEAD = 2**24  # bytes that are compressed concurrently

Tags: TypeAlias = tuple[tuple[int, int, int, Any], ...]  # (number, type, count, value) as TIFF numbers them

ASCII, SHORT, RATIONAL, DOUBLE = 2, 3, 5, 12
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
PLACES = {
    X_RESOLUTION: RATIONAL,
    Y_RESOLUTION: RATIONAL,
    RESOLUTION_UNIT: SHORT,
    285: ASCII,  # page name
    297: SHORT,  # page number
    PIXEL_SCALE: DOUBLE,
    TIE_POINTS: DOUBLE,
    TRANSFORMATION: DOUBLE,
    KEYS: SHORT,
    KEY_NUMBERS: DOUBLE,
    KEY_TEXTS: ASCII,
    RATIONAL_POLYNOMIALS: DOUBLE,
}


def write_tiff(
    file: BinaryIO,
    rows: Iterable[np.ndarray],
    shape: tuple[int, ...],
    dtype: DTypeLike,
    palette: list[int] | None = None,
    tags: Tags = (),
) -> None:
    """Write one page: tiles of 512 x 512, deflate, reproducible byte for byte.

    rows: blocks (h, W), or (h, W, 3), of any heights, from top to bottom, not modified afterwards; little more than a
    row of tiles is buffered. shape: (H, W) or (H, W, 3). palette: r, g, b, r, g, b ... of 0 to 255, for uint8 indices.
    tags: see `carried_tags`. Raises OSError.
    """
    write_stack(file, [rows], shape, dtype, palette, [tags])


def write_stack(
    file: BinaryIO,
    pages: Iterable[Iterable[np.ndarray]],
    shape: tuple[int, ...],
    dtype: DTypeLike,
    palette: list[int] | None,
    tags: Sequence[Tags],
) -> None:
    """Like `write_tiff`, with several pages of one shape and type. pages: the rows of each page, consumed before the
    next page is requested. tags: of each page. Raises OSError."""
    kind = np.dtype(dtype)
    count = len(tags) * math.ceil(shape[0] / TILE) * math.ceil(shape[1] / TILE)
    tile_bytes = TILE * TILE * kind.itemsize * math.prod(shape[2:])
    with TiffWriter(file, bigtiff=count * tile_bytes > CLASSIC_BYTES, byteorder="<") as writer:
        for rows, own in zip(pages, tags, strict=True):
            known = {tag: value for tag, _, _, value in own}
            writer.write(
                _tiles(rows, shape),
                shape=shape,
                dtype=kind,
                tile=(TILE, TILE),
                compression="adobe_deflate",
                photometric="rgb" if len(shape) == 3 else "minisblack" if palette is None else "palette",
                planarconfig="contig" if len(shape) == 3 else None,
                colormap=None if palette is None else _colormap(palette),
                resolution=(known[X_RESOLUTION], known[Y_RESOLUTION]) if X_RESOLUTION in known else None,
                resolutionunit=known[RESOLUTION_UNIT][0] if RESOLUTION_UNIT in known else None,
                extratags=[(*tag, True) for tag in own if tag[0] not in (X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT)],
                software=SOFTWARE,
                metadata=None,
                maxworkers=default_workers(),
                buffersize=TILES_AHEAD,
            )


def carried_tags(path: Path, page: int | None) -> Tags:
    """The tags of a TIFF page that a mask takes over from its image, for `write_tiff`.

    These are the resolution, page name and number, and those of GeoTIFF; other files have none. Raises UserError if the
    file can't be read or has no such page.
    """
    return read(path, lambda file, head: _carried(file, page) if head[:4] in TIFF_SIGNATURES else ())


def software_of(path: Path) -> str | None:
    """The Software tag of a TIFF's first page; None for other files. Raises UserError."""
    return read(path, lambda file, head: _software(file) if head[:4] in TIFF_SIGNATURES else None)


def _software(file: BinaryIO) -> str | None:
    file.seek(0)
    with TiffFile(file, _multifile=False) as tif:
        return str(tif.pages.first.tags.valueof(305, default=""))


def _carried(file: BinaryIO, page: int | None) -> Tags:
    with open_tiff(file) as stack:
        directory = stack.table.directory(page)
        values = {tag: _plain(directory, tag, kind) for tag, kind in PLACES.items()}
        place = tagged_place(directory) if directory.tags.valueof(ORIENTATION, default=1) != 1 else None
    if place is not None and place.transform is not None:  # masks are upright
        values |= {PIXEL_SCALE: None, TIE_POINTS: None, TRANSFORMATION: turned_tags(place)}
    if values[X_RESOLUTION] is None or values[Y_RESOLUTION] is None:
        values[X_RESOLUTION] = values[Y_RESOLUTION] = values[RESOLUTION_UNIT] = None
    return tuple(
        (tag, PLACES[tag], 1 if PLACES[tag] == RATIONAL else len(value), value)
        for tag, value in values.items()
        if value is not None
    )


def _plain(directory: TiffPage, tag: int, kind: int) -> Any:
    """A tag's value as bytes or a tuple of numbers; None if it is missing or has an unexpected type."""
    value = directory.tags.valueof(tag)
    if isinstance(value, str):
        return value.encode() + b"\0" if kind == ASCII else None
    numbers = value if isinstance(value, tuple) else (value,)
    if kind == DOUBLE and all(isinstance(number, float) for number in numbers):
        return numbers
    whole = all(isinstance(number, int) and 0 <= number < 2 ** (16 if kind == SHORT else 32) for number in numbers)
    if kind == SHORT and whole and (tag != RESOLUTION_UNIT or numbers in ((1,), (2,), (3,))):
        return tuple(int(number) for number in numbers)  # some are enums in tifffile
    return numbers if kind == RATIONAL and whole and len(numbers) == 2 and numbers[1] else None


def _colormap(palette: list[int]) -> np.ndarray:
    """The palette as a TIFF colour map: (3, 256) uint16, scaled to 65535."""
    colours = np.zeros((256, 3), np.uint16)
    colours.reshape(-1)[: len(palette)] = palette
    return np.ascontiguousarray(colours.T * np.uint16(257))


def _tiles(rows: Iterable[np.ndarray], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    left = shape[0]
    for band in regrouped(rows, TILE):
        missing = left - len(band)
        assert len(band) == TILE or not missing, f"the last {missing} of {shape[0]} rows are missing"
        for column in range(0, shape[1], TILE):
            yield band[:, column : column + TILE]
        left = missing
