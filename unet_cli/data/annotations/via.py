"""VGG Image Annotator 1 and 2: a JSON file, of a project or of annotations alone, or a CSV file, that lists images.

Origin: the corner of the first pixel; a pixel is inside where its centre is, as its own COCO exports are drawn, see
polygons.py. An image in the list without a region is background. The class is the attribute of the regions whose values
are names.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from unet_cli.data.annotations.csvrows import table
from unet_cli.data.annotations.linked import Folder, Linked, lists
from unet_cli.data.annotations.rings import MIN_POINTS, box_ring, ellipse_ring, numbers, turned
from unet_cli.data.annotations.shapes import (
    OBJECT,
    Annotated,
    AnnotationFile,
    OtherFormat,
    Shape,
    ring_of,
    shapes_or_problem,
)
from unet_cli.errors import UserError

WITHOUT_AREA = frozenset({"point", "polyline", "line"})
CLASS_WORDS = ("class", "label", "category", "name", "type", "object")
CHOICES = ("dropdown", "radio", "checkbox")  # attributes whose values are chosen from a list


class Region(NamedTuple):
    shape: Any
    attributes: Any


def parse(content: bytes) -> AnnotationFile:
    """Images by file name or URL. Raises UserError at what is no such file, or names classes in several ways."""
    is_json = content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")
    images, chosen = _of_json(json.loads(content)) if is_json else (_of_csv(content), [])
    attribute = _class_attribute([one for regions in images.values() for one in regions], chosen)
    counts, left_out = Counter[str](), Counter[str]()
    annotated = {}
    for name, regions in images.items():
        items = ((f"region {number}", one) for number, one in enumerate(regions, 1))
        found, problem = shapes_or_problem(items, lambda one: _shapes(one, attribute, counts, left_out))
        annotated[name] = Annotated(None, tuple(shape for _, shape in found), problem=problem)
    names = dict.fromkeys(shape.label for one in annotated.values() for shape in one.shapes)
    return AnnotationFile(annotated, tuple(names), counts, left_out)


def link(folder: Folder) -> Linked | None:
    return lists(folder, unlisted_lack_masks=True)


def _of_json(data: Any) -> tuple[dict[str, list[Region]], list[str]]:
    """The regions of each image, and the attributes whose values are chosen from a list."""
    attributes = data.get("_via_attributes") if isinstance(data, dict) else None
    of_regions = attributes.get("region") if isinstance(attributes, dict) else None
    chosen = [
        name
        for name, one in (of_regions.items() if isinstance(of_regions, dict) else ())
        if isinstance(one, dict) and one.get("type") in CHOICES
    ]
    entries = data.get("_via_img_metadata", data) if isinstance(data, dict) else data
    entries = list(entries.values()) if isinstance(entries, dict) else entries
    if not isinstance(entries, list) or not all(isinstance(one, dict) and "filename" in one for one in entries):
        raise OtherFormat("is no project, and no list of annotations, of VIA")
    images: dict[str, list[Region]] = {}
    for entry in entries:
        name, regions = entry["filename"], entry.get("regions") or []
        if not isinstance(name, str) or not name.strip():
            raise UserError("has an image without a filename")
        if name in images:
            raise UserError(f"lists the image {name} twice: keep one of the two")
        every = list(regions.values()) if isinstance(regions, dict) else regions  # a dictionary in version 1
        if not isinstance(every, list) or not all(isinstance(one, dict) for one in every):
            raise UserError(f"has regions of {name} that are no list of objects")
        images[name] = [Region(one.get("shape_attributes"), one.get("region_attributes")) for one in every]
    return images, chosen


def _of_csv(content: bytes) -> dict[str, list[Region]]:
    images: dict[str, list[Region]] = {}
    sizes: dict[str, str] = {}
    names, rows = table(content)
    if not {"filename", "region_shape_attributes", "region_attributes"} <= {*names}:
        raise OtherFormat("is no table of VIA")
    for row in (dict(zip(names, fields, strict=True)) for fields in rows):
        name, size = row["filename"].strip(), row.get("file_size", "")
        if not name:
            raise UserError("has an image without a filename")
        if sizes.setdefault(name, size) != size:
            raise UserError(f"lists the image {name} twice, with {sizes[name]} and {size} bytes: keep one of the two")
        regions = images.setdefault(name, [])
        shape, attributes = (json.loads(row[f"region_{part}attributes"] or "{}") for part in ("shape_", ""))
        if shape:
            regions.append(Region(shape, attributes))
    return images


def _class_attribute(regions: Iterable[Region], chosen: list[str]) -> str | None:
    """The one that says the class; None where no region has any. Raises UserError where several could."""
    values: defaultdict[str, set[str]] = defaultdict(set)
    for region in regions:
        for name in region.attributes if isinstance(region.attributes, dict) else ():
            values[name].update(_names(region, name))
    filled = [name for name, found in values.items() if found]
    with_names = [name for name in filled if not all(_is_number(value) for value in values[name])]
    called = [name for word in CLASS_WORDS for name in with_names if name.casefold() == word]
    for some in (filled, with_names, [name for name in with_names if name in chosen], called[:1]):
        if len(some) == 1:
            return some[0]
    if not filled:
        return None
    raise UserError(f"has several attributes of regions, {', '.join(filled)}: leave the one that is the class")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _names(region: Region, attribute: str | None) -> list[str]:
    """The values of an attribute: one, or those ticked of checkboxes."""
    value = region.attributes.get(attribute) if isinstance(region.attributes, dict) else None
    ticked = [name for name, is_ticked in value.items() if is_ticked] if isinstance(value, dict) else [value]
    return [str(name).strip() for name in ticked if isinstance(name, str | int | float) and str(name).strip()]


def _shapes(region: Region, attribute: str | None, counts: Counter[str], left_out: Counter[str]) -> list[Shape] | None:
    """One for each class; None where it has no area, which is counted. Raises UserError at what can't be drawn."""
    shape = region.shape
    if not isinstance(shape, dict) or not isinstance(shape.get("name"), str):
        raise UserError("has no shape")
    kind = shape["name"]
    if kind in WITHOUT_AREA:
        left_out[f"{kind}, which has no area"] += 1
        return None
    if kind not in ("polygon", "rect", "circle", "ellipse"):
        left_out[f"region of the kind {kind}"] += 1
        return None
    drawn = Shape(OBJECT, "parts", (_ring(kind, shape),))
    if len(drawn.rings[0]) < MIN_POINTS:
        left_out[f"{kind} of fewer than {MIN_POINTS} points"] += 1
        return None
    counts["rectangle, filled" if kind == "rect" else kind] += 1
    return [replace(drawn, label=label) for label in _names(region, attribute) or [OBJECT]]


def _ring(kind: str, shape: dict[str, Any]) -> np.ndarray:
    if kind == "polygon":
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
            raise UserError("has not as many x as y coordinates")
        return ring_of(list(zip(xs, ys, strict=True)))
    if kind == "rect":
        left, top, width, height = numbers(*(shape.get(name) for name in ("x", "y", "width", "height")))
        return box_ring(left, top, left + width, top + height)
    x, y = numbers(shape.get("cx"), shape.get("cy"))
    if kind == "circle":
        [radius] = numbers(shape.get("r"))
        return ellipse_ring(x, y, radius, radius)
    across, down, angle = numbers(shape.get("rx"), shape.get("ry"), shape.get("theta") or 0)
    return turned(ellipse_ring(x, y, across, down), float(np.rad2deg(angle)), np.array([x, y]))
