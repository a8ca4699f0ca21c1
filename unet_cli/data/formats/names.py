"""Extensions of file names; that of a compressed NIfTI file, .nii.gz, is one."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import overload

VOLUME_EXTENSIONS = (".nii.gz", ".nii")


def extension_of(path: PurePath | str) -> str:
    """The extension in lower case, with its dot; '' without one."""
    name = path if isinstance(path, str) else path.name
    for extension in VOLUME_EXTENSIONS:
        if name.lower().endswith(extension):
            return extension
    return PurePath(name).suffix.lower()


@overload
def without_extension(path: Path) -> Path: ...


@overload
def without_extension(path: str) -> str: ...


def without_extension(path: Path | str) -> Path | str:
    """The path, or the name, without what `extension_of` gives."""
    length = len(extension_of(path))
    if isinstance(path, str):
        return path[: len(path) - length]
    return path.with_name(path.name[: len(path.name) - length]) if length else path
