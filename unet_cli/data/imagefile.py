"""Read and write images and masks: files on one side, numpy arrays on the other."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from unet_cli.errors import UserError, explain
from unet_cli.files import whole_file

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp"})

# Pillow's guard against decompression bombs stops at 179 megapixels; a microscope's image may well be larger.
Image.MAX_IMAGE_PIXELS = 2_000_000_000

GRAY_MODES = {"1": "L", "L": "L", "LA": "L", "La": "L"}
SIXTEEN_BIT_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})


def is_image_file(path: Path) -> bool:
    """By its name: a known extension, and not one of the hidden files that systems leave in folders."""
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")


def read_image(path: Path) -> np.ndarray:
    """An image as (C, H, W), C being 1 for gray and 3 for colour; uint8, or uint16 where the file has 16 bits.

    Palettes are resolved, alpha is dropped, EXIF orientation is applied.
    Raises UserError where the file is missing, broken or of an unknown kind.
    """
    image = _open(path)
    if image.mode in SIXTEEN_BIT_MODES or image.mode == "I":
        pixels = _sixteen_bit(image, path)[None]
    elif image.mode in GRAY_MODES:
        pixels = np.asarray(image.convert(GRAY_MODES[image.mode]))[None]
    elif image.mode == "F":
        raise UserError(f"{path} holds floating-point numbers: convert it to 8 or 16 bits")
    else:
        colour = np.asarray(image.convert("RGBA" if image.mode == "P" else "RGB"))
        pixels = np.moveaxis(colour[..., :3], -1, 0)
    return np.array(pixels, order="C")  # a copy: arrays of Pillow's are read-only, which torch warns of


def read_mask(path: Path) -> tuple[np.ndarray, list[int] | None]:
    """A mask as (H, W) uint8 or uint16 values, and its palette (r, g, b, r, g, ...) where it has one.

    The values of a palette image are its indices. A mask in RGB whose channels are equal is read as gray.
    Raises UserError where the file is missing, broken, or holds colours.
    """
    image = _open(path)
    if image.mode == "P":
        return np.asarray(image), image.getpalette("RGB")
    if image.mode in SIXTEEN_BIT_MODES or image.mode == "I":
        return _sixteen_bit(image, path), None
    if image.mode in GRAY_MODES:
        return np.asarray(image.convert(GRAY_MODES[image.mode])), None
    if image.mode == "F":
        raise UserError(f"{path} holds floating-point numbers: save masks as whole numbers, 0 being background")
    colour = np.asarray(image.convert("RGB"))
    if (colour[..., 0] != colour[..., 1]).any() or (colour[..., 0] != colour[..., 2]).any():
        raise UserError(f"{path} is a mask in colours: save it as gray or with a palette, one value for each class")
    return np.ascontiguousarray(colour[..., 0]), None


def read_size(path: Path) -> tuple[int, int]:
    """Height and width from the file's header, orientation applied, without decoding the pixels. Raises UserError."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) >= 5
    except (OSError, SyntaxError, ValueError) as error:
        raise _unreadable(path, error) from error
    return (width, height) if turned else (height, width)


def write_mask(path: Path, mask: np.ndarray, palette: list[int] | None = None) -> None:
    """Write (H, W) uint8 or uint16 values as PNG, with a palette where one is given. Raises UserError."""
    image = Image.fromarray(mask)
    if palette is not None:
        image = Image.fromarray(mask.astype(np.uint8))
        image.putpalette(palette)
    write_png(path, image)


def write_png(path: Path, image: Image.Image, durable: bool = False) -> None:
    """Write losslessly and whole. Raises UserError."""
    with whole_file(path, durable) as file:
        image.save(file, format="PNG", compress_level=3)


def _open(path: Path) -> Image.Image:
    """Decode the first page, upright."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; what matters for the pixels raises
            with Image.open(path) as image:
                image.load()
                return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    if isinstance(error, UnidentifiedImageError):
        return UserError(f"{path} is not an image, whatever its name says: replace or remove it")
    if isinstance(error, OSError) and error.errno is not None:
        return explain(error, path)
    return UserError(f"{path} is damaged ({error}): replace or remove it")


def _sixteen_bit(image: Image.Image, path: Path) -> np.ndarray:
    """(H, W) uint16. Pillow opens some 16-bit files as 32-bit integers."""
    pixels = np.asarray(image)
    if pixels.dtype != np.uint16:
        if pixels.min() < 0 or pixels.max() > 65535:
            raise UserError(f"{path} has values outside 0 to 65535: convert it to 8 or 16 bits")
        pixels = pixels.astype(np.uint16)
    return pixels
