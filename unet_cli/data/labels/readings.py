"""How what a mask file stores becomes values: as it is, as the colours that a viewer shows, or colours as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np

from unet_cli.data.labels.stats import ValueStats, unpacked
from unet_cli.data.maskfile import TRANSPARENT, MaskPixels

# 'stored': palettes as indices, all else as it is. 'gray': palettes as the gray that they show. 'colours': 0xRRGGBB,
# gray and palettes too. 'red', 'green', 'blue': the number is in that channel. 'rgb': R + 256 G + 65536 B. 'planes':
# the number of the plane that marks a pixel, from 1 on, 0 where none does; 'planes from 0': every pixel is marked.
Reading = Literal["stored", "gray", "colours", "red", "green", "blue", "rgb", "planes", "planes from 0"]
NUMBERS_IN_COLOURS = ("red", "green", "blue", "rgb")
SHOWN = ("colours", *NUMBERS_IN_COLOURS)  # readings by which three planes are the channels of a colour


def mask_as(reading: Reading, mask: MaskPixels) -> np.ndarray:
    """The values of a mask, read in this way, of the same shape. Colours stay packed where they are no numbers."""
    if mask.planes and reading in SHOWN:
        return values_as(reading, True, None, _plane_colours(mask.values))
    return values_as(reading, mask.colour, mask.palette, mask.values)


def stats_as(reading: Reading, stats: ValueStats) -> ValueStats:
    """The same of what was counted."""
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
    """colour, palette: see MaskPixels, whose values these are."""
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
    """The numbers of three planes of 0 and 1 -> the colours that they are as RGB."""
    return np.where(values > 0, 0x010000 >> 8 * (np.clip(values, 1, 3).astype(np.int32) - 1), 0)


def pack_palette(palette: Sequence[int]) -> np.ndarray:
    """(r, g, b, r, g, ...) -> (256) colours; what is missing is black."""
    full = np.zeros(768, np.int32)
    full[: len(palette)] = palette
    red, green, blue = full.reshape(256, 3).T
    return red << 16 | green << 8 | blue
