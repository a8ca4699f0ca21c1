"""One file of pixels -> one array, told by its first bytes rather than its name: Pillow, tifffile and numpy below.

Whatever is in a file, the outcome is its pixels or a UserError: never half of them, and never a header's promise of
more memory than the file could fill.
"""

from __future__ import annotations

import errno
import io
import logging
import math
import os
import re
import struct
import threading
import warnings
import zipfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import imagecodecs
import numpy as np
from numpy.lib import format as npy
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from tifffile import TiffFile, TiffPage, TiffPageSeries

from unet_cli.errors import Stopped, UserError, explain

# What Pillow opens, by its own names; those of drawings and documents are left out. TGA has no signature, and would
# accept much that is not TGA: it is tried only where the name says so.
PILLOW = {
    "PNG": "png apng",
    "JPEG": "jpg jpeg jpe jfif",
    "BMP": "bmp",
    "GIF": "gif",
    "WEBP": "webp",
    "PPM": "ppm pgm pbm pnm pfm",
    "JPEG2000": "jp2 j2k j2c jpc jpf jpx",
    "AVIF": "avif",
    "DIB": "dib",
    "PCX": "pcx",
    "SGI": "sgi rgb rgba bw",
}
FORMATS = tuple(PILLOW)
TGA_EXTENSIONS = (".tga", ".icb", ".vda", ".vst")
STACK_EXTENSIONS = frozenset({".tif", ".tiff", ".btf", ".tf8", ".npy", ".npz"})  # may hold several pages
EXTENSIONS = STACK_EXTENSIONS.union(TGA_EXTENSIONS, (f".{name}" for name in " ".join(PILLOW.values()).split()))

MAX_PIXELS = 500_000_000  # of a page
HUGE_PIXELS = 50_000_000  # such pages are decoded one at a time, so that threads don't add up
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit is that of a photograph; ours stands in _check_claim

# Of odd metadata; what matters for the pixels raises.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
for package in ("PIL", "tifffile"):
    warnings.filterwarnings("ignore", module=rf"{package}\.")

HEAD = 65_536  # bytes: most files of a data set are smaller, and then read in one go
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # of its colour types, less the palette
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
CONVERTED = {"1": "L", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB"}
JPEG, JPEG2000 = (6, 7, 33007, 34892), (33003, 33004, 33005, 34712)  # compressions of TIFF
SIZ = b"\xff\x4f\xff\x51"  # begins a JPEG 2000 stream
TIFF_TYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8, 17: 8}  # bytes each
# Of others libpng may complain on the terminal (a faulty colour profile, say), or they matter to what is read.
PNG_CHUNKS = frozenset({b"IHDR", b"IDAT", b"IEND", b"tEXt", b"pHYs", b"tIME", b"gAMA", b"sRGB"})
METADATA_WITH_ORIENTATION = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})
NO_IMAGE = "is not an image, whatever its name says: replace or remove it"
CUT_OFF = "it ends before its pixels do"

_huge = threading.Lock()


@dataclass(frozen=True)
class Decoded:
    """What a file holds.

    pixels: (pages, C, H, W) in the file's own type: bool never, 1-bit images being 0 and 255. alpha: the last channel
    is alpha. palette: r, g, b, r, g, b ... of 0 to 255, the first channel then being indices.
    """

    pixels: np.ndarray
    alpha: bool = False
    palette: list[int] | None = None


def decode(path: Path, page: int | None = None) -> Decoded:
    """Read a file, or of a stack one page, upright; the first frame of an animation.

    Raises UserError where it is missing, no image, damaged, of a kind that we can't read, or too large.
    """
    return _read(path, lambda file, head: _decode(file, head, page))


def count_pages(path: Path) -> int:
    """How many pages `decode` knows in a file, from its header alone. Raises UserError."""
    return _read(path, _count) if path.suffix.lower() in STACK_EXTENSIONS else 1


class _Refused(Exception):
    """Why a file is not read, in words that follow its name."""


def _read(path: Path, reader: Any) -> Any:
    try:
        with open(path, "rb") as file:
            return reader(file, file.read(HEAD))
    except (UserError, Stopped):
        raise
    except Exception as error:  # a broken file makes its decoder fail in any way, struct.error and IndexError included
        raise _explained(path, error) from error


