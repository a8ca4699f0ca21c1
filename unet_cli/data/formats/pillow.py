"""PNG, and all formats that Pillow reads."""

from __future__ import annotations

import io
import math
import re
import struct
import warnings
from dataclasses import replace
from typing import BinaryIO

import imagecodecs
import numpy as np
from PIL import Image, ImageCms
from PIL.ImageFile import ImageFile

from unet_cli.data.formats.decoded import (
    CUT_OFF,
    Decoded,
    alone_if_huge,
    check_claim,
    content_of,
    file_size,
    from_array,
    upright,
)

# Pillow's formats and their extensions, without vector graphics and documents. TGA has no signature, so its plugin
# accepts other files too: it is tried only for TGA extensions.
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

Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit suits photographs; ours is in check_claim
# Warnings about odd metadata; errors that matter for the pixels are raised.
warnings.filterwarnings("ignore", module=r"PIL\.")

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by colour type, without palettes
# Chunks of the fast path. For others libpng may print warnings (a faulty colour profile, say), or they affect the
# pixels.
PNG_CHUNKS = frozenset({b"IHDR", b"IDAT", b"IEND", b"tEXt", b"pHYs", b"tIME", b"gAMA", b"sRGB"})
CONVERTED = {"1": "L", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB"}
SIZ = b"\xff\x4f\xff\x51"  # first markers of a JPEG 2000 codestream
METADATA_WITH_ORIENTATION = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})


def decode_png(content: bytes) -> Decoded | None:
    """Fast path for gray and colour of 8 or 16 bits, in half of Pillow's time.

    None for other PNGs: lower bit depths, palette, transparency, animation, EXIF orientation.
    """
    width, height, depth, colour_type = struct.unpack_from(">IIBB", content, 16)
    plain = depth in (8, 16) and colour_type in PNG_CHANNELS
    # Walk through the chunks (length, type, data, CRC) after the 8 bytes of the signature.
    kind, at = b"", 8
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, at)
        plain &= kind in PNG_CHUNKS and not (kind == b"tEXt" and content.startswith(b"Raw profile", at + 8))
        at += 12 + length
    if not plain:
        return None
    check_claim(width * height, width * height * depth // 8 * PNG_CHANNELS[colour_type], len(content))
    with alone_if_huge(width * height):
        return from_array(imagecodecs.png_decode(content))


def decode_pillow(file: BinaryIO, head: bytes) -> Decoded:
    """Any format that Pillow reads, rotated by its EXIF orientation."""
    size = file_size(file)
    whole = len(head) == size
    formats = (*FORMATS, "TGA") if file.name.lower().endswith(TGA_EXTENSIONS) else FORMATS
    with Image.open(io.BytesIO(head) if whole else file, formats=formats) as image:
        pixels = image.width * image.height
        check_claim(pixels, pixels * len(image.getbands()), size)
        with alone_if_huge(pixels):
            deep = DEEP.get(image.format or "")
            values = deep(image, file) if deep is not None else None
            decoded = from_pillow(image) if values is None else from_array(values)
        if METADATA_WITH_ORIENTATION & image.info.keys():
            orientation = image.getexif().get(0x0112, 1)
            return replace(decoded, pixels=upright(decoded.pixels, orientation), orientation=orientation)
        return decoded


def from_pillow(image: Image.Image) -> Decoded:
    """A Pillow image of any mode -> (1, C, H, W)."""
    mode = image.mode
    if mode in ("P", "PA"):
        return _from_palette(image)
    if mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, *profiles, outputMode="RGB") or image
    elif mode in CONVERTED:
        image = image.convert(CONVERTED[mode])
    return from_array(np.asarray(image))


def _from_palette(image: Image.Image) -> Decoded:
    """Indices and the palette; for a GIF its colours or gray levels, since GIF writers renumber palettes."""
    image.load()
    palette = image.getpalette("RGB") or []
    transparent = image.mode == "PA" or "transparency" in image.info
    if image.format == "GIF":
        gray = palette[0::3] == palette[1::3] == palette[2::3]
        return from_array(np.asarray(image.convert(("L" if gray else "RGB") + "A" * transparent)))
    indices = np.asarray(image.getchannel(0) if image.mode == "PA" else image)
    if transparent:
        indices = np.stack([indices, np.asarray(image.convert("RGBA"))[..., 3]], axis=-1)
    return replace(from_array(indices), alpha=transparent, palette=palette)


def _deep_png(image: ImageFile, file: BinaryIO) -> np.ndarray | None:
    """Colour PNGs of 16 bits, which Pillow reduces to 8."""
    deep = image.mode in ("RGB", "RGBA") and str(image.tile[0].args).endswith(";16B")
    return imagecodecs.png_decode(content_of(file)) if deep else None


def _deep_jpeg2000(image: ImageFile, file: BinaryIO) -> np.ndarray | None:
    """Colour JPEG 2000 of more than 8 bits, which Pillow reduces to 8; the bit depth is in the SIZ marker."""
    content = content_of(file)
    depth = content[content.index(SIZ) + 42] + 1
    return imagecodecs.jpeg2k_decode(content) if len(image.getbands()) > 1 and depth in range(9, 17) else None


def _pnm(image: ImageFile, file: BinaryIO) -> np.ndarray | None:
    """PNM values unscaled: Pillow scales them to fill 8 or 16 bits, which would renumber the classes of a mask."""
    codec, _, offset, arguments = image.tile[0]
    if arguments == "I;16B":
        top = 65535
    elif codec in ("ppm", "ppm_plain") and isinstance(arguments, tuple) and image.mode != "F":
        top = int(arguments[1])
    else:
        return None
    shape = (image.height, image.width, 3)[: 3 if image.mode == "RGB" else 2]
    if codec == "ppm_plain":
        words = re.sub(rb"#[^\r\n]*", b"", content_of(file)[offset:]).split()
        values = np.array(words[: math.prod(shape)], dtype=np.int64)
    else:
        values = np.frombuffer(content_of(file), ">u2" if top > 255 else np.uint8, math.prod(shape), offset)
    if values.size < math.prod(shape) or values.max() > top or values.min() < 0:
        raise ValueError(CUT_OFF if values.size < math.prod(shape) else f"it has values above {top}")
    return values.reshape(shape).astype(np.uint16 if top > 255 else np.uint8)


def _check_pcx(image: ImageFile, file: BinaryIO) -> None:
    """Check for the palette at the end: without it, Pillow reads a truncated file as gray."""
    content = content_of(file)
    if content[1] == 5 and content[3] == 8 and content[65] == 1 and content[-769:-768] != b"\x0c":
        raise ValueError(CUT_OFF)


# Decoders for what Pillow would change or miss: (image, file) -> values (H, W[, C]), or None to leave it to Pillow.
DEEP = {"PNG": _deep_png, "JPEG2000": _deep_jpeg2000, "PPM": _pnm, "PCX": _check_pcx}
