"""labelme: a JSON file for each image.

Origin: the centre of the first pixel, the outline counted in. That is how labelme's own converters draw (by Pillow),
and so how masks are drawn here, see polygons.py; its editor shows (0, 0) at the pixel's corner.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from typing import Any

import numpy as np

from unet_cli.data.annotations.bitmaps import png_bitmap
from unet_cli.data.annotations.shapes import (
    BACKGROUND_LABEL,
    IGNORED_LABEL,
    Annotated,
    AnnotationFile,
    Kind,
    Runs,
    Shape,
    ring_of,
    shapes_or_problem,
    size_of,
)
from unet_cli.errors import UserError

MEANINGS = {"_background_": BACKGROUND_LABEL, "__ignore__": IGNORED_LABEL}  # of labelme's own labels
MIN_POINTS = {"polygon": 3, "rectangle": 2, "circle": 2, "mask": 2}
EMBEDDED = re.compile(rb'"imageData"\s*:\s*"[^"]*"')


def parse(content: bytes) -> AnnotationFile:
    """The one image of a file, under the name that `imagePath` gives it. Raises UserError at what is not labelme's."""
    data = json.loads(EMBEDDED.sub(b'"imageData": null', content))
    if not isinstance(data, dict) or not isinstance(data.get("shapes"), list):
        raise UserError("has no list of 'shapes'")
    path = data.get("imagePath")
    size = size_of(data.get("imageHeight"), data.get("imageWidth"))
    left_out = Counter[str]()
    items = ((f"shape {number}", shape) for number, shape in enumerate(data["shapes"], 1))
    found, problem = shapes_or_problem(items, lambda shape: _shape(shape, left_out))
    shapes = [drawn for _, drawn in found]
    counts = Counter(_kind(shape) for shape, _ in found)
    classes = dict.fromkeys(shape.label for shape in shapes if shape.label not in MEANINGS.values())
    one = Annotated(size, tuple(shapes), problem=problem)
    return AnnotationFile({path if isinstance(path, str) else "": one}, tuple(classes), counts, left_out)


def _kind(shape: dict[str, Any]) -> str:
    return str(shape.get("shape_type") or "polygon")  # version 3 says nothing of most


def _shape(shape: Any, left_out: Counter[str]) -> Shape | None:
    """None where it has no area, which is counted. Raises UserError at what can't be drawn."""
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"].strip():
        raise UserError("has no label")
    kind, ring = _kind(shape), ring_of(shape.get("points"))
    if kind not in MIN_POINTS:
        left_out[f"{kind}, which has no area"] += 1
        return None
    if len(ring) < MIN_POINTS[kind]:
        left_out[f"{kind} of fewer than {MIN_POINTS[kind]} points"] += 1
        return None
    label = MEANINGS.get(shape["label"], shape["label"].strip())
    if kind == "mask":
        return Shape(label, "runs", runs=_mask(shape.get("mask"), ring))
    if kind == "circle":
        radius = float(np.hypot(*(ring[1] - ring[0])))
        ring = np.stack([ring[0] - radius, ring[0] + radius])
    elif kind == "rectangle":
        ring = np.stack([ring[:2].min(0), ring[:2].max(0)])
    drawn_as: dict[str, Kind] = {"polygon": "outlined", "rectangle": "rectangle", "circle": "ellipse"}
    return Shape(label, drawn_as[kind], (ring,))


def _mask(text: Any, corners: np.ndarray) -> Runs:
    """A bitmap as PNG in base64, whose first and last pixel lie at the corners."""
    try:
        content = base64.b64decode(text, validate=True)
    except (TypeError, ValueError) as error:
        raise UserError("has a mask that is no PNG in base64") from error
    inside = png_bitmap(content)
    left, top = np.rint(corners[:2].min(0)).astype(int).tolist()
    return Runs.of(inside, top, left)