def _explained(path: Path, error: Exception) -> UserError:
    if isinstance(error, _Refused):
        return UserError(f"{path} {error}")
    if isinstance(error, UnidentifiedImageError):
        return UserError(f"{path} {NO_IMAGE}")
    if isinstance(error, MemoryError):
        return UserError(f"{path} needs more memory than there is: cut it into parts")
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # this is of places outside of the file
        return explain(error, path)
    reason = CUT_OFF if isinstance(error, struct.error) else " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, NotImplementedError) or "not supported" in reason:
        return UserError(f"{path} is of a kind that can't be read ({reason}): save it as PNG or as plain TIFF")
    return UserError(f"{path} is damaged ({reason}): replace or remove it")


def _decode(file: BinaryIO, head: bytes, page: int | None) -> Decoded:
    if head[:4] in TIFF_SIGNATURES:
        return _decode_tiff(file, page)
    if head[:6] == npy.MAGIC_PREFIX:
        return _decode_npy(file, page)
    if head[:4] == b"PK\3\4":
        return _decode_npz(file, page)
    _check_page(page, 1)
    if head[:8] == PNG_SIGNATURE:
        head += file.read()
        return _decode_png(head) or _decode_pillow(file, head)
    return _decode_pillow(file, head)


def _count(file: BinaryIO, head: bytes) -> int:
    if head[:4] in TIFF_SIGNATURES:
        return _count_tiff(file)
    if head[:6] == npy.MAGIC_PREFIX:
        file.seek(0)
        return len(_as_pages(_claimed_array(file)))
    if head[:4] == b"PK\3\4":
        with zipfile.ZipFile(file) as archive, archive.open(_only_array(archive)) as entry:
            return len(_as_pages(_claimed_array(entry)))
    return 1


def _check_claim(pixels: int, values: int, file_bytes: int) -> None:
    """Refuse a header's claim before memory is taken for it. values: pixels times channels, or bytes where known.

    Deflate packs at most 1032 bytes into one, which is 8256 pixels of 1 bit; up to 64 million values, where memory
    is of no concern, the best codecs may do better.
    """
    if pixels > MAX_PIXELS:
        raise _Refused("has more than 500 million pixels, or a damaged header: cut it into parts, or replace it")
    if values > max(64_000_000, 10_000 * file_bytes):
        claim = f"{pixels:,} pixels" if pixels else f"{values:,} bytes"
        raise ValueError(f"its header claims {claim}, but the file has {file_bytes:,} bytes")


def _alone_if_huge(pixels: int) -> AbstractContextManager[Any]:
    return _huge if pixels > HUGE_PIXELS else nullcontext()


def _check_page(page: int | None, pages: int) -> None:
    if page is not None and not 0 <= page < pages:
        raise _Refused(f"has {pages} page{'s' * (pages != 1)}, so none of number {page + 1}: choose another")


def _file_size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn (..., H, W) as the orientation of TIFF and EXIF says, 1 to 8; a view."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(-1, -2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[..., ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[..., ::-1, :]
    return pixels


# --- PNG ------------------------------------------------------------------------------------------------------------


