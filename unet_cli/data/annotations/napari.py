"""napari: a layer of shapes as CSV, a file for each image, a line for each vertex.

Origin: the centre of the first pixel; a pixel is inside where its centre is, or where the first edge of a shape passes
through it, as napari's own labels of shapes are drawn (layers/shapes/_shapes_utils.py, poly_to_mask): a square from 1
to 3 is 2 x 2 pixels. Here that is drawn from the corner, see polygons.py. Axes are row and column; those before them
are slices of a stack. Rectangles and ellipses have four corners. There are no classes.
"""

from __future__ import annotations

from collections import Counter
from itertools import groupby

import numpy as np

from unet_cli.data.annotations.csvrows import table
from unet_cli.data.annotations.rings import MIN_POINTS, ellipse_ring, numbers
from unet_cli.data.annotations.shapes import OBJECT, AnnotationFile, OtherFormat, Shape, ring_of, shapes_or_problem
from unet_cli.data.annotations.slices import by_slice
from unet_cli.errors import UserError

# Half a pixel, less a tenth: polygons.py rounds to fifths, of which two still lie before a pixel's centre, and three
# behind it.
TO_CORNER = 0.4

Vertices = tuple[str, list[list[str]]]  # the shape's type, and its vertices, each with its axes


def parse(content: bytes) -> AnnotationFile:
    """The one image of a file, under no name. Raises UserError at what is no such file."""
    counts, left_out = Counter[str](), Counter[str]()
    names, rows = table(content)
    axes = [names.index(axis) for axis in (f"axis-{number}" for number in range(len(names))) if axis in names]
    if len(axes) < 2 or not {"index", "shape-type"} <= {*names}:
        raise OtherFormat("is no layer of napari's shapes")
    index, kind = names.index("index"), names.index("shape-type")
    items = []
    for number, group in groupby(rows, lambda row: row[index]):
        vertices = list(group)
        points = [[row[axis] for axis in axes] for row in vertices]
        items.append((f"shape {number}", (vertices[0][kind].strip(), points)))
    found, problem = shapes_or_problem(items, lambda item: _shape(item, counts, left_out))
    placed = [(_slice(points), shape) for (_, points), shape in found]
    images, slices = by_slice(placed, problem)
    return AnnotationFile(images, (OBJECT,) if found else (), counts, left_out, slices=slices)


def _shape(item: Vertices, counts: Counter[str], left_out: Counter[str]) -> Shape | None:
    """None where it has no area, which is counted. Raises UserError at what can't be drawn."""
    kind, points = item
    if kind not in ("polygon", "rectangle", "ellipse"):
        left_out[f"{kind}, which has no area"] += 1
        return None
    ring = ring_of([point[-2:] for point in points])[:, ::-1] + TO_CORNER
    if len(ring) < MIN_POINTS:
        left_out[f"{kind} of fewer than {MIN_POINTS} points"] += 1
        return None
    if len({tuple(point[:-2]) for point in points}) > 1:
        left_out[f"{kind} across several slices"] += 1
        return None
    if kind == "ellipse":
        if len(ring) != 4:
            raise UserError(f"is an ellipse of {len(ring)} points, where 4 corners are expected")
        across, down = (ring[1] - ring[0]) / 2, (ring[3] - ring[0]) / 2
        ring = ellipse_ring(0, 0, 1, 1) @ np.stack([across, down]) + ring.mean(0)
    counts["rectangle, filled" if kind == "rectangle" else kind] += 1
    return Shape(OBJECT, "parts", (ring,))


def _slice(points: list[list[str]]) -> int | None:
    """The number from 0, along the axis before row and column."""
    before = points[0][:-2]
    return round(numbers(before[-1])[0]) if before else None
