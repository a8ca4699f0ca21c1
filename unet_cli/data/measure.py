"""Size and shape of objects: a row of a table for each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from unet_cli.data.found import Block, Layer, Objects, mean_values

PIXELS = {2: "px", 3: "voxels"}

Row = dict[str, Any]


def rows_of(
    objects: Objects,
    names: Sequence[str],
    steps: Sequence[float] | None,
    unit: str,
    scores: np.ndarray,
    blocks: Iterable[Block],
) -> list[Row]:
    """A row for each object, by the names of the columns, which say the unit.

    names: of the classes by index. steps: size of a pixel or voxel along each axis in `unit`; None where it isn't
    known, and lengths are in pixels. scores: (n,). blocks: the image, for mean intensities.
    """
    dims = len(objects.shape)
    pixels = PIXELS[dims]
    unit, along = (pixels, [1.0] * dims) if steps is None else (unit, list(steps))
    sized = pixels if unit == pixels == "voxels" else f"{unit}{'3' if dims == 3 else '2'}" if steps else pixels
    size, middles = (
        objects.areas * math.prod(along),
        [one * step for one, step in zip(_middles(objects), along, strict=True)],
    )
    columns: dict[str, np.ndarray] = {
        "class": np.array(names, object)[objects.classes],
        "number": objects.in_map,
        "score": scores,
        f"{'area' if dims == 2 else 'volume'}_{sized}": size if steps else objects.areas,
    }
    if dims == 2:
        columns[f"perimeter_{unit}"] = perimeters(objects, along)
    for letter, middle in zip("zyx"[-dims:][::-1], middles[::-1], strict=True):
        columns[f"centroid_{letter}_{unit}"] = middle
    for bound, words in ((0, ("left", "top", "first_slice")), (1, ("right", "bottom", "last_slice"))):
        for word, axis in zip(words[:dims], reversed(range(dims)), strict=True):
            columns[word if "slice" in word else f"{word}_px"] = objects.boxes[:, bound, axis] - bound
    if dims == 2:
        columns["eccentricity"] = eccentricities(objects, along)
    means = mean_values(objects, blocks)
    for channel in range(means.shape[1]):
        columns[f"mean_{channel + 1}"] = means[:, channel]
    return [dict(zip(columns, map(_plain, values), strict=True)) for values in zip(*columns.values(), strict=True)]


def _plain(value: Any) -> Any:
    """A value as JSON has it; None for NaN."""
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def columns_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The columns of all rows in their order: where units differ, those of a measure stand side by side."""
    found: dict[str, None] = {}
    for row in rows:
        found.update(dict.fromkeys(row))
    measures = list(dict.fromkeys(map(_measure, found)))
    return sorted(found, key=lambda column: measures.index(_measure(column)))


def _measure(column: str) -> str:
    """The column without its unit."""
    return column.rpartition("_")[0] or column if not column.startswith("mean_") else column


def _middles(objects: Objects) -> list[np.ndarray]:
    """Along each axis the mean place of the pixels' centres, from the corner of the first pixel."""
    sums, _ = _moments(objects, [1.0] * len(objects.shape), squares=False)
    return [one / objects.areas for one in sums]


def _moments(objects: Objects, steps: Sequence[float], squares: bool) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Sums over the pixels of each object: of their centres' coordinates, and of y * y, y * x and x * x about the
    middle of its box."""
    dims, count = len(objects.shape), len(objects) + 1
    sums = [np.zeros(count) for _ in range(dims)]
    products = {name: np.zeros(count) for name in ("yy", "yx", "xx")}
    middle = np.concatenate([np.zeros((1, dims)), objects.boxes.mean(1)])
    for layer in objects.layers:
        for top, part in layer.blocks():
            places = np.nonzero(part)
            own = part[places]
            centres = [place + 0.5 for place in places]
            centres[0] = centres[0] + top
            for axis, centre in enumerate(centres):
                sums[axis] += np.bincount(own, centre, count)
            if squares:
                y, x = ((centres[axis] - middle[own, axis]) * steps[axis] for axis in (0, 1))
                for name, values in (("yy", y * y), ("yx", y * x), ("xx", x * x)):
                    products[name] += np.bincount(own, values, count)
    return [one[1:] for one in sums], {name: values[1:] for name, values in products.items()}


def eccentricities(objects: Objects, steps: Sequence[float] = (1.0, 1.0)) -> np.ndarray:
    """(n,): of the ellipse with an object's second moments, 0 for a circle, to 1 for a line. A pixel is a square, not a
    point, so that one alone has 0."""
    sums, products = _moments(objects, steps, squares=True)
    mean = [
        (total / objects.areas - objects.boxes[:, :, axis].mean(1)) * steps[axis] for axis, total in enumerate(sums)
    ]
    yy = products["yy"] / objects.areas - mean[0] ** 2 + steps[0] ** 2 / 12
    xx = products["xx"] / objects.areas - mean[1] ** 2 + steps[1] ** 2 / 12
    yx = products["yx"] / objects.areas - mean[0] * mean[1]
    half, root = (yy + xx) / 2, np.sqrt(((yy - xx) / 2) ** 2 + yx**2)
    return np.sqrt(np.clip(1 - (half - root) / (half + root), 0, 1))


def perimeters(objects: Objects, steps: Sequence[float] = (1.0, 1.0)) -> np.ndarray:
    """(n,): length of an object's outline, that of holes included, by the formula of Crofton along rows, columns and
    both diagonals (Legland, Kiêu, Devaux 2007): a staircase isn't counted as one."""
    down, across = steps
    angle = math.atan2(down, across)
    diagonal = across * down / math.hypot(across, down)  # between lines
    weights = {(0, 1): angle * down, (1, 0): (math.pi / 2 - angle) * across}
    weights |= dict.fromkeys(((1, 1), (1, -1)), math.pi / 4 * diagonal)
    total = np.zeros(len(objects) + 1)
    for layer in objects.layers:
        for (row, column), weight in weights.items():
            total += weight / 2 * _crossings(layer, row, column, objects)
    return total[1:]


def _crossings(layer: Layer, row: int, column: int, objects: Objects) -> np.ndarray:
    """How often lines with this step enter or leave each object."""
    count = len(objects) + 1
    found = np.zeros(count, np.int64)
    above = np.zeros((1, objects.shape[1] + 2), np.int32)
    for top, block in layer.blocks():
        is_last = top + len(block) == objects.shape[0]
        part = np.concatenate([above, np.pad(block, ((0, int(is_last)), (1, 1)))])
        above = part[-1:]
        rows = slice(1, None) if not row else slice(None)  # each row once, those above being of the block before
        if not row:
            before, after = part[rows, :-1], part[rows, 1:]
        else:
            ways = {
                0: (slice(None), slice(None)),
                1: (slice(None, -1), slice(1, None)),
                -1: (slice(1, None), slice(None, -1)),
            }
            before, after = part[:-1, ways[column][0]], part[1:, ways[column][1]]
        differ = before != after
        for side in (before, after):
            found += np.bincount(side[differ], minlength=count)
    return found
