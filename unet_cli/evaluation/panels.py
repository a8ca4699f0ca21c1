"""Panels of the report: an image, its mask, the prediction and the errors, each a small file."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from unet_cli.config.model import IGNORED
from unet_cli.data.colours import ERROR_COLOURS, Colours
from unet_cli.data.nearest import nearest
from unet_cli.data.pictures import small, to_rgb

PANEL = 320  # pixels of the longer side
JPEG_QUALITY = 80

BACKGROUND, LEFT_OUT, RIGHT, FALSE, MISSED, WRONG = range(len(ERROR_COLOURS))


@dataclass(frozen=True)
class Panels:
    """The panels of one image or volume, each a complete file; of an image at most PANEL pixels a side.

    image: JPEG. mask, pred, errors: PNG with a palette. place: of a volume, the voxel through which its planes are
    shown, counted from 0; see draw_planes.
    """

    image: bytes
    mask: bytes
    pred: bytes
    errors: bytes
    place: tuple[int, int, int] | None = None


def draw_panels(pixels: np.ndarray, target: np.ndarray, pred: np.ndarray, colours: Colours) -> Panels:
    """(C, H, W) uint8, uint16 or float32 pixels as in the file; (H, W) uint8 class indices of the ground truth, with
    IGNORED, and of the prediction -> files for the report, at most PANEL pixels a side.

    The image is downsampled by averaging and its contrast stretched; with other than 1 or 3 channels, the first three
    or the first one is shown. Masks are downsampled by nearest neighbour. The error panel keeps every error: a pixel
    shows the worst kind of the pixels that it covers.
    """
    height, width = _size(*target.shape)
    ignored = colours.indices  # the last colour of the palette
    palette = colours.area_palette()[: ignored + 1]
    kinds = error_kinds(target, pred, int(colours.background))
    return Panels(
        image=jpeg(to_rgb(small(pixels, height, width))),
        mask=png(nearest(np.where(target == IGNORED, ignored, target), height, width), palette),
        pred=png(nearest(pred, height, width), palette),
        errors=png(highest(kinds, height, width), np.array([colours.errors[kind] for kind in ERROR_COLOURS])),
    )


def error_kinds(target: np.ndarray, pred: np.ndarray, first: int = 1) -> np.ndarray:
    """uint8 class indices of ground truth and prediction -> uint8 of the same shape: BACKGROUND, LEFT_OUT, RIGHT,
    FALSE, ...

    first: the first foreground class, 0 where there is no background.
    """
    ignored, right = target == IGNORED, target == pred
    no_truth, no_pred = target < first, pred < first
    kinds = [np.uint8(kind) for kind in (LEFT_OUT, BACKGROUND, RIGHT, FALSE, MISSED)]
    return np.select([ignored, no_truth & no_pred, right, no_truth, no_pred], kinds, np.uint8(WRONG))


def _size(height: int, width: int) -> tuple[int, int]:
    scale = min(1, PANEL / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def highest(kinds: np.ndarray, height: int, width: int) -> np.ndarray:
    """The maximum over each cell of a height x width grid; the cells cover the whole image."""
    rows, columns = (np.arange(new) * old // new for new, old in zip((height, width), kinds.shape, strict=True))
    return np.maximum.reduceat(np.maximum.reduceat(kinds, rows, axis=0), columns, axis=1)


def jpeg(rgb: np.ndarray, sharp: bool = False) -> bytes:
    """(H, W, 3) uint8 -> JPEG. sharp: whether thin lines keep their colours."""
    options = {"subsampling": 0} if sharp else {}
    return _saved(Image.fromarray(rgb), format="JPEG", quality=JPEG_QUALITY, **options)


def png(indices: np.ndarray, palette: np.ndarray) -> bytes:
    """(H, W) indices -> PNG with a palette of (n, 3) colours, at the lowest bit depth that holds them."""
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(palette.astype(np.uint8).tobytes())
    # Run-length encoding is small enough, and takes a fortieth of the time of the best compression.
    return _saved(image, format="PNG", compress_type=zlib.Z_RLE)


def _saved(image: Image.Image, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, **options)
    return file.getvalue()
