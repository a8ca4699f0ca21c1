"""labelme: polygons through the middles of the outermost pixels, since labelme counts the outline in."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
from PIL import Image

from unet_cli.data.annotations.polygons import drawn_apart
from unet_cli.data.annotations.shapes import Annotated, Shape
from unet_cli.data.export.drawing import Drawing, bridged, plain_points
from unet_cli.data.outline import Rings, pixel_lines
from unet_cli.data.simplify import CLOSE, COARSE, thinned

VERSION = "5.5.0"  # of the format
MIN_POINTS = 3
IGNORE = "__ignore__"


def written(drawing: Drawing) -> bytes:
    height, width = drawing.size
    polygons = _polygons(drawing)
    shapes = []
    for number in range(1, len(drawing.objects) + 1):
        figures = drawing.figures(number)
        told = ", ".join(f"{name} {value}" for name, value in figures.items())
        if number in polygons:
            drawn = {"points": plain_points(polygons[number]), "shape_type": "polygon"}
        else:
            drawn = _mask(*drawing.objects.inside(number))
        shapes.append(_shape(drawing.name_of(number), drawn, told) | figures)
    if drawing.ignored is not None and drawing.ignored.any():
        shapes.append(_shape(IGNORE, _mask(drawing.ignored, (0, 0)), ""))
    content: dict[str, Any] = {
        "version": VERSION,
        "flags": {},
        "generator": "unet",
        "imagePath": drawing.image,
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
        "shapes": shapes,
    }
    return json.dumps(content, ensure_ascii=False, indent=1).encode()


def _shape(label: str, drawn: dict[str, Any], description: str) -> dict[str, Any]:
    return {"label": label, "group_id": None, "description": description, "flags": {}, "mask": None} | drawn


def _mask(inside: np.ndarray, origin: tuple[int, ...]) -> dict[str, Any]:
    """A bitmap; its points are its first and its last pixel."""
    file = io.BytesIO()
    Image.fromarray(inside).save(file, format="PNG")
    top, left = origin
    last = [left + inside.shape[1] - 1, top + inside.shape[0] - 1]
    text = base64.b64encode(file.getvalue()).decode()
    return {"points": [[left, top], last], "shape_type": "mask", "mask": text}


def _polygons(drawing: Drawing) -> dict[int, np.ndarray]:
    """The polygon of each object that one draws right, by its number."""
    waiting: dict[int, np.ndarray] = {}
    for number, parts in drawing.exact():
        if all(len(part) == 1 for part in parts):
            ring = bridged([pixel_lines(part[0]) for part in parts])
            if len(ring) >= MIN_POINTS:
                waiting[number] = ring
    done: dict[int, np.ndarray] = {}
    tolerance = drawing.tolerance
    least = 1.0 if tolerance == 0 else CLOSE if tolerance <= 0.5 else COARSE
    for step in dict.fromkeys((tolerance, tolerance / 2, 0.0)):
        fewer = thinned(_rings(waiting), step).by_object() if waiting else {}
        good = {
            number: parts[0][0] for number, parts in fewer.items() if _agreement(drawing, number, parts[0][0]) >= least
        }
        done |= good
        waiting = {number: ring for number, ring in waiting.items() if number not in good}
    return done


def _rings(chains: dict[int, np.ndarray]) -> Rings:
    starts = np.cumsum([0, *map(len, chains.values())])
    none = np.zeros(len(chains), np.int64)
    return Rings(np.concatenate([*chains.values()]), starts, np.array([*chains]), none, none > 0)


def _agreement(drawing: Drawing, number: int, ring: np.ndarray) -> float:
    """Intersection over union of an object and what labelme draws for its polygon; 0 where it isn't one."""
    if len(ring) < MIN_POINTS:
        return 0.0
    inside, (top, left) = drawing.objects.inside(number)
    shape = Shape("", "outlined", (ring.astype(np.float64) - [left, top],))
    drawn = drawn_apart(Annotated(None, (shape,)), inside.shape) > 0
    return float((drawn & inside).sum() / (drawn | inside).sum())
