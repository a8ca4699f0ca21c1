"""The image files below a folder, and their names without extensions."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from unet_cli.data.folder.words import DRIVE_FOLDERS, LEFT_BEHIND
from unet_cli.data.formats import EXTENSIONS, extension_of, without_extension
from unet_cli.errors import UserError, explain

INNER_EXTENSIONS = frozenset({"ome", "jpg", "jpeg", "png", "tif", "tiff", "bmp", "gif", "webp", "jp2"})


def walk(folder: Path, unread: list[UserError] | None = None, passed_over: list[Path] | None = None) -> Iterator[Path]:
    """The image files below a folder, in natural order (2 before 10).

    Hidden files, files of the operating system, and links to a parent folder are skipped. unread: receives errors of
    subfolders that can't be read. passed_over: receives files of other types and folders of a network drive. Raises
    UserError; for unreadable subfolders only without `unread`.
    """
    yield from _walk(folder, (), unread, [] if passed_over is None else passed_over)


def _walk(
    folder: Path, above: tuple[tuple[int, int], ...], unread: list[UserError] | None, passed_over: list[Path]
) -> Iterator[Path]:
    try:
        status = os.stat(folder)
        # Device and inode identify a folder whatever its path: a link to a parent would recurse forever.
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: natural(entry.name))
    except OSError as error:
        if unread is None or not above:
            raise explain(error, folder) from error
        unread.append(explain(error, folder))
        return
    for entry in entries:
        name = entry.name
        if name.startswith(".") or name.lower() in LEFT_BEHIND:
            continue
        if _is(entry.is_dir):
            if name.lower() in DRIVE_FOLDERS:
                passed_over.append(folder / name)
                continue
            yield from _walk(folder / name, (*above, here), unread, passed_over)
        elif stem(name) == name:
            passed_over.append(folder / name)
        elif _is(entry.is_file) or not os.path.exists(entry.path):  # a dangling link is reported when it is read
            yield folder / name


def _is(kind: Callable[[], bool]) -> bool:
    """The type of a directory entry, mostly without a system call; False for a link to itself."""
    try:
        return kind()
    except OSError:
        return False


def natural(name: str) -> tuple[list[str | int], str]:
    """Sort key that compares numbers by value."""
    return [int(part) if part.isdecimal() else part.casefold() for part in re.split(r"(\d+)", name)], name


def stem(name: str) -> str:
    """The name without a known extension, and without that of the file that it was made from: a.ome.tif and a.jpg.png
    are both a."""
    if extension_of(name) not in EXTENSIONS:
        return name
    stem = without_extension(name)
    inner, dot, extension = stem.rpartition(".") if "." in stem else ("", "", "")
    return inner if inner and extension.lower() in INNER_EXTENSIONS else stem


def known_extensions() -> str:
    return ", ".join(sorted(extension[1:] for extension in EXTENSIONS))
