"""CVAT for images 1.1: one XML file of images, with their shapes, and of labels, with their colours.

Origin: the corner of the first pixel; a pixel is inside where its centre is, as CVAT's own mask exports draw (datumaro,
by pycocotools), see polygons.py. Shapes of a higher z_order lie on top. Masks are run lengths along the rows of a box,
that of 0 first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np

from unet_cli.data.annotations.rings import MIN_POINTS, box_ring, ellipse_ring, turned
from unet_cli.data.annotations.rle import listed
from unet_cli.data.annotations.shapes import Annotated, AnnotationFile, Runs, Shape, ring_of, shapes_or_problem
from unet_cli.errors import UserError

FORBIDDEN = re.compile(rb"<!(DOCTYPE|ENTITY)|\0", re.IGNORECASE)  # entities, which may grow without end, and UTF-16
WITHOUT_AREA = frozenset({"polyline", "points", "cuboid", "skeleton", "tag"})

Element = ElementTree.Element


def parse(content: bytes) -> AnnotationFile:
    """Images by subset and name. Raises UserError at what is no such file."""
    if FORBIDDEN.search(content):
        raise UserError("defines entities or is not written in UTF-8: export it anew as CVAT for images 1.1")
    root = ElementTree.fromstring(content)
    if root.find("image") is None and root.find("track") is not None:
        raise UserError("has the tracks of a video: export it as CVAT for images 1.1")
    names, colours = dict[str, None](), dict[str, int]()
    for label in root.findall("meta//label"):
        name = (label.findtext("name") or "").strip()
        if name and label.find("parent") is None:  # which parts of skeletons have
            names[name] = None
            if re.fullmatch(r"#[0-9a-fA-F]{6}", label.findtext("color") or ""):
                colours[name] = int((label.findtext("color") or "")[1:], 16)
    counts, left_out = Counter[str](), Counter[str]()
    images: dict[str, Annotated] = {}
    for image in root.findall("image"):
        key = _name(image)
        if key in images:
            raise UserError(f"lists the image {key} twice: keep one of the two")
        images[key] = _annotated(image, counts, left_out)
    names |= dict.fromkeys(shape.label for one in images.values() for shape in one.shapes)
    return AnnotationFile(images, tuple(names), counts, left_out, colours)


def _name(image: Element) -> str:
    name, subset = image.get("name", "").strip(), image.get("subset", "").strip()
    if not name:
        raise UserError("has an image without a name")
    return name if subset.casefold() in ("", "default") else f"{subset}/{name}"


def _annotated(image: Element, counts: Counter[str], left_out: Counter[str]) -> Annotated:
    width, height = image.get("width", ""), image.get("height", "")
    size = (int(height), int(width)) if width.isdecimal() and height.isdecimal() else None
    items = ((f"a {element.tag}", element) for element in image)
    found, problem = shapes_or_problem(items, lambda element: _shape(element, counts, left_out))
    found.sort(key=lambda one: _number(one[0], "z_order", "0"))
    return Annotated(size, tuple(shape for _, shape in found), problem=problem)


def _shape(element: Element, counts: Counter[str], left_out: Counter[str]) -> Shape | None:
    """None where it has no area, which is counted. Raises UserError at what can't be drawn."""
    if element.tag in WITHOUT_AREA:
        left_out[f"{element.tag}, which has no area"] += 1
        return None
    label = element.get("label", "").strip()
    if not label:
        raise UserError("has no label")
    if element.tag == "mask":
        counts["mask"] += 1
        return Shape(label, "runs", runs=_runs(element))
    if element.tag not in OUTLINES:
        left_out[element.tag] += 1
        return None
    ring = OUTLINES[element.tag](element)
    if len(ring) < MIN_POINTS:
        left_out[f"polygon of fewer than {MIN_POINTS} points"] += 1
        return None
    counts["box, filled" if element.tag == "box" else element.tag] += 1
    return Shape(label, "parts", (ring,))


def _number(element: Element, name: str, usual: str = "") -> float:
    text = element.get(name, usual)
    try:
        return float(ring_of([[float(text), 0.0]])[0, 0])
    except ValueError as error:
        raise UserError(f"has {name} '{text}', which is no number") from error


def _polygon(element: Element) -> np.ndarray:
    return ring_of([point.split(",") for point in element.get("points", "").split(";") if point.strip()])


def _box(element: Element) -> np.ndarray:
    left, top, right, bottom = (_number(element, name) for name in ("xtl", "ytl", "xbr", "ybr"))
    return _turned(element, box_ring(left, top, right, bottom))


def _ellipse(element: Element) -> np.ndarray:
    x, y, across, down = (_number(element, name) for name in ("cx", "cy", "rx", "ry"))
    return _turned(element, ellipse_ring(x, y, across, down))


def _turned(element: Element, ring: np.ndarray) -> np.ndarray:
    """By its rotation, in degrees clockwise, about the middle of its box."""
    return turned(ring, _number(element, "rotation", "0"), about=(ring.min(0) + ring.max(0)) / 2)


OUTLINES: dict[str, Callable[[Element], np.ndarray]] = {"polygon": _polygon, "box": _box, "ellipse": _ellipse}


def _runs(element: Element) -> Runs:
    left, top, width, height = (int(_number(element, name)) for name in ("left", "top", "width", "height"))
    try:
        lengths = listed([int(part) for part in element.get("rle", "").split(",")])
    except ValueError as error:
        raise UserError("has run lengths that are no whole numbers") from error
    return Runs(lengths, height, width, top, left).checked()
