"""dataset.json of nnU-Net and the Medical Segmentation Decathlon: names of the classes and their values in the masks,
{"background": 0, "liver": 1} or, older, {"0": "background", "1": "liver"}."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FILE = "dataset.json"
MAX_BYTES = 2**26

Numbers = tuple[tuple[str, int], ...]


def numbers_beside(masks: Sequence[Path], others: Sequence[Path]) -> tuple[Numbers, frozenset[Path], list[str]]:
    """Names and values of the classes, by value, from the one dataset.json in a folder above the masks; that file; and
    notes for the user. A class called `ignore` has the ignored value. Nothing where there is no such file, or several;
    a file of this name that says nothing about classes is another tool's."""
    files = [path for path in others if path.name.lower() == FILE]
    files = [path for path in files if all(mask.is_relative_to(path.parent) for mask in masks)]
    labels = _labels(files[0]) if len(files) == 1 else None
    if labels is None:
        return (), frozenset(), []
    used = frozenset(files)
    if all(name.isdecimal() and isinstance(value, str) for name, value in labels.items()):
        labels = {value: int(name) for name, value in labels.items()}
    if any(isinstance(value, list) for value in labels.values()):
        return (), used, [f"{FILE} is not used: its labels are regions of several values; --classes names the values"]
    values = [value for value in labels.values() if type(value) is int and 0 <= value <= 65535]
    if len(set(values)) < len(labels) or len(values) < 2:
        return (), used, [f"{FILE} is not used: its labels are no names with a whole number each"]
    return tuple(sorted(labels.items(), key=lambda item: item[1])), used, []


def _labels(path: Path) -> dict[str, Any] | None:
    """The labels in the file; None if there are none."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return None
        content = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    labels = content.get("labels") if isinstance(content, dict) else None
    return labels if isinstance(labels, dict) and labels else None
