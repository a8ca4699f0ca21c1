"""Bitmaps inside of annotation files."""

from __future__ import annotations

import io
import zlib

import numpy as np
from PIL import Image

from unet_cli.errors import UserError

MAX_PNG_BYTES = 2**26  # that are unpacked


def png_bitmap(content: bytes) -> np.ndarray:
    """(H, W) bool: what is opaque in a PNG with transparency, and else what is not black. Raises UserError."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if "A" in image.getbands() or "transparency" in image.info:
                return np.asarray(image.convert("RGBA"))[..., 3] > 0
            return np.asarray(image.convert("L")) > 0
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError("has a mask that is no PNG in base64") from error


def unpacked(content: bytes) -> bytes:
    """What zlib packed. Raises UserError where that is damaged, or beyond any PNG of a mask."""
    unpacker = zlib.decompressobj()
    try:
        found = unpacker.decompress(content, MAX_PNG_BYTES)
    except zlib.error as error:
        raise UserError("has a bitmap that is not packed by zlib") from error
    if unpacker.unconsumed_tail:
        raise UserError(f"has a bitmap of more than {MAX_PNG_BYTES >> 20} MB")
    return found
