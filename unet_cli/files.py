"""Whole files or none: what is written here appears under its name complete, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from unet_cli.errors import explain


@contextmanager
def whole_file(path: Path, durable: bool = False, rivals: bool = False) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that takes its name when the block ends without an error.

    durable: flush to the disk before renaming, for files that must survive a power cut. rivals: other processes may
    write the same file at the same time. Otherwise what a killed process left is replaced by the next.
    Raises UserError where the disk is full or the folder can't be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp" if rivals else f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise explain(error, path) from error
        raise


def writable_folder(folder: Path) -> Path:
    """Create the folder, its parents included, and prove that files can be written there.

    Raises UserError, before anything was computed for it.
    """
    probe = make_folder(folder) / f".write-test.{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise explain(error, folder) from error
    return folder


def make_folder(folder: Path) -> Path:
    """Create the folder, its parents included, unless it is there. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain(error, folder) from error
    return folder
