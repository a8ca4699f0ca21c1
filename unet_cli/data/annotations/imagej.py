"""ImageJ: selections, one a .roi file, or many in a .zip of the ROI Manager; a file for each image.

Origin: the corner of the first pixel; a pixel is inside where its centre is, as ImageJ fills (PolygonFiller), see
polygons.py. The rings of a composite follow the even-odd rule together. Splines are drawn through straight lines. The
class is the ROI's group, or the word that its name begins with (of cell-1 and cell_2, cell), or else one for all.
"""

from __future__ import annotations

import io
import logging
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from unet_cli.data.annotations.rings import MIN_POINTS, box_ring, ellipse_ring
from unet_cli.data.annotations.shapes import OBJECT, AnnotationFile, OtherFormat, Shape, ring_of, shapes_or_problem
from unet_cli.data.annotations.slices import by_slice
from unet_cli.data.formats.decoded import Refused
from unet_cli.data.formats.extras import ROI, needed
from unet_cli.errors import UserError

RECT, OVAL = 1, 2
WITH_AREA = {0: "polygon", RECT: "rectangle, filled", OVAL: "oval", 7: "freehand", 8: "traced"}
WITHOUT_AREA = {3: "line", 4: "freehand line", 5: "polyline", 6: "nothing", 9: "angle", 10: "points"}
TEXT, IMAGE = 1, 4  # subtypes
WORD = re.compile(r"([^\W\d_]{3,}(?:[ _-][^\W\d_]+)*)(?:[ _.#-]*\d+)*")
NO_CLASS = frozenset({
    "roi", "oval", "polygon", "freehand", "rectangle", "rect", "traced", "composite", "shape", "object", "selection",
    "untitled", "overlay",
})  # fmt: skip

logging.getLogger("roifile").setLevel(logging.ERROR)  # it warns of what is counted here

MAX_ROIS, MAX_ROI_BYTES, MAX_BYTES = 200_000, 2**27, 2**30
STEPS = 8  # of the line that stands for a curve
POINTS_OF = {0: 1, 1: 1, 2: 2, 3: 3, 4: 0}  # of the parts of a path: move, line, quadratic, cubic, close


def parse(content: bytes) -> AnnotationFile:
    """The one image of a file, under no name. Raises UserError at what is no such file, and without roifile."""
    counts, left_out = Counter[str](), Counter[str]()
    try:
        read = needed(ROI).ImagejRoi.frombytes
    except Refused as error:
        raise UserError(str(error)) from error
    rois = []
    for name, packed in _packed(content, left_out):
        try:
            rois.append((name or "the ROI", (name, read(packed))))
        except (ValueError, TypeError, IndexError, struct.error, AssertionError) as error:
            raise UserError(f"has a damaged ROI{f' {name}' if name else ''}: {error}") from error
    found, problem = shapes_or_problem(rois, lambda roi: _shape(*roi, counts, left_out))
    images, slices = by_slice([(_slice(roi), shape) for (_, roi), shape in found], problem)
    names = dict.fromkeys(shape.label for _, shape in found)
    return AnnotationFile(images, tuple(names), counts, left_out, slices=slices)


