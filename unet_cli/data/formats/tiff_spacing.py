"""The spacing of a stack's voxels, as ImageJ and OME write it into a TIFF."""

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
X_RESOLUTION, Y_RESOLUTION = 282, 283

Spacing = tuple[float, float, float]


def tiff_spacing(path: Path) -> Spacing | None:
    """Distance between the centres of voxels in mm, along (D, H, W); None for other files, and where one is missing.
    Raises UserError."""
    return read(path, lambda file, head: _spacing_in(file) if head[:4] in TIFF_SIGNATURES else None)


def _spacing_in(file: BinaryIO) -> Spacing | None:
    with open_tiff(file) as stack:
        return _of_ome(stack.tif.ome_metadata or "") if stack.tif.is_ome else _of_imagej(stack.tif)


def _of_ome(description: str) -> Spacing | None:
    """From the attributes of the first image, where the unit is micrometres unless one is given."""
    found = []
    for axis in "ZYX":
        size = re.search(rf'\bPhysicalSize{axis}="([^"]*)"', description)
        unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]*)"', description)
        found.append((size[1] if size else None, unit[1] if unit else "um"))
    return _in_mm(found)


def _of_imagej(tif: TiffFile) -> Spacing | None:
    known = tif.imagej_metadata or {}
    unit = str(known.get("unit", "")).replace("\\u00B5", "\u00b5")
    tags = tif.pages.first.tags
    steps: list[tuple[object, str]] = [(known.get("spacing"), unit)]
    for number in (Y_RESOLUTION, X_RESOLUTION):  # pixels for each unit, as a fraction
        value = tags.valueof(number)
        is_fraction = isinstance(value, tuple) and len(value) == 2 and value[0]
        steps.append((value[1] / value[0] if is_fraction else None, unit))
    return _in_mm(steps)


def _in_mm(steps: Iterable[tuple[object, str]]) -> Spacing | None:
    sizes = []
    for value, unit in steps:
        try:
            size = float(str(value)) * IN_MM[unit.strip().lower()]
        except (ValueError, KeyError):
            return None
        if not (math.isfinite(size) and size > 0):
            return None
        sizes.append(size)
    depth, height, width = sizes
    return depth, height, width
