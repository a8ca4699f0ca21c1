"""Label Studio: a JSON file of tasks, each of an image, with the annotations of one or several people; or JSON-MIN, a
list of annotations, each with its image; or an annotation with its task, as cloud storage holds them.

Origin: the corner of the first pixel; coordinates are percent of the image's sides, and a pixel is inside where its
centre is, as its own COCO exports are drawn, see polygons.py. A rectangle turns about its first corner, an ellipse
about its middle. Brush masks are packed, see rle.brushed, and what is not transparent is inside. Of several annotations
of a task, the one marked as ground truth counts, or else the last; predictions don't.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np

from unet_cli.data.annotations.bitmaps import png_bitmap
from unet_cli.data.annotations.linked import Folder, Linked, lists
from unet_cli.data.annotations.rings import MIN_POINTS, box_ring, ellipse_ring, numbers, turned
from unet_cli.data.annotations.rle import brushed
from unet_cli.data.annotations.shapes import (
    OBJECT,
    Annotated,
    AnnotationFile,
    OtherFormat,
    Runs,
    Shape,
    ring_of,
    shapes_or_problem,
    size_of,
)
from unet_cli.data.folder.walk import stem
from unet_cli.errors import UserError

UPLOAD = re.compile(r"[0-9a-f]{8}-")  # before the names of files that were uploaded
KINDS = frozenset({"polygon", "rectangle", "ellipse", "brush", "bitmask"})
MAX_PIXELS = 2**28  # of a brush mask
NO_IMAGE = "task without an image"

Region = dict[str, Any]


class Task(NamedTuple):
    """The regions that count of one image, None where nobody annotated it."""

    key: str
    image: str
    regions: list[Region] | None


def parse(content: bytes) -> AnnotationFile:
    """Images that were annotated, by path or URL. Raises UserError at what is no such file."""
    data = json.loads(content)
    counts, left_out = Counter[str](), Counter[str]()
    images: dict[str, Annotated] = {}
    tasks = dict[str, Task]()
    for number, one in enumerate(data if isinstance(data, list) else [data]):
        task = _task(one, number, left_out)
        if task.key in tasks:  # of JSON-MIN
            left_out["annotation of a task that has a later one"] += 1
        tasks[task.key] = task
    for task in tasks.values():
        if not task.image:
            left_out[NO_IMAGE] += 1
        elif task.regions is None:
            left_out["task without annotations, whose image has no mask"] += 1
        elif task.image in images:
            raise UserError(f"lists the image {task.image} twice: keep one of the two")
        else:
            images[task.image] = _annotated(task.regions, counts, left_out)
    names = dict.fromkeys(shape.label for one in images.values() for shape in one.shapes)
    return AnnotationFile(images, tuple(names), counts, left_out)


def link(folder: Folder) -> Linked | None:
    """Files of one task or many. Uploaded images are found without what Label Studio puts before their names, and
    whatever it replaced in them."""
    tidied = {_tidy(file.path.name): file.path.name for file in folder.images.files}

    def meant(name: str) -> list[str]:
        last = re.split(r"[\\/]", name)[-1]
        plain = UPLOAD.sub("", last, count=1)
        return [name, *(tidied[one] for one in (last, plain) if one in tidied), plain]

    return lists(folder, unlisted_lack_masks=True, meant=meant)


def _tidy(name: str) -> str:
    """A name as Django stores uploads under."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))


def _task(one: Any, number: int, left_out: Counter[str]) -> Task:
    if not isinstance(one, dict):
        raise OtherFormat("is no list of Label Studio's tasks")
    if isinstance(one.get("task"), dict) and isinstance(one.get("result"), list):  # of cloud storage
        one = one["task"] | {"annotations": [one]}
    made = one.get("annotations", one.get("completions"))
    if isinstance(one.get("data"), dict):
        image = _image(one["data"], one.get("file_upload"))
        return Task(str(one.get("id", f"#{number}")), image, _regions(made or [], left_out))
    if made is not None or not {"annotation_id", "annotator", "lead_time"} & one.keys():
        raise OtherFormat("is no list of Label Studio's tasks")
    lists_of = [value for value in one.values() if isinstance(value, list)]
    regions = [region for value in lists_of for region in value if isinstance(region, dict)]
    return Task(str(one.get("id", f"#{number}")), _image(one, None), [_as_full(region) for region in regions])


def _as_full(value: Region) -> Region:
    """A region of JSON-MIN as one of JSON."""
    kind = next((key for key in value if key.endswith("labels") and key != "labels"), "")
    if not kind:
        has = {"points": "polygon", "radiusX": "ellipse", "rle": "brush", "width": "rectangle"}
        kind = next((name for key, name in has.items() if key in value), "region")
    return {"type": kind, "value": value} | {key: value.get(key) for key in ("original_width", "original_height")}


def _image(data: Region, upload: Any) -> str:
    """The path of a task's image: of several values, the one called image, else the first that ends like an image."""
    texts = {key: _path_in(value) for key, value in data.items() if isinstance(value, str)}
    named = [texts[key] for key in ("image", "img") if key in texts]
    for text in [*named, *texts.values(), upload if isinstance(upload, str) else ""]:
        last = re.split(r"[\\/]", text)[-1]
        if stem(last) != last:
            return text
    return upload if isinstance(upload, str) else ""


