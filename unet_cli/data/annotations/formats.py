"""The annotation formats that are read: a row each. How their files are recognised is in folder/passed_over.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from unet_cli.data.annotations import (
    coco,
    cvat,
    geojson,
    imagej,
    labelme,
    labelstudio,
    napari,
    supervisely,
    via,
    yolo,
)
from unet_cli.data.annotations.linked import Linker, lists, one_each
from unet_cli.data.annotations.shapes import AnnotationFile


class Format(NamedTuple):
    """parse: the content of a file; raises UserError. link: how the entries of a folder's files find their images."""

    parse: Callable[[bytes], AnnotationFile]
    link: Linker


FORMATS = {
    "COCO": Format(coco.parse, coco.link),
    "CVAT": Format(cvat.parse, lists),
    "GeoJSON": Format(geojson.parse, one_each),
    "ImageJ": Format(imagej.parse, one_each),
    "Label Studio": Format(labelstudio.parse, labelstudio.link),
    "labelme": Format(labelme.parse, one_each),
    "napari": Format(napari.parse, one_each),
    "Supervisely": Format(supervisely.parse, supervisely.link),
    "VGG Image Annotator": Format(via.parse, via.link),
    "YOLO": Format(yolo.parse, yolo.link),
}