def _decode_png(content: bytes) -> Decoded | None:
    """Gray and colours of 8 or 16 bits, in half of Pillow's time.

    None where there is more to it than that: fewer bits, a palette, transparency, animation, an orientation.
    """
    width, height, depth, colour_type = struct.unpack_from(">IIBB", content, 16)
    plain = depth in (8, 16) and colour_type in PNG_CHANNELS
    kind, at = b"", 8
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, at)
        plain &= kind in PNG_CHUNKS and not (kind == b"tEXt" and content.startswith(b"Raw profile", at + 8))
        at += 12 + length
    if not plain:
        return None
    _check_claim(width * height, width * height * depth // 8 * PNG_CHANNELS[colour_type], len(content))
    with _alone_if_huge(width * height):
        return _from_array(imagecodecs.png_decode(content))


# --- Pillow ---------------------------------------------------------------------------------------------------------


def _decode_pillow(file: BinaryIO, head: bytes) -> Decoded:
    size = _file_size(file)
    whole = len(head) == size
    formats = (*FORMATS, "TGA") if file.name.lower().endswith(TGA_EXTENSIONS) else FORMATS
    with Image.open(io.BytesIO(head) if whole else file, formats=formats) as image:
        pixels = image.width * image.height
        _check_claim(pixels, pixels * len(image.getbands()), size)
        with _alone_if_huge(pixels):
            deep = DEEP.get(image.format or "")
            values = deep(image, file) if deep is not None else None
            decoded = _from_pillow(image) if values is None else _from_array(values)
        if METADATA_WITH_ORIENTATION & image.info.keys():
            orientation = image.getexif().get(0x0112, 1)
            return replace(decoded, pixels=_upright(decoded.pixels, orientation))
        return decoded


def _from_pillow(image: Image.Image) -> Decoded:
    """(1, C, H, W) of any mode."""
    mode = image.mode
    if mode in ("P", "PA"):
        return _from_palette(image)
    if mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, *profiles, outputMode="RGB") or image
    elif mode in CONVERTED:
        image = image.convert(CONVERTED[mode])
    return _from_array(np.asarray(image))


def _from_palette(image: Image.Image) -> Decoded:
    """Indices and the palette; but of a GIF the colours, or gray levels, since its writers renumber each palette."""
    image.load()
    palette = image.getpalette("RGB") or []
    transparent = image.mode == "PA" or "transparency" in image.info
    if image.format == "GIF":
        gray = palette[0::3] == palette[1::3] == palette[2::3]
        return _from_array(np.asarray(image.convert(("L" if gray else "RGB") + "A" * transparent)))
    indices = np.asarray(image.getchannel(0) if image.mode == "PA" else image)
    if transparent:
        indices = np.stack([indices, np.asarray(image.convert("RGBA"))[..., 3]], axis=-1)
    return replace(_from_array(indices), alpha=transparent, palette=palette)


def _from_array(array: np.ndarray) -> Decoded:
    """(H, W) or (H, W, 1 to 4) -> (1, C, H, W): of 2 or 4 channels the last is alpha."""
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.ndim == 2:
        return Decoded(array[None, None])
    return Decoded(array.transpose(2, 0, 1)[None], alpha=array.shape[2] in (2, 4))


def _deep_png(image: ImageFile, file: BinaryIO) -> np.ndarray | None:
    """Pillow reduces colours of 16 bits to 8."""
    deep = image.mode in ("RGB", "RGBA") and str(image.tile[0].args).endswith(";16B")
    return imagecodecs.png_decode(_content(file)) if deep else None


def _deep_jpeg2000(image: ImageFile, file: BinaryIO) -> np.ndarray | None:
    """Pillow reduces colours of more than 8 bits to 8; the depth stands in the SIZ marker."""
    content = _content(file)
    depth = content[content.index(SIZ) + 42] + 1
    return imagecodecs.jpeg2k_decode(content) if len(image.getbands()) > 1 and depth in range(9, 17) else None


def _pnm(image: ImageFile, file: BinaryIO) -> np.ndarray | None:
    """Pillow scales values to fill 8 or 16 bits, which would renumber the classes of a mask."""
    codec, _, offset, arguments = image.tile[0]
    if arguments == "I;16B":
        top = 65535
    elif codec in ("ppm", "ppm_plain") and isinstance(arguments, tuple) and image.mode != "F":
        top = int(arguments[1])
    else:
        return None
    shape = (image.height, image.width, 3)[: 3 if image.mode == "RGB" else 2]
    if codec == "ppm_plain":
        words = re.sub(rb"#[^\r\n]*", b"", _content(file)[offset:]).split()
        values = np.array(words[: math.prod(shape)], dtype=np.int64)
    else:
        values = np.frombuffer(_content(file), ">u2" if top > 255 else np.uint8, math.prod(shape), offset)
    if values.size < math.prod(shape) or values.max() > top or values.min() < 0:
        raise ValueError(CUT_OFF if values.size < math.prod(shape) else f"it has values above {top}")
    return values.reshape(shape).astype(np.uint16 if top > 255 else np.uint8)


