"""TIFF of every kind, through tifffile; what that can't read is left to Pillow."""

from __future__ import annotations

import logging
import math
import re
import struct
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image
from tifffile import TiffFile, TiffPage, TiffPageSeries

from unet_cli.data.formats.decoded import (
    CUT_OFF,
    HEAD,
    Decoded,
    Refused,
    alone_if_huge,
    check_claim,
    check_page,
    file_size,
    upright,
)
from unet_cli.data.formats.pillow import SIZ, from_pillow

# Of odd metadata; what matters for the pixels raises.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module=r"tifffile\.")

TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
JPEG, JPEG2000 = (6, 7, 33007, 34892), (33003, 33004, 33005, 34712)  # compressions of TIFF
TIFF_TYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8, 17: 8}  # bytes each


class _Plane(NamedTuple):
    """A page of the TIFF, which may be one channel of a page of ours."""

    series: TiffPageSeries
    number: int


class _Layout(NamedTuple):
    """keyframe: stands for every plane. pages: the planes of each; a plane of `depth` slices is as many pages."""

    keyframe: TiffPage
    pages: list[list[_Plane]]
    depth: int

    def __len__(self) -> int:
        return len(self.pages) * self.depth


def count_tiff(file: BinaryIO) -> int:
    _check_directories(file)
    with TiffFile(file, _multifile=False) as tif:
        return len(_tiff_layout(tif))


