"""GeoJSON as QuPath reads it: a FeatureCollection with a Polygon or MultiPolygon for each object.

`class`, `score`, `area` and `number` stand in the properties of a feature for tools that show these as a table;
`classification` and `measurements` are QuPath's names of the same. Of an image that lies in the world, coordinates are
those of its coordinate system, for GIS programs: QuPath would take them for pixels.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from unet_cli.data.export.drawing import Drawing, plain_points
from unet_cli.data.formats.geo import Place, located


def written(drawing: Drawing, place: Place | None = None) -> bytes:
    """place: where the image lies; coordinates are then those of its coordinate system instead of pixels."""
    features = [_feature(drawing, number, parts) for number, parts in sorted(drawing.parts.items())]
    content = {"type": "FeatureCollection", "generator": "unet", "image": drawing.image, "features": features}
    return json.dumps(located(content, place) if place else content, ensure_ascii=False).encode()


def _feature(drawing: Drawing, number: int, parts: list[list[np.ndarray]]) -> dict[str, Any]:
    name, figures, in_map = drawing.name_of(number), drawing.figures(number), int(drawing.objects.in_map[number - 1])
    colour = drawing.colours[int(drawing.objects.classes[number - 1])]
    measured = {"area px^2": figures["area"]} | ({"score": figures["score"]} if "score" in figures else {})
    polygons = [[_closed(ring) for ring in part] for part in parts]
    is_one = len(polygons) == 1
    return {
        "type": "Feature",
        "geometry": {
            "type": "Polygon" if is_one else "MultiPolygon",
            "coordinates": polygons[0] if is_one else polygons,
        },
        "properties": {
            "objectType": "annotation",
            "name": f"{name} {in_map}",
            "classification": {"name": name, "color": list(colour)},
            "measurements": measured,
            "class": name,
            "number": in_map,
            **figures,
        },
    }


def _closed(ring: np.ndarray) -> list[list[float]]:
    """A ring ends with its first corner (RFC 7946, 3.1.6)."""
    return plain_points(np.concatenate([ring, ring[:1]]))
