"""ROIs of ImageJ: a zip file of polygons, and of composites where an object has holes or several parts."""

from __future__ import annotations

import zipfile
from importlib import import_module
from typing import Any, BinaryIO

import numpy as np

from unet_cli.data.export.drawing import Drawing
from unet_cli.data.formats.extras import ROI, is_installed
from unet_cli.errors import UserError

SIGNATURE = b"written by unet"
MOVE_TO, LINE_TO, CLOSE = 0.0, 1.0, 4.0  # segments of a path (ImageJ, ShapeRoi)
DATE = (1980, 1, 1, 0, 0, 0)  # the same bytes at any time
MAX_SIDE = 32_767  # ImageJ holds the box of a ROI in 16 bits


def check_roi(size: tuple[int, int] | None = None) -> None:
    """Raises UserError where roifile is missing, or an image is too large."""
    if not is_installed(ROI):
        raise UserError(f"--polygons roi needs a package: pip install {ROI.name} (the extra `{ROI.extra}`)")
    if size is not None and max(size) > MAX_SIDE:
        raise UserError(f"is larger than {MAX_SIDE:,} pixels, which ROIs can't be: take --polygons geojson")


def write(file: BinaryIO, drawing: Drawing) -> None:
    """Raises UserError where the image is too large."""
    check_roi(drawing.size)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = SIGNATURE
        for number, parts in sorted(drawing.parts.items()):
            name = f"{number:05d} {drawing.name_of(number)}"
            roi = _roi(name, [ring for part in parts for ring in part])
            figures = {"class": drawing.name_of(number), **drawing.figures(number)}
            roi.props = "".join(f"{key}: {value}\n" for key, value in figures.items())
            entry = zipfile.ZipInfo(name.replace("/", "-") + ".roi", DATE)
            archive.writestr(entry, roi.tobytes(), zipfile.ZIP_DEFLATED)


def _roi(name: str, rings: list[np.ndarray]) -> Any:
    roifile: Any = import_module("roifile")
    if len(rings) == 1:
        points = rings[0].astype(np.int32) if (rings[0] == np.rint(rings[0])).all() else rings[0].astype(np.float32)
        roi = roifile.ImagejRoi.frompoints(points, name=name)
        roi.roitype = roifile.ROI_TYPE.POLYGON
        return roi
    path = [value for ring in rings for value in _path(ring)]
    every = np.concatenate(rings)
    (left, top), (right, bottom) = np.floor(every.min(0)), np.ceil(every.max(0))
    return roifile.ImagejRoi(
        roitype=roifile.ROI_TYPE.RECT,
        name=name,
        left=int(left),
        top=int(top),
        right=int(right),
        bottom=int(bottom),
        shape_roi_size=len(path),
        multi_coordinates=np.array(path, np.float32),
    )


def _path(ring: np.ndarray) -> list[float]:
    (x, y), *others = ring.tolist()
    return [MOVE_TO, x, y, *(value for point in others for value in (LINE_TO, *point)), CLOSE]