def _check_pcx(image: ImageFile, file: BinaryIO) -> None:
    """The palette stands at the end: Pillow takes a file that lost it for a gray one."""
    content = _content(file)
    if content[1] == 5 and content[3] == 8 and content[65] == 1 and content[-769:-768] != b"\x0c":
        raise ValueError(CUT_OFF)


def _content(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


# What Pillow would change or miss: (image, file) -> its values as (H, W[, C]), or None to leave them to Pillow.
DEEP = {"PNG": _deep_png, "JPEG2000": _deep_jpeg2000, "PPM": _pnm, "PCX": _check_pcx}


# --- TIFF -----------------------------------------------------------------------------------------------------------


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


def _count_tiff(file: BinaryIO) -> int:
    _check_directories(file)
    with TiffFile(file, _multifile=False) as tif:
        return len(_tiff_layout(tif))


def _decode_tiff(file: BinaryIO, page: int | None) -> Decoded:
    _check_directories(file)
    with TiffFile(file, _multifile=False) as tif:  # a page in another file is that file's
        keyframe, pages, depth = layout = _tiff_layout(tif)
        _check_page(page, len(layout))
        chosen = pages if page is None else [pages[page // depth]]
        area = keyframe.imagewidth * keyframe.imagelength
        with _alone_if_huge(area):
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
    size = _file_size(file)
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
        raise _Refused("holds images of different sizes: split it")
    if any(one.keyframe.dtype != keyframe.dtype or one.keyframe.photometric != keyframe.photometric for one in series):
        raise _Refused("holds images of different kinds: split it")
    if tif.is_imagej and series[0].kind != "imagej" and (tif.imagej_metadata or {}).get("images", 1) > len(tif.pages):
        raise ValueError(CUT_OFF)
    if keyframe.dtype is None or keyframe.dtype.kind not in "biuf":
        kind = keyframe.dtype or f"{keyframe.bitspersample}-bit format {keyframe.sampleformat}"
        raise NotImplementedError(f"{kind} numbers are not supported")
    if 0 in keyframe.shaped:
        raise ValueError("it claims to have no pixels")

    area = keyframe.imagewidth * keyframe.imagelength
    _check_claim(area, keyframe.nbytes, size)
    _check_claim(area, keyframe.tilewidth * keyframe.tilelength * keyframe.tiledepth * keyframe.shaped[4], size)
    pages = [planes for one in series for planes in _planes_of_pages(one, size)]
    if len({len(planes) for planes in pages}) != 1:
        raise _Refused("holds images of different numbers of channels: split it")
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
    pixels = _upright(pixels, keyframe.tags.valueof(274, default=1))
    bits = keyframe.bitspersample if isinstance(keyframe.bitspersample, int) else 16
    photometric = int(keyframe.photometric)
    if photometric == 3 and bits <= 8 and keyframe.colormap is not None:
        colours = np.asarray(keyframe.colormap).astype(int)
        colours >>= 8 if colours.max() > 255 else 0  # some writers give 8 bits where the norm says 16
        return Decoded(pixels.astype(np.uint8), palette=colours.T.ravel().tolist())
    if photometric == 0 and bits <= 8 and pixels.dtype.kind in "bu":
        pixels = (1 << bits) - 1 - pixels.astype(np.uint8)
    if bits == 1:
        pixels = pixels.astype(np.uint8) * 255
    if photometric == 5 and pixels.shape[1] in (4, 5) and pixels.dtype.kind == "u" and bits in (8, 16):
        inks = (1 << bits) - 1 - pixels[:, :4].astype(np.uint32)
        rgb = (inks[:, :3] * inks[:, 3:] + (1 << bits - 1)) // ((1 << bits) - 1)
        pixels = np.concatenate([rgb.astype(pixels.dtype), pixels[:, 4:]], axis=1)
    extra = [int(sample) for sample in keyframe.extrasamples]
    return Decoded(pixels, alpha=planes == 1 and extra[-1:] in ([1], [2]))


def _left_to_pillow(keyframe: TiffPage) -> bool:
    """YCbCr that no JPEG decoder turns into RGB, and L*a*b*."""
    return keyframe.photometric == 8 or (keyframe.photometric == 6 and keyframe.compression not in JPEG)


def _tiff_by_pillow(file: BinaryIO, planes: Sequence[_Plane]) -> Decoded:
    decoded = []
    for plane in planes:
        # a file of its own, since Pillow closes what it has
        with open(file.name, "rb") as again, Image.open(again, formats=("TIFF",)) as image:
            image.seek(_place(plane)[0])
            decoded.append(_from_pillow(image))
    return replace(decoded[0], pixels=np.concatenate([one.pixels for one in decoded]))


# --- numpy ----------------------------------------------------------------------------------------------------------


def _decode_npy(file: BinaryIO, page: int | None) -> Decoded:
    file.seek(0)
    shape, order, dtype = _npy_header(file)
    if file.tell() + math.prod(shape) * dtype.itemsize > _file_size(file):
        raise ValueError(CUT_OFF)
    array = np.memmap(file, dtype, "r", file.tell(), shape, order)  # pages that aren't asked for aren't read
    return _from_pages(_as_pages(array), page)


def _decode_npz(file: BinaryIO, page: int | None) -> Decoded:
    with zipfile.ZipFile(file) as archive:
        entry = _only_array(archive)
        _check_claim(0, entry.file_size, entry.compress_size)
        content = io.BytesIO(archive.read(entry))
    shape, order, dtype = _npy_header(content)
    array = np.frombuffer(content.getbuffer(), dtype, math.prod(shape), content.tell()).reshape(shape, order=order)
    return _from_pages(_as_pages(array), page)


def _only_array(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
    if not entries:
        raise _Refused(NO_IMAGE)
    if len(entries) > 1:
        names = ", ".join(entry.filename.removesuffix(".npy") for entry in entries)
        raise _Refused(f"holds several arrays ({names}): save one to a file")
    return entries[0]


def _npy_header(file: Any) -> tuple[tuple[int, ...], Any, np.dtype[Any]]:
    """Shape, order ('C' or 'F') and type; the file is then at the first value."""
    version = npy.read_magic(file)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.kind not in "biuf":
        raise _Refused(f"holds values of type {dtype}: save whole or floating-point numbers")
    if 0 in shape or min(shape, default=1) < 0:
        raise ValueError("it claims to have no pixels")
    return shape, "F" if fortran else "C", dtype


def _claimed_array(file: Any) -> np.ndarray:
    """Of the shape that a header claims, without its values."""
    shape, _, dtype = _npy_header(file)
    return np.broadcast_to(np.zeros((), dtype), shape)


def _as_pages(array: np.ndarray) -> np.ndarray:
    """A view as (P, C, H, W). An axis of up to 4 is that of the channels: the last, or else the one before H and W."""
    if array.ndim == 2:
        pages = array[None, None]
    elif array.ndim == 3 and min(array.shape[-1], array.shape[0]) <= 4:
        pages = (np.moveaxis(array, -1, 0) if array.shape[-1] <= 4 else array)[None]
    elif array.ndim == 3:
        pages = array[:, None]
    elif array.ndim == 4 and array.shape[-1] <= 4:
        pages = np.moveaxis(array, -1, 1)
    elif array.ndim == 4:
        pages = array if array.shape[1] <= 4 else array.reshape(-1, 1, *array.shape[2:])
    else:
        raise _Refused(f"holds an array of {array.ndim} dimensions: save (H, W), (H, W, C) or (pages, H, W, C)")
    _check_claim(pages.shape[2] * pages.shape[3], values=0, file_bytes=0)
    return pages


def _from_pages(pages: np.ndarray, page: int | None) -> Decoded:
    _check_page(page, len(pages))
    with _alone_if_huge(pages.shape[2] * pages.shape[3]):
        chosen = pages if page is None else pages[page : page + 1]
        kind = np.dtype(np.uint8) if chosen.dtype == bool else chosen.dtype.newbyteorder("=")
        return Decoded(np.array(chosen, dtype=kind, order="C"))
