"""What this version has found out about a data folder, kept in a file outside of it."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from unet_cli.data.source import Pair
from unet_cli.errors import UserError
from unet_cli.system.files import make_folder, whole_file
from unet_cli.version import __version__


def memory_file(kind: str, root: Path, setting: object, layout: int) -> Path:
    """Where it is kept what this version has found, with this setting, in the data folder `root`. layout: to be raised
    when it is found or written down in another way."""
    place = f"{root.resolve()}\n{setting}\n{__version__}\n{layout}"
    return cache_folder() / f"{kind}-{hashlib.sha256(place.encode(errors='surrogateescape')).hexdigest()[:24]}.json"


def remembered(path: Path) -> dict[str, Any]:
    """What `remember` wrote, to the last byte; nothing where that is gone, cut off, or of another program."""
    try:
        checksum, content = path.read_bytes().split(b"\n", 1)
    except (OSError, ValueError):
        return {}
    known = json.loads(content) if hashlib.sha256(content).hexdigest().encode() == checksum else {}
    return known if isinstance(known, dict) else {}


def remember(path: Path, values: dict[str, Any]) -> str | None:
    """Returns why that was not possible."""
    if path.is_relative_to(os.devnull):
        return "this user has no home folder"
    try:
        make_folder(path.parent)
        content = json.dumps(values).encode()
        with whole_file(path) as file:
            file.write(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    except UserError as error:
        return str(error)
    return None


def cache_folder() -> Path:
    """Where this system keeps what programs may lose: UNET_CACHE, else the usual place."""
    if os.environ.get("UNET_CACHE"):
        return Path(os.environ["UNET_CACHE"])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or _home()) / "unet" / "cache"
    if sys.platform == "darwin":
        return _home() / "Library" / "Caches" / "unet"
    return Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache") / "unet"


def _home() -> Path:
    """A place that nothing can be kept in, where the user has no home, as in some containers."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.devnull)


def stamp_of(pair: Pair) -> list[list[int]]:
    """Sizes and times of change of its files; nothing where one can't be found."""
    stamps = []
    for path in (*pair.image.paths, *pair.mask.paths):
        try:
            found = os.stat(path)
        except OSError:  # reading it will say why
            return []
        stamps.append([found.st_size, found.st_mtime_ns])
    return stamps