def _path_in(url: str) -> str:
    """/data/local-files/?d=a/b.png, s3://bucket/a/b.png, https://host/a/b.png?signature -> a/b.png, as far as known."""
    if url.startswith("data:"):
        return ""
    if "?d=" in url:
        url = url.split("?d=", 1)[1].split("&")[0]
    elif "://" in url or url.startswith("/"):
        url = re.split(r"[?#]", url)[0]
    return unquote(url)


def _regions(made: Any, left_out: Counter[str]) -> list[Region] | None:
    """Of the annotation that counts, None where there is none."""
    if not isinstance(made, list) or not all(isinstance(one, dict) for one in made):
        raise UserError("has a task whose 'annotations' are no list of objects")
    done = [one for one in made if not one.get("was_cancelled")]
    if not done:
        return None
    chosen = next((one for one in done if one.get("ground_truth")), done[-1])
    if len(done) > 1:
        left_out["annotation of a task that has a later one, or one marked as ground truth"] += len(done) - 1
    regions = chosen.get("result") or []
    if not isinstance(regions, list) or not all(isinstance(one, dict) for one in regions):
        raise UserError("has an annotation whose 'result' is no list of objects")
    return regions


def _annotated(regions: list[Region], counts: Counter[str], left_out: Counter[str]) -> Annotated:
    sizes = (size_of(one.get("original_height"), one.get("original_width")) for one in regions)
    size = next(filter(None, sizes), None)
    labels: dict[Any, list[str]] = {}
    for one in regions:  # labels of a shape may come apart from it, under the same id
        if names := _labels(one):
            labels.setdefault(str(one.get("id")), names)
    drawn = set[str]()
    items = []
    for number, one in enumerate(regions, 1):
        key, kind = one.get("id"), _kind(one)
        if kind == "labels" or kind not in KINDS:
            if kind not in ("labels", "relation"):
                left_out[f"{kind}, which has no area"] += 1
            continue
        if isinstance(key, str) and key in drawn:
            left_out["region under the id of another, which is drawn all the same"] += 1
        drawn.add(str(key))
        classes = _labels(one) or (labels.get(str(key)) if key is not None else None) or [OBJECT]
        items.append((f"region {number}", (kind, one, classes)))

    def shapes_of(item: tuple[str, Region, list[str]]) -> list[Shape] | None:
        kind, region, classes = item
        shape = _shape(kind, region, size, left_out)
        if shape is None:
            return None
        counts[{"rectangle": "rectangle, filled", "brush": "brush mask"}.get(kind, kind)] += 1
        return [replace(shape, label=label) for label in classes]

    found, problem = shapes_or_problem(items, shapes_of)
    return Annotated(size, tuple(shape for _, shape in found), relative=True, problem=problem)


def _kind(region: Region) -> str:
    kind = str(region.get("type") or "region").lower()
    return kind.removesuffix("labels") or "labels"


def _labels(region: Region) -> list[str]:
    value = region.get("value")
    lists_of = [names for key, names in value.items() if key.endswith("labels")] if isinstance(value, dict) else []
    names = [name for names in lists_of if isinstance(names, list) for name in names]
    return list(dict.fromkeys(name.strip() for name in names if isinstance(name, str) and name.strip()))


def _shape(kind: str, region: Region, size: tuple[int, int] | None, left_out: Counter[str]) -> Shape | None:
    """Of no class yet; None where it has no area, which is counted. Raises UserError at what can't be drawn."""
    value = region.get("value")
    if not isinstance(value, dict):
        raise UserError("has no value")
    if region.get("image_rotation"):
        raise UserError("was drawn on a turned image: turn it back in Label Studio, and export anew")
    if kind in ("brush", "bitmask"):
        return _mask(value, size, left_out)
    if kind == "polygon":
        ring = ring_of(value.get("points")) / 100
        if len(ring) < MIN_POINTS:
            left_out[f"polygon of fewer than {MIN_POINTS} points"] += 1
            return None
        return Shape("", "parts", (ring,))
    x, y = (part / 100 for part in numbers(value.get("x"), value.get("y")))
    [degrees] = numbers(value.get("rotation") or 0)
    if degrees and size is None:
        raise UserError("is turned, and original_width and original_height are missing")
    if kind == "ellipse":
        across, down = (part / 100 for part in numbers(value.get("radiusX"), value.get("radiusY")))
        ring = ellipse_ring(x, y, across, down)
    else:
        across, down = (part / 100 for part in numbers(value.get("width"), value.get("height")))
        ring = box_ring(x, y, x + across, y + down)
    pixels = np.array(size[::-1] if size else (1, 1), np.float64)
    return Shape("", "parts", (turned(ring * pixels, degrees, np.array([x, y]) * pixels) / pixels,))


def _mask(value: Region, size: tuple[int, int] | None, left_out: Counter[str]) -> Shape | None:
    url = value.get("imageDataURL")
    if isinstance(url, str) and url.startswith("data:image/png;base64,"):
        try:
            bitmap = png_bitmap(base64.b64decode(url.partition(",")[2], validate=True))
        except ValueError as error:
            raise UserError("has a mask that is no PNG in base64") from error
        return Shape("", "runs", runs=Runs.of(bitmap))
    if value.get("rle") is None:
        left_out["brush mask without run lengths"] += 1
        return None
    if size is None or size[0] * size[1] > MAX_PIXELS:
        raise UserError("has a brush mask, but not the size of an image in original_width and original_height")
    try:
        packed = bytes([*value["rle"]])
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError("has a brush mask that is no list of bytes") from error
    inside = brushed(packed, 4 * size[0] * size[1]).reshape(*size, 4)[..., 3]
    return Shape("", "runs", runs=Runs.of(inside))