def decode_tiff(file: BinaryIO, page: int | None) -> Decoded:
    _check_directories(file)
    with TiffFile(file, _multifile=False) as tif:  # a page in another file is that file's
        keyframe, pages, depth = layout = _tiff_layout(tif)
        check_page(page, len(layout))
        chosen = pages if page is None else [pages[page // depth]]
        area = keyframe.imagewidth * keyframe.imagelength
        with alone_if_huge(area):
            if _left_to_pillow(keyframe):
                decoded = _tiff_by_pillow(file, [plane for planes in chosen for plane in planes])
            else:
                decoded = _tiff_colours(keyframe, _tiff_pixels(tif, layout, chosen), len(chosen[0]))
            if page is not None and depth > 1:
                decoded = replace(decoded, pixels=decoded.pixels[page % depth :][:1])
            return decoded


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


def _tiff_layout(tif: TiffFile) -> _Layout:
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
    if 0 in keyframe.shaped:
        raise ValueError("it claims to have no pixels")

    area = keyframe.imagewidth * keyframe.imagelength
    check_claim(area, keyframe.nbytes, size)
    check_claim(area, keyframe.tilewidth * keyframe.tilelength * keyframe.tiledepth * keyframe.shaped[4], size)
    pages = [planes for one in series for planes in _planes_of_pages(one, size)]
    if len({len(planes) for planes in pages}) != 1:
        raise Refused("holds images of different numbers of channels: split it")
    if series[0].kind == "generic" and len(series) > 1:  # grouped by how they are stored
        pages.sort(key=lambda planes: _place(planes[0]))
    return _Layout(keyframe, pages, keyframe.shaped[1])


def _check_ome(tif: TiffFile) -> None:
    """tifffile makes room for as many planes as the description claims."""
    sizes: dict[str, int] = {}
    for axis, size in re.findall(r'Size([CZT])="(\d+)"', tif.ome_metadata or ""):
        sizes[axis] = max(int(size), sizes.get(axis, 1))
    if math.prod(sizes.values()) > 10_000_000:
        raise ValueError("its description claims more than 10 million planes")


def _planes_of_pages(series: TiffPageSeries, file_bytes: int) -> list[list[_Plane]]:
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
        complete = series.dataoffset + count * keyframe.nbytes <= file_bytes
    if count < 1 or not complete:
        raise ValueError(CUT_OFF)
    channels = [axis for axis, name in enumerate(names) if name in "CS"]
    order = np.moveaxis(np.arange(count).reshape(leading), channels, range(-len(channels), 0))
    rows = order.reshape(-1, math.prod(leading[axis] for axis in channels))
    return [[_Plane(series, number) for number in row] for row in rows.tolist()]


def _place(plane: _Plane) -> tuple[int, ...]:
    page = plane.series[plane.number]
    assert page is not None
    index: int | tuple[int, ...] = page.index
    return index if isinstance(index, tuple) else (index,)


def _tiff_pixels(tif: TiffFile, layout: _Layout, chosen: Sequence[list[_Plane]]) -> np.ndarray:
    """The chosen pages, (P, C, H, W)."""
    keyframe, depth = layout.keyframe, layout.depth
    separate, _, height, width, together = keyframe.shaped
    assert keyframe.dtype is not None
    channels = separate * together
    pixels = np.empty((len(chosen) * depth, len(chosen[0]) * channels, height, width), keyframe.dtype)
    for first, planes in enumerate(chosen):
        for number, plane in enumerate(planes):
            values = _tiff_plane(tif, plane).transpose(1, 0, 4, 2, 3).reshape(depth, channels, height, width)
            pixels[first * depth : (first + 1) * depth, number * channels : (number + 1) * channels] = values
    return pixels


def _tiff_plane(tif: TiffFile, plane: _Plane) -> np.ndarray:
    """(separate samples, depth, H, W, interleaved samples)."""
    series, number = plane
    keyframe = series.keyframe
    assert keyframe.dtype is not None
    if series.dataoffset is not None:  # one piece, which may have the directory of its first plane only
        kind = keyframe.dtype.newbyteorder(tif.byteorder)
        offset = series.dataoffset + number * keyframe.nbytes
        return tif.filehandle.read_array(kind, keyframe.size, offset).reshape(keyframe.shaped)
    _check_segments(tif, plane)
    page = series[number]
    assert page is not None
    few = keyframe.size < 4_000_000  # threads would cost more than they win
    return page.asarray(squeeze=False, maxworkers=1 if few else None)


def _check_segments(tif: TiffFile, plane: _Plane) -> None:
    """Every strip or tile must be in the file: tifffile fills missing ones with zeros, and short ones where it can."""
    page = plane.series[plane.number]
    if page is None:
        raise ValueError(CUT_OFF)
    keyframe = plane.series.keyframe
    offsets, lengths = page.dataoffsets, page.databytecounts
    count = math.prod(keyframe.chunked)
    inside = all(
        start > 0 and length > 0 and start + length <= tif.filehandle.size
        for start, length in zip(offsets, lengths, strict=False)
    )
    if not inside or min(len(offsets), len(lengths)) < count:
        raise ValueError(CUT_OFF)
    if keyframe.compression in (*JPEG, *JPEG2000):  # whose own headers rule
        largest = max(keyframe.tilewidth, keyframe.imagewidth) * max(keyframe.tilelength, keyframe.imagelength)
        for start, length in zip(offsets, lengths, strict=False):
            tif.filehandle.seek(start)
            if _pixels_of_part(tif.filehandle.read(min(length, HEAD))) > largest:
                raise ValueError("one of its parts claims to be larger than the whole")


def _pixels_of_part(content: bytes) -> int:
    """As the header of a JPEG (ITU T.81, B.2.2) or JPEG 2000 (ISO 15444-1, A.5.1) claims."""
    siz = content.find(SIZ)
    if siz >= 0:
        right, bottom, left, top = struct.unpack_from(">IIII", content, siz + 8)
        return int((right - left) * (bottom - top))
    at = 2
    while True:
        marker, length = struct.unpack_from(">HH", content, at)
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):  # these are tables
            height, width = struct.unpack_from(">HH", content, at + 5)
            return int(height * width)
        at += 2 + length


def _tiff_colours(keyframe: TiffPage, pixels: np.ndarray, planes: int) -> Decoded:
    """What the tags say of the values: upright, palettes told, white being the largest value, CMYK -> RGB."""
    pixels = upright(pixels, keyframe.tags.valueof(274, default=1))
    bits = keyframe.bitspersample if isinstance(keyframe.bitspersample, int) else 16
    photometric = int(keyframe.photometric)
    if photometric == 3 and bits <= 8 and keyframe.colormap is not None:
        colours = np.asarray(keyframe.colormap).astype(int)
        colours >>= 8 if colours.max() > 255 else 0  # some writers give 8 bits where the norm says 16
        return Decoded(pixels.astype(np.uint8), palette=colours.T.ravel().tolist())
    white_is_zero = photometric == 0 and bits <= 8 and pixels.dtype.kind in "bu"
    if white_is_zero:
        pixels = (1 << bits) - 1 - pixels.astype(np.uint8)
    if bits == 1:
        pixels = pixels.astype(np.uint8) * 255
    if photometric == 5 and pixels.shape[1] in (4, 5) and pixels.dtype.kind == "u" and bits in (8, 16):
        inks = (1 << bits) - 1 - pixels[:, :4].astype(np.uint32)
        rgb = (inks[:, :3] * inks[:, 3:] + (1 << bits - 1)) // ((1 << bits) - 1)
        pixels = np.concatenate([rgb.astype(pixels.dtype), pixels[:, 4:]], axis=1)
    extra = [int(sample) for sample in keyframe.extrasamples]
    turned_at = (255 if bits == 1 else (1 << bits) - 1) if white_is_zero else None
    return Decoded(pixels, alpha=planes == 1 and extra[-1:] in ([1], [2]), turned_at=turned_at)


def _left_to_pillow(keyframe: TiffPage) -> bool:
    """YCbCr that no JPEG decoder turns into RGB, and L*a*b*."""
    return keyframe.photometric == 8 or (keyframe.photometric == 6 and keyframe.compression not in JPEG)


def _tiff_by_pillow(file: BinaryIO, planes: Sequence[_Plane]) -> Decoded:
    decoded = []
    for plane in planes:
        # a file of its own, since Pillow closes what it has
        with open(file.name, "rb") as again, Image.open(again, formats=("TIFF",)) as image:
            image.seek(_place(plane)[0])
            decoded.append(from_pillow(image))
    return replace(decoded[0], pixels=np.concatenate([one.pixels for one in decoded]))
