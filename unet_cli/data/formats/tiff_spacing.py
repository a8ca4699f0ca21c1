"""The size of pixels and voxels, as ImageJ and OME write it into a TIFF, or its tags tell it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from tifffile import TiffFile

from unet_cli.data.formats.decoded import read
from unet_cli.data.formats.tiff_pages import TIFF_SIGNATURES, open_tiff

IN_MM = {
    "nm": 1e-6, "nanometer": 1e-6, "um": 1e-3, "\u00b5m": 1e-3, "\u03bcm": 1e-3, "micron": 1e-3, "microns": 1e-3,
    "micrometer": 1e-3, "mm": 1.0, "millimeter": 1.0, "cm": 10.0, "centimeter": 10.0, "m": 1e3, "inch": 25.4,
}  # fmt: skip
SHORT = {1e-6: "nm", 1e-3: "um", 1.0: "mm", 10.0: "cm", 1e3: "m", 25.4: "inch"}
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
INCH, CENTIMETRE = 2, 3
SCREENS = (72, 96)  # dots for each inch that say nothing of what is in the image

Spacing = tuple[float, float, float]


def tiff_spacing(path: Path) -> Spacing | None:
    """Distance between the centres of voxels in mm, along (D, H, W); None for other files, and where one is missing.
    Raises UserError."""
    found = _steps(path, "ZYX")
    if found is None:
        return None
    depth, height, width = (size * IN_MM[unit] for size, unit in found)
    return depth, height, width


def tiff_pixel_size(path: Path) -> tuple[tuple[float, float], str] | None:
    """Height and width of a pixel of an image, and their unit: as ImageJ or OME write them, else by the resolution in
    the TIFF's tags; None for other files, and where it isn't told. Raises UserError."""
    found = _steps(path, "YX")
    if found is None:
        return None
    unit = found[-1][1]
    height, width = (size * IN_MM[own] / IN_MM[unit] for size, own in found)
    return (height, width), unit


def _steps(path: Path, axes: str) -> list[tuple[float, str]] | None:
    """The size of a pixel or voxel along these axes, each with its unit, a key of IN_MM and value of SHORT."""
    return read(path, lambda file, head: _steps_in(file, axes) if head[:4] in TIFF_SIGNATURES else None)


def _steps_in(file: BinaryIO, axes: str) -> list[tuple[float, str]] | None:
    with open_tiff(file) as stack:
        tif = stack.tif
        if tif.is_ome:
            return _checked(_of_ome(tif.ome_metadata or "", axes))
        if tif.is_imagej or "Z" in axes:
            return _checked(_of_imagej(tif, axes))
        return _checked(_of_tags(tif))


def _of_ome(description: str, axes: str) -> list[tuple[object, str]]:
    """From the attributes of the first image, where the unit is micrometres unless one is given."""
    found: list[tuple[object, str]] = []
    for axis in axes:
        size = re.search(rf'\bPhysicalSize{axis}="([^"]*)"', description)
        unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]*)"', description)
        found.append((size[1] if size else None, unit[1] if unit else "um"))
    return found


def _of_imagej(tif: TiffFile, axes: str) -> list[tuple[object, str]]:
    known = tif.imagej_metadata or {}
    unit = str(known.get("unit", "")).replace("\\u00B5", "\u00b5")
    return [(step, unit) for step in ([known.get("spacing")] if "Z" in axes else []) + _of_resolution(tif)]


def _of_tags(tif: TiffFile) -> list[tuple[object, str]]:
    """From the resolution, unless it is one that programs write where they know none."""
    unit = tif.pages.first.tags.valueof(RESOLUTION_UNIT)
    steps = _of_resolution(tif)
    if unit == INCH and any(isinstance(step, float) and round(1 / step) in SCREENS for step in steps):
        return []
    to_mm = {INCH: 25.4, CENTIMETRE: 10.0}.get(unit, 0.0)
    return [(step * to_mm if isinstance(step, float) else None, "mm") for step in steps]


def _of_resolution(tif: TiffFile) -> list[object]:
    """Height and width of a pixel in the unit of the tags, which hold pixels for each unit, as a fraction."""
    steps: list[object] = []
    for number in (Y_RESOLUTION, X_RESOLUTION):
        value = tif.pages.first.tags.valueof(number)
        is_fraction = isinstance(value, tuple) and len(value) == 2 and value[0]
        steps.append(value[1] / value[0] if is_fraction else None)
    return steps


def _checked(steps: Iterable[tuple[object, str]]) -> list[tuple[float, str]] | None:
    sizes = []
    for value, unit in steps:
        try:
            size, short = float(str(value)), SHORT[IN_MM[unit.strip().lower()]]
        except (ValueError, KeyError):
            return None
        if not (math.isfinite(size) and size > 0):
            return None
        sizes.append((size, short))
    return sizes or None
