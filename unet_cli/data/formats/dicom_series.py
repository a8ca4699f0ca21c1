"""The slices of a DICOM series: their order and their distance, by their position in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from unet_cli.data.formats.decoded import Refused, read
from unet_cli.data.formats.extras import DICOM, is_dicom, needed
from unet_cli.errors import UserError

TAGS = ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]
TOLERANCE = 0.1  # relative, of the distance between slices; 1e-3 of the directions of their rows and columns

Place = tuple[np.ndarray, np.ndarray, tuple[float, float]]  # position, directions (2, 3), spacing of rows and columns


def in_order(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The files of a DICOM series from its first slice to its last, along the normal of the slices, which points
    upwards for axial ones. Raises UserError where a file is no slice of it, or one is missing."""
    places = [_place_of(path) for path in paths]
    rows = [_height(path, place, places[0], paths[0]) for path, place in zip(paths, places, strict=True)]
    order = np.argsort(rows, kind="stable").tolist()
    ordered = tuple(paths[index] for index in order)
    gaps = np.diff([rows[index] for index in order])
    usual = float(np.median(gaps)) if len(gaps) else 1.0
    for gap, before, after in zip(gaps.tolist(), ordered, ordered[1:], strict=False):
        if gap < 1e-3 * max(usual, 1.0):
            raise UserError(f"{before} and {after} are at the same place: put each series into a folder of its own")
        if abs(gap - usual) > TOLERANCE * usual:
            missing = round(gap / usual) - 1
            what = f"{missing} slice{'s' * (missing > 1)} missing" if missing > 0 else "another distance"
            raise UserError(
                f"{before.parent}: {what} between {before.name} and {after.name}, which are {gap:.4g} mm apart where "
                f"others are {usual:.4g} mm: complete the series, or leave it out with --skip-bad"
            )
    return ordered


def series_spacing(paths: Sequence[Path]) -> tuple[float, float, float] | None:
    """Distance of voxels in mm, along (D, H, W), of slices in order; None for a single slice, and where the files don't
    tell. Raises UserError."""
    if len(paths) < 2:
        return None
    first, last = _place_of(paths[0]), _place_of(paths[-1])
    depth = _height(paths[-1], last, first, paths[0]) / (len(paths) - 1)
    height, width = first[2]
    return (depth, height, width) if min(depth, height, width) > 0 else None


def _height(path: Path, place: Place, first: Place, first_path: Path) -> float:
    """The position of a slice along the normal of the first one, in mm."""
    if np.abs(place[1] - first[1]).max() > 1e-3 or place[2] != first[2]:
        raise UserError(
            f"{path} lies in another direction than {first_path}, or has pixels of another size: put each series into "
            "a folder of its own"
        )
    return float((place[0] - first[0]) @ np.cross(*first[1]))


def _place_of(path: Path) -> Place:
    return read(path, _place)


def _place(file: BinaryIO, head: bytes) -> Place:
    if not is_dicom(head):
        raise Refused("is no DICOM file as the others of its folder: put it elsewhere")
    file.seek(0)
    dataset: Any = needed(DICOM).dcmread(file, stop_before_pixels=True, specific_tags=TAGS)
    position = [float(number) for number in dataset.get(TAGS[0]) or ()]
    directions = [float(number) for number in dataset.get(TAGS[1]) or ()]
    if len(position) != 3 or len(directions) != 6 or not np.isfinite([*position, *directions]).all():
        raise Refused("doesn't tell its position in the patient: save the series as NIfTI, with dcm2niix for instance")
    spacing = [float(number) for number in dataset.get(TAGS[2]) or ()]
    height, width = spacing if len(spacing) == 2 else (0.0, 0.0)
    return np.array(position), np.array(directions).reshape(2, 3), (height, width)
