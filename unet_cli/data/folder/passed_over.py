"""Other files beside images and masks: counted by kind, with advice."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from unet_cli.data.folder.words import DRIVE_FOLDERS
from unet_cli.data.source import spread

PEEKED = 3  # files of each type that are inspected
BEGINNING = 16_384  # bytes that are inspected

LABEL_STUDIO = (
    rb'"(original_width|file_upload|annotation_id|completions|completed_by)"\s*:'
    rb'|"(polygon|rectangle|ellipse|brush|bitmask|keypoint)labels"|"format"\s*:\s*"rle"'
)
# Annotation formats by extension: the first pattern that matches the beginning of a file.
ANNOTATIONS = {
    ".json": (
        (rb'"shapes"\s*:|"imagePath"\s*:', "labelme"),
        (rb'"__VIA_PROJECT_ID__"|"vid_list"\s*:', "VGG Image Annotator 3"),
        (rb'"_via_|"shape_attributes"\s*:|"file_attributes"\s*:', "VGG Image Annotator"),
        (rb'"FeatureCollection"|"type"\s*:\s*"Feature"', "GeoJSON"),
        (LABEL_STUDIO, "Label Studio"),
        (rb'"classTitle"\s*:|\A(?s:(?=.*"objects"\s*:\s*\[)(?=.*"size"\s*:\s*\{))', "Supervisely"),
        (rb'"(images|categories|annotations)"\s*:', "COCO"),
    ),
    ".geojson": ((rb".", "GeoJSON"),),
    ".txt": ((rb"\A\s*\d+(\s+[01]?\.\d+|\s+[01]\b){4,}\s*(\n|\Z)", "YOLO"),),
    ".xml": (
        (rb"<annotations[\s>]", "CVAT"),
        (rb"<annotation[\s>]", "Pascal VOC"),
        (rb"<Annotations?[\s>]", "slide viewer"),
    ),
    ".csv": (
        (rb"\A[^\n]*region_shape_attributes", "VGG Image Annotator"),
        (rb"\A[^\n]*shape-type[^\n]*axis-0", "napari"),
        (rb"(?i)rle|EncodedPixels", "run-length encoded"),
    ),
    ".roi": ((rb"\AIout", "ImageJ"),),
    ".zip": ((rb"(?s)\APK.*?\.roi", "ImageJ"),),
}
# By data/annotations: the keys of its FORMATS.
READ = frozenset({
    "COCO", "CVAT", "GeoJSON", "ImageJ", "Label Studio", "labelme", "napari", "Supervisely", "VGG Image Annotator",
    "YOLO",
})  # fmt: skip
VOLUMES = "volumes; save them as NIfTI, .nii.gz"
ARCHIVES = "unpack it"
CAMERA_RAW = "camera raw; export as TIFF or PNG"
DRAWINGS = "drawings; export as PNG"
MICROSCOPE = "a microscope's own format; export as TIFF, with Fiji for instance"
CONTAINERS = "arrays in a container; save each image and mask as TIFF or .npy"
MOVIES = "movies; save their frames as PNG"
KINDS = {
    **dict.fromkeys((".mha", ".mhd", ".nrrd", ".mgz", ".mgh", ".hdr", ".img"), VOLUMES),
    **dict.fromkeys((".zip", ".tar", ".tar.gz", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar"), ARCHIVES),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"), CAMERA_RAW),
    **dict.fromkeys((".psd", ".xcf", ".ai", ".svg", ".pdf", ".eps", ".kra"), DRAWINGS),
    **dict.fromkeys((".czi", ".nd2", ".lif", ".oib", ".oif", ".oir", ".vsi", ".ims", ".mrxs", ".zvi"), MICROSCOPE),
    **dict.fromkeys((".h5", ".hdf5", ".hdf", ".zarr", ".tfrecord", ".lmdb", ".pkl", ".parquet"), CONTAINERS),
    **dict.fromkeys((".mp4", ".avi", ".mov", ".mkv", ".webm"), MOVIES),
}


def describe(paths: Iterable[Path]) -> list[str]:
    """A line for each known kind, the most frequent first, and one for all others together.

    paths: files that are no images, and folders that belong to a network drive.
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
    """The lines of `describe` on annotations, which could replace masks."""
    return [line for line in describe(paths) if "annotations" in line]


def _kind(path: Path) -> str:
    """The extension in lower case, double for known ones such as .nii.gz; the name for a folder."""
    name = path.name.lower()
    if name in DRIVE_FOLDERS:
        return name
    double = re.search(r"\.(nii|tar)\.gz$", name)
    return double[0] if double else path.suffix.lower()


def _what(kind: str, paths: list[Path]) -> str:
    """A description of files with this extension, with advice; '' if unknown."""
    for path in spread(paths, PEEKED):
        beginning = _beginning(path) if kind in ANNOTATIONS or not kind else b""
        if not kind and beginning[128:132] == b"DICM":
            return "DICOM; give them the extension .dcm"
        tool = _tool(kind, beginning)
        if tool:
            return f"{tool} annotations" + ("" if tool in READ else ", which are not read yet; export masks as PNG")
    return KINDS.get(kind, "")


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
