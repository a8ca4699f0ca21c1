"""YOLO segmentation: a text file for each image; the names of the classes stand in data.yaml and classes.txt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from unet_cli.data.export.drawing import Drawing, bridged

SIGNATURE = "# written by unet"
DIGITS = 9  # of a share of a side
NUDGE = 1e-3  # pixels, by which middles of pixels are moved: readers that round to fifths of a pixel then round alike


def written(drawing: Drawing) -> bytes:
    """A line for each object; classes are numbered from 0, without the background."""
    sides = np.array(drawing.size[::-1], np.float64)
    lines = []
    for number, parts in sorted(drawing.parts.items()):
        ring = bridged([ring for part in parts for ring in part])
        shares = np.where(ring % 1 == 0, ring, ring + NUDGE) / sides
        points = " ".join(f"{value:.{DIGITS}g}" for value in shares.ravel().tolist())
        lines.append(f"{int(drawing.objects.classes[number - 1]) - 1} {points}\n")
    return "".join(lines).encode()


def data_yaml(names: Sequence[str], splits: Mapping[str, str]) -> bytes:
    """names: of the classes by index, the background first. splits: folder of the images of each split."""
    lines = [SIGNATURE, *(f"{split}: {folder}" for split, folder in splits.items()), "names:"]
    lines += [f"  {number}: {json.dumps(name, ensure_ascii=False)}" for number, name in enumerate(names[1:])]
    return ("\n".join(lines) + "\n").encode()


def classes_txt(names: Sequence[str]) -> bytes:
    return "".join(f"{name}\n" for name in names[1:]).encode()
