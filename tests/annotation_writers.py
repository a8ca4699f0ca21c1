"""Folders as annotation tools write them, of images with one object each."""

from __future__ import annotations

import base64
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from annotated import COUNT, SIDE, outline, write_images
from PIL import Image

Points = list[list[float]]


def task(image: str, *regions: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Of Label Studio, annotated once."""
    made = [{"id": 1, "completed_by": 1, "was_cancelled": False, "result": list(regions)}]
    return {"id": image, "annotations": made, "data": {"image": image}} | more


def region(kind: str, columns: int = SIDE, rows: int = SIDE, labels: tuple[str, ...] = ("cell",), **value: Any) -> Any:
    value |= {f"{kind}labels": list(labels)}
    sizes = {"original_width": columns, "original_height": rows, "image_rotation": 0}
    return {"type": f"{kind}labels", "to_name": "image", "value": value} | sizes


def percent(points: Points, width: int = SIDE, height: int = SIDE) -> Points:
    return [[100 * x / width, 100 * y / height] for x, y in points]


def write_labelstudio(folder: Path) -> Path:
    paths = write_images(folder / "images")
    tasks = [
        task(
            f"/data/upload/3/4425adf{number}-{path.name}",
            region("polygon", SIDE + number, points=percent(outline(number), SIDE + number)),
        )
        for number, path in enumerate(paths)
    ]
    (folder / "project-1.json").write_text(json.dumps(tasks))
    return folder


def feature(*rings: Points, name: str | None = "cell", kind: str = "Polygon", **more: Any) -> dict[str, Any]:
    closed = [[*ring, ring[0]] for ring in rings]
    properties: dict[str, Any] = {"objectType": "annotation", "isLocked": False}
    if name:
        properties["classification"] = {"name": name, "color": [200, 0, 0]}
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": closed}, "properties": properties | more}


def write_geojson(folder: Path) -> Path:
    for number, path in enumerate(write_images(folder)):
        content = {"type": "FeatureCollection", "features": [feature(outline(number))]}
        path.with_suffix(".geojson").write_text(json.dumps(content))
    return folder


def roi(points: Points, kind: int = 0, name: str = "cell-1", position: int = 0) -> bytes:
    """A selection as ImageJ writes it: of whole coordinates, seen from the corner of its box."""
    ring = np.array(points, int)
    (left, top), (right, bottom) = ring.min(0), ring.max(0)
    count = 0 if kind in (1, 2) else len(ring)
    header = struct.pack(">4shBxhhhhH", b"Iout", 227, kind, top, left, bottom, right, count).ljust(64, b"\0")
    body = (ring - [left, top]).T.astype(">i2").tobytes() if count else b""
    second = 64 + len(body)
    header = header[:56] + struct.pack(">ii", position, second) + header[64:]
    more = struct.pack(">4xiiiii", 0, 0, 0, second + 64, len(name)).ljust(64, b"\0")
    return header + body + more + name.encode("utf-16-be")


def write_imagej(folder: Path) -> Path:
    for number, path in enumerate(write_images(folder)):
        zipped(folder / f"{path.stem}_RoiSet.zip", roi(outline(number)))
    return folder


def zipped(path: Path, *rois: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, content in enumerate(rois):
            archive.writestr(f"{number:04}-0001.roi", content)


def shapes_csv(*shapes: tuple[str, Points], before: str = "") -> str:
    """x and y of napari's shapes; before: of each line, the values of further axes."""
    axes = range(2 + before.count(","))
    lines = [",".join(["index", "shape-type", "vertex-index", *(f"axis-{axis}" for axis in axes)])]
    for number, (kind, points) in enumerate(shapes):
        lines += [f"{number},{kind},{vertex},{before}{y},{x}" for vertex, (x, y) in enumerate(points)]
    return "\n".join(lines) + "\n"


def write_napari(folder: Path) -> Path:
    for number, path in enumerate(write_images(folder)):
        path.with_suffix(".csv").write_text(shapes_csv(("polygon", outline(number))))
    return folder


def object_of(points: Points, *holes: Points, kind: str = "polygon", name: str = "cell") -> dict[str, Any]:
    return {"classTitle": name, "geometryType": kind, "points": {"exterior": points, "interior": list(holes)}}


def bitmap_of(bitmap: np.ndarray, left: int, top: int, name: str = "cell") -> dict[str, Any]:
    png = io.BytesIO()
    Image.fromarray(bitmap.astype(np.uint8) * 255).save(png, "PNG")
    data = base64.b64encode(zlib.compress(png.getvalue())).decode()
    return {"classTitle": name, "geometryType": "bitmap", "bitmap": {"data": data, "origin": [left, top]}}


def supervisely(path: Path, *objects: dict[str, Any], width: int = SIDE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = {"height": SIDE, "width": width}
    path.write_text(json.dumps({"description": "", "tags": [], "size": size, "objects": list(objects)}))


def write_supervisely(folder: Path) -> Path:
    for number, path in enumerate(write_images(folder / "ds0/img")):
        supervisely(folder / f"ds0/ann/{path.name}.json", object_of(outline(number)), width=SIDE + number)
    classes = [{"title": "cell", "shape": "polygon", "color": "#00FF00"}, {"title": "idle", "color": "#0000FF"}]
    (folder / "meta.json").write_text(json.dumps({"classes": classes, "tags": []}))
    return folder


def via_region(points: Points, name: Any = "cell", **more: Any) -> dict[str, Any]:
    xs, ys = ([point[axis] for point in points] for axis in (0, 1))
    shape = {"name": "polygon", "all_points_x": xs, "all_points_y": ys}
    return {"shape_attributes": shape, "region_attributes": {"class": name} | more}


def via(path: Path, images: dict[str, list[dict[str, Any]]]) -> None:
    entries = {
        f"{name}99": {"filename": name, "size": 99, "regions": regions, "file_attributes": {}}
        for name, regions in images.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"_via_settings": {}, "_via_img_metadata": entries, "_via_attributes": {}}))


def write_via(folder: Path) -> Path:
    paths = write_images(folder / "images")
    via(folder / "via_project.json", {path.name: [via_region(outline(n))] for n, path in enumerate(paths)})
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {
    "GeoJSON": write_geojson,
    "ImageJ": write_imagej,
    "Label Studio": write_labelstudio,
    "napari": write_napari,
    "Supervisely": write_supervisely,
    "VGG Image Annotator": write_via,
}
assert COUNT <= 9  # the numbers of uploads have a digit
