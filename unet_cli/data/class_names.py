"""Names of classes in the names of files and folders."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from unet_cli.data.formats import extension_of, without_extension

DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}
MAX_CLASS_BYTES = 60  # of a class name within a file name, which file systems limit to 255 bytes


def class_files(output: Path, mask: Path, classes: Sequence[str], in_folders: bool) -> tuple[Path, ...]:
    """The mask of each class that may overlap: CLASS/NAME below the output folder, or NAME_CLASS beside the mask."""
    if in_folders:
        return tuple(output / name / mask.relative_to(output) for name in file_names(classes))
    return tuple(
        mask.with_name(f"{without_extension(mask.name)}_{name}{extension_of(mask)}") for name in file_names(classes)
    )


def file_names(classes: Sequence[str]) -> list[str]:
    """Class names as parts of file names on any system: letters, digits, '_' and '-', at most MAX_CLASS_BYTES long and
    unique regardless of case. A name that isn't unique, or that is a device of Windows, gets the index of its class."""
    names = [_safe(name, MAX_CLASS_BYTES) for name in classes]
    seen = Counter(name.casefold() for name in names)
    for index, name in enumerate(names):
        if not name or seen[name.casefold()] > 1 or name.casefold() in DEVICES:
            number = f"{name}-{index}".lstrip("-")
            while number.casefold() in seen:
                number = f"{number}-{index}"
            seen[number.casefold()] += 1
            names[index] = number
    return names


def _safe(name: str, max_bytes: int) -> str:
    text = re.sub(r"[^\w-]+", "-", unicodedata.normalize("NFC", name)).strip("-")
    return text.encode()[:max_bytes].decode(errors="ignore")
