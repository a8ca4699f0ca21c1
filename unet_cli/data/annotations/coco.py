"""COCO: one JSON file of images, categories and annotations (instances).

Origin: the corner of the first pixel; a pixel is inside where its centre is, as pycocotools draws, see polygons.py. The
polygons of an annotation are its parts, and are united.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

from unet_cli.data.annotations.linked import Folder, Linked, lists
from unet_cli.data.annotations.rings import MIN_POINTS, box_ring
from unet_cli.data.annotations.rle import decompressed, listed
from unet_cli.data.annotations.shapes import (
    IGNORED_LABEL,
    Annotated,
    AnnotationFile,
    OtherFormat,
    Runs,
    Shape,
    ring_of,
    size_of,
)
from unet_cli.errors import UserError


def parse(content: bytes) -> AnnotationFile:
    """Raises UserError at what is no such file, or says two things of one image or category."""
    if b'"images"' not in content or b'"annotations"' not in content:  # many other files have categories, or images
        raise OtherFormat("is no COCO file")
    data = json.loads(content, object_hook=_with_shapes)
    if not isinstance(data, dict) or not all(_are_objects(data.get(part)) for part in ("images", "annotations")):
        raise UserError("has no lists of 'images' and 'annotations'")
    categories = data.get("categories") or []
    if not _are_objects(categories):
        raise UserError("has 'categories' that are no list of objects")
    names = _by_id(categories, "categories", "name")
    images = _by_id(data["images"], "images", "file_name")
    counts, left_out = Counter[str](), Counter[str]()
    shapes: defaultdict[Any, list[Shape]] = defaultdict(list)
    problems: dict[Any, str] = {}
    seen: set[str | None] = set()
    for annotation in data["annotations"]:
        number, image = _key(annotation.get("id")), _key(annotation.get("image_id"))
        if image not in images:
            left_out["annotation of no image in the list"] += 1
            continue
        if number is not None and number in seen:
            left_out["annotation under the id of another, which is drawn all the same"] += 1
        seen.add(number)
        try:
            shape = _shape(annotation, names, counts, left_out)
        except UserError as error:
            problems.setdefault(image, f"annotation {number} {error}")
            continue
        if shape is not None:
            shapes[image].append(shape)
    sizes = {_key(one["id"]): size_of(one.get("height"), one.get("width")) for one in data["images"]}
    entries = {
        name: Annotated(sizes[key], tuple(shapes[key]), problem=problems.get(key, "")) for key, name in images.items()
    }
    if len(entries) < len(images):
        [(twice, _)] = Counter(images.values()).most_common(1)
        raise UserError(f"lists the image {twice} twice: keep one of the two")
    return AnnotationFile(entries, tuple(dict.fromkeys(names.values())), counts, left_out)


def link(folder: Folder) -> Linked | None:
    """Files that each list images, often one a split; captions and key points of the same images lie beside them."""
    instances = [path for path in folder.paths if "instances" in path.stem.casefold()]
    found = lists(folder, instances)
    if found is None:
        return lists(folder)
    passed = [path for path in folder.paths if path not in found.used]
    notes = [f"{path} is not read, since others are called instances" for path in passed]
    return replace(found, notes=[*notes, *found.notes])


def _with_shapes(one: dict[str, Any]) -> dict[str, Any]:
    """An annotation with its outlines as arrays at once: as lists, those of a large file take a gigabyte."""
    if "segmentation" in one:
        try:
            one["segmentation"] = _outlines(one["segmentation"])
        except UserError as error:
            one["segmentation"] = error
    return one


def _outlines(value: Any) -> list[Any] | Runs:
    if isinstance(value, dict):
        return _runs(value)
    if not isinstance(value, list):
        raise UserError("has a segmentation that is neither a list of polygons nor run lengths")
    if value and not isinstance(value[0], list):
        value = [value]  # a single polygon, as some tools write it
    return [ring_of(points) for points in value]


def _runs(value: dict[str, Any]) -> Runs:
    size, counts = value.get("size"), value.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise UserError("has run lengths without a size")
    lengths = decompressed(counts) if isinstance(counts, str) else listed(counts)
    return Runs(lengths, size[0], size[1], by_columns=True).checked()


def _shape(
    annotation: dict[str, Any], names: dict[Any, str], counts: Counter[str], left_out: Counter[str]
) -> Shape | None:
    """None where there is nothing to draw, which is counted. Raises UserError at what can't be drawn."""
    found = annotation.get("segmentation", [])
    if isinstance(found, UserError):
        raise found
    key = _key(annotation.get("category_id"))
    if key not in names:
        raise UserError(f"has the category_id {annotation.get('category_id')}, which 'categories' doesn't list")
    is_crowd = annotation.get("iscrowd") in (1, True)
    label = IGNORED_LABEL if is_crowd else names[key]
    if isinstance(found, Runs):
        counts["crowd, ignored" if is_crowd else "run-length mask"] += 1
        return Shape(label, "runs", runs=found)
    rings = tuple(ring for ring in found if len(ring) >= MIN_POINTS)
    if len(rings) < len(found):
        left_out[f"polygon of fewer than {MIN_POINTS} points"] += len(found) - len(rings)
    if not found and annotation.get("bbox"):
        box = ring_of(annotation["bbox"])
        if len(box) == 2:
            rings = (box_ring(*box[0], *(box[0] + box[1])),)
            counts["box, filled"] += 1
    elif rings:
        counts["crowd, ignored" if is_crowd else "polygon" if len(rings) == 1 else "polygon of several parts"] += 1
    return Shape(label, "parts", rings) if rings else None


def _by_id(objects: list[dict[str, Any]], part: str, name: str) -> dict[Any, str]:
    """The names of images or categories. Raises UserError where one lacks its name or id, or an id comes twice."""
    found: dict[Any, str] = {}
    for one in objects:
        key = _key(one.get("id"))
        if key is None or not isinstance(one.get(name), str) or not one[name].strip():
            raise UserError(f"has one of 'images' or 'categories' without id or {name}")
        if key in found:
            raise UserError(
                f"gives two of '{part}' the id {one['id']} ({found[key]} and {one[name]}): number them anew"
            )
        found[key] = one[name].strip()
    return found


def _key(value: Any) -> str | None:
    """Ids, which some tools write as text."""
    return str(value) if isinstance(value, int | str) else None


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)
