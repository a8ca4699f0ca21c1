"""GeoJSON as QuPath reads it: a FeatureCollection with a Polygon or MultiPolygon for each object.

`class`, `score`, `area` and `number` stand in the properties of a feature for tools that show these as a table;
`classification` and `measurements` are QuPath's names of the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from unet_cli.data.export.drawing import Drawing, plain_points

Place = Callable[[np.ndarray], np.ndarray]  # (n, 2) x, y in pixels from the first pixel's corner -> coordinates


def written(drawing: Drawing, place: Place | None = None) -> bytes:
    """place: coordinates of another kind than pixels, such as those of a map."""
    features = [_feature(drawing, number, parts, place) for number, parts in sorted(drawing.parts.items())]
    content = {"type": "FeatureCollection", "generator": "unet", "image": drawing.image, "features": features}
    return json.dumps(content, ensure_ascii=False).encode()


def _feature(drawing: Drawing, number: int, parts: list[list[np.ndarray]], place: Place | None) -> dict[str, Any]:
    name, figures = drawing.name_of(number), drawing.figures(number)
    colour = drawing.colours[int(drawing.objects.classes[number - 1])]
    measured = {"area px^2": figures["area"]} | ({"score": figures["score"]} if "score" in figures else {})
    polygons = [[_coordinates(ring, place) for ring in part] for part in parts]
    is_one = len(polygons) == 1
    return {
        "type": "Feature",
        "geometry": {
            "type": "Polygon" if is_one else "MultiPolygon",
            "coordinates": polygons[0] if is_one else polygons,
        },
        "properties": {
            "objectType": "annotation",
            "name": f"{name} {number}",
            "classification": {"name": name, "color": list(colour)},
            "measurements": measured,
            "class": name,
            "number": number,
            **figures,
        },
    }


def _coordinates(ring: np.ndarray, place: Place | None) -> list[list[float]]:
    """The only place where coordinates are made. A ring ends with its first corner (RFC 7946, 3.1.6)."""
    closed = np.concatenate([ring, ring[:1]])
    return plain_points(closed) if place is None else place(closed).tolist()