def _packed(content: bytes, left_out: Counter[str]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each ROI. Names are no paths here: nothing is written."""
    if content[:4] == b"Iout":
        yield "", content
        return
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            rois = [one for one in archive.infolist() if _is_roi(one.filename)]
            others = sum(not one.is_dir() and not _is_roi(one.filename) for one in archive.infolist())
            if not rois:
                raise OtherFormat("holds no ROIs of ImageJ")
            if others:
                left_out["file in the archive that is no ROI"] += others
            sizes = [one.file_size for one in rois]
            if len(rois) > MAX_ROIS or max(sizes) > MAX_ROI_BYTES or sum(sizes) > MAX_BYTES:
                raise UserError(
                    f"holds {len(rois):,} ROIs of {sum(sizes) >> 20:,} MB when unpacked, and at most {MAX_ROIS:,} of "
                    f"{MAX_BYTES >> 20:,} MB are read: keep fewer in a file"
                )
            for one in rois:  # a file that is larger than its archive says is not read further
                with archive.open(one) as file:
                    yield one.filename.rpartition("/")[2][:-4], file.read(one.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"is a damaged or encrypted archive: {error}") from error


def _is_roi(name: str) -> bool:
    return name.lower().endswith(".roi") and not name.startswith("__MACOSX") and "/._" not in name


def _shape(name: str, roi: Any, counts: Counter[str], left_out: Counter[str]) -> Shape | None:
    """None where it has no area, which is counted. Raises UserError at what can't be drawn."""
    kind = int(roi.roitype)
    if int(roi.subtype) in (TEXT, IMAGE):
        left_out["text or image of an overlay"] += 1
        return None
    if kind not in WITH_AREA:
        left_out[f"{WITHOUT_AREA.get(kind, 'selection of an unknown kind')}, which has no area"] += 1
        return None
    if roi.composite:
        rings = _path_rings(roi.multi_coordinates)
    elif kind in (RECT, OVAL):
        left, top, right, bottom = (float(roi.left), float(roi.top), float(roi.right), float(roi.bottom))
        if roi.subpixelrect:
            left, top, right, bottom = roi.xd, roi.yd, roi.xd + roi.widthd, roi.yd + roi.heightd
        middle = ((left + right) / 2, (top + bottom) / 2)
        is_oval = kind == OVAL
        ellipse = ellipse_ring(*middle, (right - left) / 2, (bottom - top) / 2)
        rings = [ellipse if is_oval else box_ring(left, top, right, bottom)]
    else:
        rings = [ring_of(roi.coordinates())]
    kept = tuple(ring for ring in rings if len(ring) >= MIN_POINTS)
    if len(kept) < len(rings) or not rings:
        left_out[f"outline of fewer than {MIN_POINTS} points"] += max(len(rings) - len(kept), 1)
    if not kept:
        return None
    counts["composite" if roi.composite else WITH_AREA[kind]] += 1
    return Shape(_class(name, roi), "holes", kept)


def _path_rings(path: np.ndarray | None) -> list[np.ndarray]:
    """A path of java.awt.geom.PathIterator: numbers, each part begun by its kind. Raises UserError at a broken one."""
    rings, points, values, at = (
        list[np.ndarray](),
        list[tuple[float, float]](),
        [] if path is None else path.tolist(),
        0,
    )
    while at < len(values):
        kind = int(values[at]) if np.isfinite(values[at]) else -1
        end = at + 1 + 2 * POINTS_OF.get(kind, 0)
        if kind not in POINTS_OF or end > len(values) or (kind in (1, 2, 3) and not points):
            raise UserError("has a composite whose path is damaged")
        part = list(zip(values[at + 1 : end : 2], values[at + 2 : end : 2], strict=True))
        if kind in (0, 4):
            rings += [ring_of(points)] if points else []
            points = part if kind == 0 else points[:1]
        else:
            points += part if kind == 1 else _curve([points[-1], *part])
        at = end
    return rings + ([ring_of(points)] if len(points) >= MIN_POINTS else [])


def _curve(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points along a Bezier curve, without its first (de Casteljau)."""
    found = []
    for share in np.arange(1, STEPS + 1) / STEPS:
        line = np.array(points, np.float64)
        while len(line) > 1:
            line = line[:-1] + share * np.diff(line, axis=0)
        found.append((float(line[0, 0]), float(line[0, 1])))
    return found


def _class(name: str, roi: Any) -> str:
    if roi.group > 0:
        return f"group {roi.group}"
    word = WORD.fullmatch((roi.name or name).strip())
    return word[1] if word and word[1].casefold() not in NO_CLASS else OBJECT


def _slice(roi: Any) -> int | None:
    """Number from 0 of the slice, or time, that a ROI is of; None for all."""
    if roi.z_position > 1 and roi.t_position > 1:
        raise UserError("has ROIs at a slice and a time: save the times of the stack as files of their own")
    position = max(roi.z_position, roi.t_position) if roi.z_position or roi.t_position else roi.position
    return position - 1 if position > 0 else None
