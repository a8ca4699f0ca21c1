"""The slices of a DICOM series: their order, their distance and their place in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from unet_cli.data.formats.decoded import Refused, read
from unet_cli.data.formats.extras import DICOM, is_dicom, needed
from unet_cli.data.formats.nifti import Geometry
from unet_cli.data.source import Turn
from unet_cli.errors import UserError

TAGS = ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "SliceThickness"]
TOLERANCE = 0.1  # relative, of the distance between slices; 1e-3 of the directions of their rows and columns
TO_RAS = np.array([-1.0, -1.0, 1.0])  # DICOM counts towards left and posterior, NIfTI towards right and anterior


class Place(NamedTuple):
    """Of a slice: position of its first pixel in mm towards left, posterior and superior; directions (2, 3) along its
    rows and its columns; spacing and number of its rows and columns; and thickness, 0 where the file doesn't tell."""

    position: np.ndarray
    directions: np.ndarray
    spacing: tuple[float, float]
    sides: tuple[int, int]
    thickness: float


def slice_of(path: Path) -> tuple[str, float] | None:
    """What a DICOM file is a slice of, a name of its series, and its position in mm along the normal of the slices;
    None for files that are no slices, such as radiographs. Raises UserError."""
    return read(path, _slice)


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


def turn_of(paths: Sequence[Path]) -> Turn:
    """How a series, its files in order, is brought to the axes of NIfTI as it is read: slices from inferior to
    superior, rows to posterior, columns to left, by the closest axes; () if they are so. Raises UserError."""
    turn = _turn(_steps(paths))
    return () if turn == tuple((axis, 1) for axis in range(3)) else turn


def tells_spacing(paths: Sequence[Path]) -> bool:
    """Whether the files tell the size of their voxels. Raises UserError."""
    place = _place_of(paths[0])
    return min(place.spacing) > 0 and (len(paths) > 1 or place.thickness > 0)


def series_geometry(paths: Sequence[Path]) -> Geometry:
    """How a series, its files in order, lies in space after it is turned. A spacing that the files don't tell is 1 mm.
    Raises UserError."""
    place, steps = _place_of(paths[0]), _steps(paths)
    sides = (len(paths), *place.sides)
    turn = _turn(steps)
    affine = np.eye(4)
    origin = place.position.copy()
    for column, (axis, direction) in enumerate(turn):
        affine[:3, column] = direction * steps[:, axis] * TO_RAS
        origin += steps[:, axis] * ((sides[axis] - 1) if direction < 0 else 0)
    affine[:3, 3] = origin * TO_RAS
    stored = ["SI", "PA", "LR"]
    letters = {axis: stored[column][direction < 0] for column, (axis, direction) in enumerate(turn)}
    depth, height, width = (sides[axis] for axis, _ in turn)
    return Geometry((depth, height, width), affine, "".join(letters[axis] for axis in (2, 1, 0)), is_float=False)


def _steps(paths: Sequence[Path]) -> np.ndarray:
    """(3, 3): the step from slice to slice, row to row and column to column in each column, in mm towards left,
    posterior and superior; a spacing that the files don't tell is 1. Slices may be stacked obliquely, as of a tilted
    gantry. Raises UserError."""
    first, last = _place_of(paths[0]), _place_of(paths[-1])
    height, width = (step or 1.0 for step in first.spacing)
    through = (
        (last.position - first.position) / (len(paths) - 1)
        if len(paths) > 1
        else np.cross(*first.directions) * (first.thickness or 1.0)
    )
    return np.stack([through, first.directions[1] * height, first.directions[0] * width], axis=1)


def _turn(steps: np.ndarray) -> Turn:
    """For slices, rows and columns as they are read, the closest axis of the files, and its direction."""
    cosines = (steps / np.linalg.norm(steps, axis=0))[::-1]  # rows: superior, posterior, left
    closest = max(
        permutations(range(3)), key=lambda axes: sum(abs(cosines[row, axis]) for row, axis in enumerate(axes))
    )
    return tuple((axis, -1 if cosines[row, axis] < 0 else 1) for row, axis in enumerate(closest))


def _height(path: Path, place: Place, first: Place, first_path: Path) -> float:
    """The position of a slice along the normal of the first one, in mm."""
    if np.abs(place.directions - first.directions).max() > 1e-3 or place.spacing != first.spacing:
        raise UserError(
            f"{path} lies in another direction than {first_path}, or has pixels of another size: put each series into "
            "a folder of its own"
        )
    return float((place.position - first.position) @ np.cross(*first.directions))


def _slice(file: BinaryIO, head: bytes) -> tuple[str, float] | None:
    if not is_dicom(head):
        return None
    try:
        place = _place(file, head)
    except Refused:
        return None
    file.seek(0)
    dataset: Any = needed(DICOM).dcmread(file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
    return str(dataset.get("SeriesInstanceUID") or ""), float(place.position @ np.cross(*place.directions))


def _place_of(path: Path) -> Place:
    return read(path, _place)


def _place(file: BinaryIO, head: bytes) -> Place:
    if not is_dicom(head):
        raise Refused("is no DICOM file as the others of its folder: put it elsewhere")
    file.seek(0)
    dataset: Any = needed(DICOM).dcmread(file, stop_before_pixels=True, specific_tags=TAGS)
    position, directions = (_numbers(dataset, tag) for tag in TAGS[:2])
    if len(position) != 3 or len(directions) != 6 or not np.isfinite([*position, *directions]).all():
        raise Refused("doesn't tell its position in the patient: save the series as NIfTI, with dcm2niix for instance")
    spacing = _numbers(dataset, "PixelSpacing")
    height, width = spacing if len(spacing) == 2 and min(spacing) > 0 else (0.0, 0.0)
    sides = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    thickness = float(dataset.get("SliceThickness") or 0)
    return Place(np.array(position), np.array(directions).reshape(2, 3), (height, width), sides, thickness)


def _numbers(dataset: Any, tag: str) -> list[float]:
    return [float(number) for number in dataset.get(tag) or ()]
