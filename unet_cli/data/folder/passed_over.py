"""What lies beside images and masks and is neither: counted by kind, with what can be done about it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from unet_cli.data.folder.words import DRIVE_FOLDERS
from unet_cli.data.source import spread

PEEKED = 3  # files of a type whose beginnings are looked at
BEGINNING = 16_384  # bytes

# What the beginning of a file tells, by extension: of several patterns the first that is found.
ANNOTATIONS = {
    ".json": (
        (rb'"shapes"\s*:|"imagePath"\s*:', "labelme"),
        (rb'"regions"\s*:|"_via_', "VGG Image Annotator"),
        (rb'"classTitle"\s*:|"bitmap"\s*:', "Supervisely"),
        (rb'"FeatureCollection"', "GeoJSON"),
        (rb'"(images|categories|annotations)"\s*:', "COCO"),
    ),
    ".geojson": ((rb".", "GeoJSON"),),
    ".txt": ((rb"\A\s*\d+(\s+[01]?\.\d+|\s+[01]\b){4,}\s*(\n|\Z)", "YOLO"),),
    ".xml": (
        (rb"<annotations[\s>]", "CVAT"),
        (rb"<annotation[\s>]", "Pascal VOC"),
        (rb"<Annotations?[\s>]", "slide viewer"),
    ),
    ".csv": ((rb"(?i)rle|EncodedPixels", "run-length encoded"),),
    ".roi": ((rb"\AIout", "ImageJ"),),
}
READ = frozenset({"COCO", "CVAT", "labelme", "YOLO"})  # by data/annotations
VOLUMES = "volumes; save their slices as TIFF"
ARCHIVES = "unpack it"
CAMERA_RAW = "camera raw; export as TIFF or PNG"
DRAWINGS = "drawings; export as PNG"
MICROSCOPE = "a microscope's own format; export as TIFF, with Fiji for instance"
CONTAINERS = "arrays in a container; save each image and mask as TIFF or .npy"
MOVIES = "movies; save their frames as PNG"
KINDS = {
    **dict.fromkeys((".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".mgz", ".mgh", ".hdr", ".img"), VOLUMES),
    **dict.fromkeys((".zip", ".tar", ".tar.gz", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"), ARCHIVES),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"), CAMERA_RAW),
    **dict.fromkeys((".psd", ".xcf", ".ai", ".svg", ".pdf", ".eps", ".kra"), DRAWINGS),
    **dict.fromkeys((".czi", ".nd2", ".lif", ".oib", ".oif", ".oir", ".vsi", ".ims", ".mrxs", ".zvi"), MICROSCOPE),
    **dict.fromkeys((".h5", ".hdf5", ".hdf", ".zarr", ".tfrecord", ".lmdb", ".pkl", ".parquet"), CONTAINERS),
    **dict.fromkeys((".mp4", ".avi", ".mov", ".mkv", ".webm"), MOVIES),
}


def describe(paths: Iterable[Path]) -> list[str]:
    """A line for each known kind, the most frequent first, and one for all others together.

    paths: of files of other types than images, and of folders of a network drive's own.
    """
    kinds: defaultdict[str, list[Path]] = defaultdict(list)
    for path in paths:
        kinds[_kind(path)].append(path)
    lines, others = [], []
    for kind, found in sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0])):
        what = "thumbnails and the like of a network drive" if kind in DRIVE_FOLDERS else _what(kind, found)
        shown = f"{len(found):,} {found[0].name[-len(kind) :] if kind else 'without extension'}"
        if what:
            lines.append(f"passed over: {shown}: {what}")
        else:
            others.append(shown)
    return lines + ([f"passed over: {', '.join(others)}"] if others else [])


def annotation_lines(paths: Sequence[Path]) -> list[str]:
    """The lines of `describe` that speak of annotations, which could stand for masks."""
    return [line for line in describe(paths) if "annotations" in line]


def _kind(path: Path) -> str:
    """The extension in lower case, two of them where they are known as one; of a folder its name."""
    name = path.name.lower()
    if name in DRIVE_FOLDERS:
        return name
    double = re.search(r"\.(nii|tar)\.gz$", name)
    return double[0] if double else path.suffix.lower()


def _what(kind: str, paths: list[Path]) -> str:
    """What files of this extension are, and what to do about it; nothing where nobody knows."""
    if kind in KINDS:
        return KINDS[kind]
    for path in spread(paths, PEEKED):
        beginning = _beginning(path) if kind in ANNOTATIONS or not kind else b""
        if not kind and beginning[128:132] == b"DICM":
            return "DICOM; give them the extension .dcm"
        tool = _tool(kind, beginning)
        if tool:
            return f"{tool} annotations" + ("" if tool in READ else ", which are not read yet; export masks as PNG")
    return ""


def tool_of(path: Path) -> str:
    """The tool whose annotations a file holds, by its beginning; nothing where it holds none."""
    kind = _kind(path)
    return _tool(kind, _beginning(path)) if kind in ANNOTATIONS else ""


def _tool(kind: str, beginning: bytes) -> str:
    return next((tool for pattern, tool in ANNOTATIONS.get(kind, ()) if re.search(pattern, beginning)), "")


def _beginning(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(BEGINNING)
    except OSError:
        return b""
