"""How the content of a mask file becomes values: as stored, as displayed colours, or as numbers in colour channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np

from unet_cli.data.labels.stats import ValueStats, unpacked
from unet_cli.data.maskfile import TRANSPARENT, MaskPixels

# 'stored': palettes as indices, everything else unchanged. 'gray': palettes as the displayed gray level. 'colours':
# 0xRRGGBB, also for gray and palettes. 'red', 'green', 'blue': the number is in that channel. 'rgb': R + 256 G + 65536
# B. 'planes': one-hot, the index of the marked plane from 1, 0 for none; 'planes from 0': every pixel is marked.
Reading = Literal["stored", "gray", "colours", "red", "green", "blue", "rgb", "planes", "planes from 0"]
NUMBERS_IN_COLOURS = ("red", "green", "blue", "rgb")
SHOWN = ("colours", *NUMBERS_IN_COLOURS)  # readings by which three planes are the channels of a colour


def mask_as(reading: Reading, mask: MaskPixels) -> np.ndarray:
    """The values of a mask in this reading, of the same shape. Colours stay packed unless they are numbers."""
    if mask.planes and reading in SHOWN:
        return values_as(reading, True, None, _plane_colours(mask.values))
    return values_as(reading, mask.colour, mask.palette, mask.values)


def stats_as(reading: Reading, stats: ValueStats) -> ValueStats:
    """The statistics of a mask in this reading."""
    if stats.planes and reading in SHOWN:
        stats = stats.renamed(_plane_colours, True)
    colour = reading == "colours" or (stats.colour and reading not in NUMBERS_IN_COLOURS)
    if reading in ("stored", "planes") or (stats.colour and colour):
        return stats
    read = stats.renamed(partial(values_as, reading, stats.colour, stats.palette), colour)
    if reading == "planes from 0":
        return replace(read, planes=stats.planes)
    return read if reading == "gray" or stats.palette is None or colour else replace(read, palette=stats.palette)


def values_as(reading: Reading, colour: bool, palette: Sequence[int] | None, values: np.ndarray) -> np.ndarray:
    """The values in this reading. colour, palette: those of the MaskPixels."""
    if reading == "planes from 0":
        return values.astype(np.int32) - 1
    if colour and reading in NUMBERS_IN_COLOURS:
        red, green, blue = unpacked(np.where(values == TRANSPARENT, 0, values))
        numbers = {"red": red, "green": green, "blue": blue, "rgb": red | green << 8 | blue << 16}
        return numbers[reading]
    if not colour and reading == "rgb":
        return values.astype(np.int32) * 0x010101
    if not colour and palette is not None and reading in ("gray", "colours"):
        colours = pack_palette(palette)[np.minimum(values, 255)]
        return colours & 255 if reading == "gray" else colours
    if not colour and reading == "colours":
        return np.clip(values, 0, 255).astype(np.int32) * 0x010101
    return values


def _plane_colours(values: np.ndarray) -> np.ndarray:
    """The indices of three planes of 0 and 1 -> the colours that these planes show as RGB."""
    return np.where(values > 0, 0x010000 >> 8 * (np.clip(values, 1, 3).astype(np.int32) - 1), 0)


def pack_palette(palette: Sequence[int]) -> np.ndarray:
    """(r, g, b, r, g, ...) -> (256) colours; missing entries are black."""
    full = np.zeros(768, np.int32)
    full[: len(palette)] = palette
    red, green, blue = full.reshape(256, 3).T
    return red << 16 | green << 8 | blue
