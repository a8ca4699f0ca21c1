"""GeoJSON as QuPath writes it: a file for each image, a FeatureCollection or a list of features.

Origin: the corner of the first pixel of the whole image, in pixels; a pixel is inside where its centre is, as QuPath's
mask exports draw, see polygons.py. Rings after the first are holes. QuPath writes ellipses as polygons. Of cells, the
whole cell is drawn. Areas of its class "Ignore*" are ignored, and those of "Region*", which only say where to look, are
left out.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np

from unet_cli.data.annotations.rings import MIN_POINTS
from unet_cli.data.annotations.shapes import (
    IGNORED_LABEL,
    OBJECT,
    Annotated,
    AnnotationFile,
    OtherFormat,
    Shape,
    ring_of,
    shapes_or_problem,
)
from unet_cli.errors import UserError

IGNORED_CLASS, REGION_CLASS = "Ignore*", "Region*"
CLASS_KEYS = ("classification", "class", "label", "category")  # of properties, QuPath's first

Feature = dict[str, Any]


def parse(content: bytes) -> AnnotationFile:
    """The one image of a file, under no name. Raises UserError at what is no such file."""
    data = json.loads(content)
    if isinstance(data, dict) and data.get("type") == "Feature":
        data = [data]
    if isinstance(data, dict):
        if "crs" in data:
            raise UserError("has coordinates of a map ('crs'), where pixels of the image are read: convert them")
        data = data.get("features")
    if not isinstance(data, list) or not all(isinstance(one, dict) and "geometry" in one for one in data):
        raise OtherFormat("is no list of GeoJSON's features")
    counts, left_out, colours = Counter[str](), Counter[str](), dict[str, int]()
    items = ((f"feature {number}", feature) for number, feature in enumerate(data, 1))
    found, problem = shapes_or_problem(items, lambda feature: _shapes(feature, counts, left_out, colours))
    names = dict.fromkeys(shape.label for _, shape in found if shape.label != IGNORED_LABEL)
    one = Annotated(None, tuple(shape for _, shape in found), problem=problem)
    return AnnotationFile({"": one}, tuple(names), counts, left_out, colours)


def _shapes(
    feature: Feature, counts: Counter[str], left_out: Counter[str], colours: dict[str, int]
) -> list[Shape] | None:
    """One for each polygon. Raises UserError at what can't be drawn."""
    geometry, properties = feature["geometry"], feature.get("properties") or {}
    if not isinstance(geometry, dict) or not isinstance(properties, dict):
        left_out["feature without a geometry"] += 1
        return None
    kind, parts = str(geometry.get("type")), geometry.get("coordinates")
    if kind not in ("Polygon", "MultiPolygon"):
        left_out[f"{kind}, which has no area" if kind != "GeometryCollection" else kind] += 1
        return None
    if properties.get("objectType", properties.get("object_type")) in ("tma_core", "tmaCore"):
        left_out["TMA core"] += 1
        return None
    plane = geometry.get("plane")
    if isinstance(plane, dict) and (plane.get("z") or plane.get("t")):
        left_out["object of a slice or time other than the first"] += 1
        return None
    label, colour = _class(properties)
    if label == REGION_CLASS:
        left_out[f"area of the class {REGION_CLASS}"] += 1
        return None
    if colour is not None:
        colours.setdefault(label, colour)
    if not isinstance(parts, list) or not all(isinstance(part, list) for part in parts):
        raise UserError("has coordinates that are no list of rings")
    shapes = []
    for part in [parts] if kind == "Polygon" else parts:
        rings = _rings(part)
        kept = tuple(ring for ring in rings if len(ring) >= MIN_POINTS)
        if len(kept) < len(rings):
            left_out[f"polygon of fewer than {MIN_POINTS} points"] += len(rings) - len(kept)
        if rings and len(rings[0]) >= MIN_POINTS:
            shapes.append(Shape(IGNORED_LABEL if label == IGNORED_CLASS else label, "holes", kept))
    if shapes:
        what = "polygon of several parts" if len(shapes) > 1 else "polygon"
        what += " with holes" * any(len(shape.rings) > 1 for shape in shapes)
        counts["ignored area" if label == IGNORED_CLASS else what] += 1
    return shapes


def _rings(part: Any) -> list[np.ndarray]:
    """Those of one polygon, without the last point, which is the first again, and without heights."""
    if not isinstance(part, list) or not all(isinstance(ring, list) for ring in part):
        raise UserError("has coordinates that are no list of rings")
    rings = [ring_of([point[:2] if isinstance(point, list) else point for point in ring]) for ring in part]
    return [ring[:-1] if len(ring) > 1 and (ring[0] == ring[-1]).all() else ring for ring in rings]


def _class(properties: Feature) -> tuple[str, int | None]:
    """The name of an object's class, and its colour 0xRRGGBB."""
    for found in (properties[key] for key in CLASS_KEYS if properties.get(key)):
        if isinstance(found, str) and found.strip():
            return found.strip(), None
        if isinstance(found, dict):
            name, parts, colour = found.get("name"), found.get("names"), found.get("color", found.get("colorRGB"))
            if not isinstance(name, str) and isinstance(parts, list):  # of a derived class, from version 0.4 on
                name = ": ".join(map(str, parts))
            if isinstance(colour, list) and len(colour) == 3 and all(isinstance(one, int) for one in colour):
                colour = colour[0] << 16 | colour[1] << 8 | colour[2]
            if isinstance(name, str) and name.strip():
                return name.strip(), colour & 0xFFFFFF if isinstance(colour, int) else None
    return OBJECT, None
