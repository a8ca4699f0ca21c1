"""Read and write images and masks: files on one side, numpy arrays on the other."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from unet_cli.errors import UserError, explain
from unet_cli.files import whole_file

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp"})

# Pillow's guard against headers that claim more than a file can hold refuses twice this many pixels: its own limit is
# that of a photograph, and a microscope's image may well be larger.
Image.MAX_IMAGE_PIXELS = 250_000_000
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

SIGNATURE = ("Software", "unet")  # a text chunk of every PNG that we write

# Of odd metadata; what matters for the pixels raises.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

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

    The values of a palette image are its indices, but those of a gray GIF its gray levels: writers of GIF renumber the
    palette in each file. A mask in RGB whose channels are equal is read as gray.
    Raises UserError where the file is missing, broken, or holds colours.
    """
    image = _open(path)
    if image.mode == "P":
        palette = image.getpalette("RGB") or []
        if path.suffix.lower() == ".gif" and palette[0::3] == palette[1::3] == palette[2::3]:
            return np.asarray(image.convert("L")), None
        return np.asarray(image), palette
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


def write_mask(path: Path, mask: np.ndarray, palette: list[int] | None = None) -> None:
    """Write (H, W) uint8 or uint16 values as PNG, with a palette where one is given. Raises UserError."""
    image = Image.fromarray(mask)
    if palette is not None:
        image = Image.fromarray(mask.astype(np.uint8))
        image.putpalette(palette)
    write_png(path, image)


def write_png(path: Path, image: Image.Image) -> None:
    """Write losslessly and whole, with our name in it. Raises UserError."""
    signature = PngInfo()
    signature.add_text(*SIGNATURE)
    with whole_file(path) as file:
        image.save(file, format="PNG", compress_level=3, pnginfo=signature)


def stretched(pixels: np.ndarray, cut: float) -> np.ndarray:
    """Pixels of any depth -> uint8 that spans their own range, from the `cut` percentile to that far from the top."""
    low, high = np.percentile(pixels, [cut, 100 - cut])
    return (np.clip((pixels - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)


def to_rgb(pixels: np.ndarray) -> np.ndarray:
    """(1 or 3, H, W) uint8 -> (H, W, 3), to draw on."""
    return np.moveaxis(np.broadcast_to(pixels, (3, *pixels.shape[1:])), 0, -1).copy()


def is_ours(path: Path) -> bool:
    """Whether `write_png` made this file, so that it may be replaced: anything else belongs to the user."""
    try:
        with Image.open(path) as image:
            return image.info.get(SIGNATURE[0]) == SIGNATURE[1]
    except (OSError, SyntaxError, ValueError):
        return False


def _open(path: Path) -> Image.Image:
    """Decode the first page, upright."""
    try:
        with Image.open(path) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except (
        Exception
    ) as error:  # a broken file may make its decoder fail in any way, struct.error and IndexError included
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    if isinstance(error, UnidentifiedImageError):
        return UserError(f"{path} is not an image, whatever its name says: replace or remove it")
    if isinstance(error, Image.DecompressionBombError):
        return UserError(
            f"{path} has more than 500 million pixels, or a damaged header: cut it into parts, or replace it"
        )
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
