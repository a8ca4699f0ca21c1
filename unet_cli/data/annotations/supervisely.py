"""Supervisely: a JSON file for each image, in ann/ beside img/; classes and their colours in meta.json.

Origin: the centre of the first pixel, the outline counted in, since exports hold whole numbers that OpenCV fills
(supervisely.geometry.polygon); the outlines of holes are holes. The last corner of a rectangle is its last pixel.
Bitmaps are PNG, packed by zlib, in base64.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from unet_cli.data.annotations.bitmaps import png_bitmap, unpacked
from unet_cli.data.annotations.linked import Folder, Linked, one_each
from unet_cli.data.annotations.rings import MIN_POINTS, numbers
from unet_cli.data.annotations.shapes import (
    Annotated,
    AnnotationFile,
    OtherFormat,
    Runs,
    Shape,
    ring_of,
    shapes_or_problem,
    size_of,
)
from unet_cli.errors import UserError

META = "meta.json"
BITMAPS = ("bitmap", "alpha_mask")


def parse(content: bytes) -> AnnotationFile:
    """The one image of a file, under no name. Raises UserError at what is no such file."""
    data = json.loads(content)
    if not isinstance(data, dict) or not isinstance(data.get("objects"), list):
        raise OtherFormat("has no list of 'objects'")
    sides = data.get("size")
    size = size_of(sides.get("height"), sides.get("width")) if isinstance(sides, dict) else None
    counts, left_out = Counter[str](), Counter[str]()
    items = ((f"object {number}", one) for number, one in enumerate(data["objects"], 1))
    found, problem = shapes_or_problem(items, lambda one: _shape(one, counts, left_out))
    names = dict.fromkeys(shape.label for _, shape in found)
    one = Annotated(size, tuple(shape for _, shape in found), problem=problem)
    return AnnotationFile({"": one}, tuple(names), counts, left_out)


def link(folder: Folder) -> Linked | None:
    """img/7.png of ann/7.png.json in the same data set, and meta.json of the project."""
    found = one_each(
        folder, name_of=lambda path: f"{path.parent.parent.name}/img/{path.name.removesuffix(path.suffix)}"
    )
    if found is None:
        return None
    above = {parent for one in found.links for parent in one.path.parents}
    metas = [path for path in folder.others if path.name.lower() == META and path.parent in above]
    colours: dict[str, int] = {}
    for path in metas:
        colours |= _meta(path)
    labels = {label for one in found.links for label in sorted(folder.read(one.path).labels)}
    names = (*colours, *sorted(labels - colours.keys())) if colours else ()
    known = {name: colour for name, colour in colours.items() if colour >= 0}
    return replace(found, names=names, colours=known, used=found.used.union(metas))


def _meta(path: Path) -> dict[str, int]:
    """Names of classes and their colours 0xRRGGBB, -1 where one has none."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}, which names the classes, can't be read: {error}") from error
    classes = data.get("classes") if isinstance(data, dict) else None
    found = {}
    for one in classes if isinstance(classes, list) else []:
        if isinstance(one, dict) and isinstance(one.get("title"), str):
            colour = str(one.get("color"))
            found[one["title"].strip()] = int(colour[1:], 16) if re.fullmatch(r"#[0-9a-fA-F]{6}", colour) else -1
    return found


def _shape(one: Any, counts: Counter[str], left_out: Counter[str]) -> Shape | None:
    """None where it has no area, which is counted. Raises UserError at what can't be drawn."""
    if not isinstance(one, dict) or not isinstance(one.get("classTitle"), str) or not one["classTitle"].strip():
        raise UserError("has no classTitle")
    label, points = one["classTitle"].strip(), one.get("points")
    kind = str(one.get("geometryType") or ("bitmap" if one.get("bitmap") else "polygon"))
    if kind in BITMAPS:
        counts["bitmap"] += 1
        return Shape(label, "runs", runs=_runs(one.get("bitmap") or one.get("alpha_mask")))
    if kind not in ("polygon", "rectangle"):
        left_out[f"{kind}, which has no area"] += 1
        return None
    if not isinstance(points, dict) or not isinstance(points.get("interior") or [], list):
        raise UserError("has no points")
    outer, inner = ring_of(points.get("exterior")), [ring_of(ring) for ring in points.get("interior") or []]
    needed = 2 if kind == "rectangle" else MIN_POINTS
    if len(outer) < needed:
        left_out[f"{kind} of fewer than {needed} points"] += 1
        return None
    if kind == "rectangle":
        counts["rectangle, filled"] += 1
        return Shape(label, "rectangle", (np.stack([outer.min(0), outer.max(0)]),))
    holes = [ring for ring in inner if len(ring) >= MIN_POINTS]
    if len(holes) < len(inner):
        left_out[f"hole of fewer than {MIN_POINTS} points"] += len(inner) - len(holes)
    counts["polygon with holes" if holes else "polygon"] += 1
    return Shape(label, "outlined", (outer, *holes))


def _runs(bitmap: Any) -> Runs:
    origin = bitmap.get("origin") if isinstance(bitmap, dict) else None
    if not isinstance(origin, list) or len(origin) != 2 or "data" not in bitmap:
        raise UserError("has a bitmap without data or origin")
    left, top = (round(value) for value in numbers(*origin))
    try:
        packed = base64.b64decode(bitmap["data"], validate=True)
    except (TypeError, ValueError) as error:
        raise UserError("has a bitmap that is not in base64") from error
    return Runs.of(png_bitmap(unpacked(packed)), top, left)
