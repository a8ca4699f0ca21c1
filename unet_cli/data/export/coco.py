"""COCO instances. An object without holes is a list of polygons, one with holes compressed run lengths, both of which
pycocotools reads; ignored pixels are a crowd."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from unet_cli.data.annotations.rle import compressed
from unet_cli.data.export.drawing import Drawing, plain_points

GENERATOR = {"description": "written by unet"}


def entry(drawing: Drawing) -> dict[str, Any]:
    """An image with its annotations, as JSON values without ids."""
    height, width = drawing.size
    annotations = [_annotation(drawing, number, parts) for number, parts in sorted(drawing.parts.items())]
    if drawing.ignored is not None and drawing.ignored.any():
        annotations.append(_crowd(drawing.ignored))
    return {"image": {"file_name": drawing.image, "width": width, "height": height}, "annotations": annotations}


def _annotation(drawing: Drawing, number: int, parts: list[list[np.ndarray]]) -> dict[str, Any]:
    first, end = drawing.objects.boxes[number - 1]
    if any(len(part) > 1 for part in parts):
        inside, origin = drawing.objects.inside(number)
        segmentation: Any = run_lengths(inside, origin, drawing.size)
    else:
        segmentation = [[value for point in plain_points(part[0]) for value in point] for part in parts]
    return {
        "category_id": int(drawing.objects.classes[number - 1]),
        "segmentation": segmentation,
        "bbox": [*first[::-1].tolist(), *(end - first)[::-1].tolist()],
        "iscrowd": 0,
        **drawing.figures(number),
    }


def _crowd(ignored: np.ndarray) -> dict[str, Any]:
    rows, columns = np.flatnonzero(ignored.any(1)), np.flatnonzero(ignored.any(0))
    box = [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1]
    lengths = run_lengths(ignored, (0, 0), ignored.shape)
    return {"category_id": 1, "segmentation": lengths, "bbox": box, "iscrowd": 1, "area": int(ignored.sum())}


def run_lengths(inside: np.ndarray, origin: tuple[int, ...], size: tuple[int, ...]) -> dict[str, Any]:
    """(h, w) bool at `origin` in an image of `size` -> run lengths down its columns."""
    columns, rows = np.nonzero(inside.T)
    places = (columns + origin[1]) * size[0] + rows + origin[0]
    turns = np.flatnonzero(np.diff(places) > 1)
    starts, ends = places[np.append(0, turns + 1)], places[np.append(turns, len(places) - 1)] + 1
    borders = np.stack([starts, ends], 1).ravel()
    lengths = np.diff(np.concatenate([[0], borders, [size[0] * size[1]]]))
    return {"size": list(size), "counts": compressed(lengths)}


def whole(entries: Iterable[tuple[int, dict[str, Any]]], names: Sequence[str]) -> Iterable[bytes]:
    """The file, piece by piece. entries: of `entry`, each with the id of its image; they are read once, and their
    annotations numbered in their order. names: of the classes by index, the background first."""
    categories = [{"id": index, "name": name} for index, name in enumerate(names) if index]
    yield f'{{"info": {json.dumps(GENERATOR)}, "licenses": [], "categories": {json.dumps(categories)}'.encode()
    yield b', "annotations": ['
    images, count = [], 0
    for key, one in entries:
        images.append({"id": key, **one["image"]})
        for annotation in one["annotations"]:
            yield (b",\n" if count else b"\n") + json.dumps(
                {"id": (count := count + 1), "image_id": key, **annotation}
            ).encode()
    yield b'\n], "images": ' + json.dumps(images, ensure_ascii=False).encode() + b"}\n"
