"""TIFF of every kind with tifffile; a few kinds that it can't convert with Pillow."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import BinaryIO

import numpy as np
from PIL import Image
from tifffile import TiffFile, TiffPage

from unet_cli.data.formats.decoded import (
    CUT_OFF,
    HEAD,
    HUGE_PIXELS,
    Decoded,
    Refused,
    alone_if_huge,
    check_pixels,
    upright,
)
from unet_cli.data.formats.pillow import SIZ, from_pillow
from unet_cli.data.formats.tiff_pages import PageTable, Plane, open_tiff

JPEG, JPEG2000 = (6, 7, 33007, 34892), (33003, 33004, 33005, 34712)  # TIFF compression codes


def count_tiff(file: BinaryIO) -> int:
    with open_tiff(file) as stack:
        return len(stack.table)


def decode_tiff(file: BinaryIO, page: int | None) -> Decoded:
    with open_tiff(file) as stack:
        keyframe, _, depth = table = stack.table
        chosen = table.planes(page)
        check_pixels(table.area)
        with alone_if_huge(table.area):
            if left_to_pillow(keyframe):
                decoded = _tiff_by_pillow(file, [plane for planes in chosen for plane in planes])
            else:
                decoded = tiff_colours(keyframe, _tiff_pixels(stack.tif, table, chosen), len(chosen[0]))
            if page is not None and depth > 1:
                decoded = replace(decoded, pixels=decoded.pixels[page % depth :][:1])
            return decoded


def _tiff_pixels(tif: TiffFile, table: PageTable, chosen: Sequence[list[Plane]]) -> np.ndarray:
    """The chosen pages as (P, C, H, W)."""
    keyframe, depth = table.keyframe, table.depth
    separate, _, height, width, together = keyframe.shaped
    assert keyframe.dtype is not None
    channels = separate * together
    pixels = np.empty((len(chosen) * depth, len(chosen[0]) * channels, height, width), keyframe.dtype)
    for first, planes in enumerate(chosen):
        for number, plane in enumerate(planes):
            values = _tiff_plane(tif, plane).transpose(1, 0, 4, 2, 3).reshape(depth, channels, height, width)
            pixels[first * depth : (first + 1) * depth, number * channels : (number + 1) * channels] = values
    return pixels


def _tiff_plane(tif: TiffFile, plane: Plane) -> np.ndarray:
    """(separate samples, depth, H, W, interleaved samples)."""
    keyframe = plane.series.keyframe
    assert keyframe.dtype is not None
    if plane.series.dataoffset is not None:  # contiguous, perhaps with a directory for its first plane only
        kind = keyframe.dtype.newbyteorder(tif.byteorder)
        offset = plane.series.dataoffset + plane.number * keyframe.nbytes
        return tif.filehandle.read_array(kind, keyframe.size, offset).reshape(keyframe.shaped)
    check_segments(tif, plane)
    page = plane.page
    if rules_itself(keyframe):
        for start, length in zip(page.dataoffsets, page.databytecounts, strict=False):
            tif.filehandle.seek(start)
            check_part(keyframe, tif.filehandle.read(min(length, HEAD)))
    few = keyframe.size < 4_000_000  # threads would cost more than they save
    return page.asarray(squeeze=False, maxworkers=1 if few else None)


def check_segments(tif: TiffFile, plane: Plane) -> None:
    """Check that every strip or tile is within the file: tifffile fills missing ones, and truncated ones if possible,
    with zeros."""
    offsets, lengths = plane.page.dataoffsets, plane.page.databytecounts
    inside = all(
        start > 0 and length > 0 and start + length <= tif.filehandle.size
        for start, length in zip(offsets, lengths, strict=False)
    )
    if not inside or min(len(offsets), len(lengths)) < math.prod(plane.series.keyframe.chunked):
        raise ValueError(CUT_OFF)


def rules_itself(keyframe: TiffPage) -> bool:
    """Whether strips or tiles have a header of their own, which may claim another size than the TIFF."""
    return keyframe.compression in (*JPEG, *JPEG2000)


def check_part(keyframe: TiffPage, content: bytes) -> None:
    """Check the size in the header of a strip or tile. content: its beginning, or all of it."""
    whole = max(keyframe.tilewidth, keyframe.imagewidth) * max(keyframe.tilelength, keyframe.imagelength)
    part = keyframe.tilewidth * keyframe.tilelength if keyframe.is_tiled else whole
    if _pixels_of_part(content[:HEAD]) > min(whole, max(part, HUGE_PIXELS)):
        raise ValueError("one of its parts claims to be larger than the whole")


def _pixels_of_part(content: bytes) -> int:
    """The pixels that the header of a JPEG (ITU T.81, B.2.2) or JPEG 2000 (ISO 15444-1, A.5.1) claims."""
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


def tiff_colours(keyframe: TiffPage, pixels: np.ndarray, planes: int) -> Decoded:
    """Apply the tags to the values: orientation, palette, white-is-zero inverted, CMYK -> RGB."""
    orientation = keyframe.tags.valueof(274, default=1)
    pixels = upright(pixels, orientation)
    bits = keyframe.bitspersample if isinstance(keyframe.bitspersample, int) else 16
    photometric = int(keyframe.photometric)
    if photometric == 3 and bits <= 8 and keyframe.colormap is not None:
        if np.asarray(keyframe.colormap).dtype.kind not in "iu":
            raise Refused("has a palette that holds no colours: save it again")
        colours = np.asarray(keyframe.colormap).astype(int)
        colours >>= 8 if colours.max() > 255 else 0  # some writers store 8 bits instead of the standard's 16
        if colours.min() < 0 or colours.max() > 255:
            raise Refused("has a palette that holds no colours: save it again")
        return Decoded(pixels.astype(np.uint8), palette=colours.T.ravel().tolist(), orientation=orientation)
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
    # With one bit, viewers show the object in white; with more, mask values are numbers that must not be inverted.
    turned_at = (1 << bits) - 1 if white_is_zero and bits > 1 else None
    alpha = planes == 1 and extra[-1:] in ([1], [2])
    return Decoded(pixels, alpha=alpha, turned_at=turned_at, nodata=_nodata(keyframe), orientation=orientation)


def _nodata(keyframe: TiffPage) -> float | None:
    """The value of GDAL's nodata tag, which is text."""
    try:
        return float(keyframe.tags.valueof(42113, default="nan"))
    except (TypeError, ValueError):
        return None


def left_to_pillow(keyframe: TiffPage) -> bool:
    """Whether the colour space needs Pillow: YCbCr without JPEG compression, and L*a*b*."""
    return keyframe.photometric == 8 or (keyframe.photometric == 6 and keyframe.compression not in JPEG)


def _tiff_by_pillow(file: BinaryIO, planes: Sequence[Plane]) -> Decoded:
    decoded = []
    for plane in planes:
        # a file object of its own, since Pillow closes it
        with open(file.name, "rb") as again, Image.open(again, formats=("TIFF",)) as image:
            image.seek(plane.place[0])
            decoded.append(from_pillow(image))
    return replace(decoded[0], pixels=np.concatenate([one.pixels for one in decoded]))
