"""Cache of results about a data folder, in a file outside of it."""

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
    """The cache file for the data folder `root`, this setting and this version of unet. layout: format version, raised
    when values are computed or stored in another way."""
    place = f"{root.resolve()}\n{setting}\n{__version__}\n{layout}"
    return cache_folder() / f"{kind}-{hashlib.sha256(place.encode(errors='surrogateescape')).hexdigest()[:24]}.json"


def remembered(path: Path) -> dict[str, Any]:
    """The values that `remember` wrote, verified by checksum; empty if the file is missing, truncated, or of another
    program."""
    try:
        checksum, content = path.read_bytes().split(b"\n", 1)
    except (OSError, ValueError):
        return {}
    known = json.loads(content) if hashlib.sha256(content).hexdigest().encode() == checksum else {}
    return known if isinstance(known, dict) else {}


def remember(path: Path, values: dict[str, Any]) -> str | None:
    """Write the values to the cache; returns the reason if that failed."""
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
    """The cache folder: UNET_CACHE, else the platform's."""
    if os.environ.get("UNET_CACHE"):
        return Path(os.environ["UNET_CACHE"])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or _home()) / "unet" / "cache"
    if sys.platform == "darwin":
        return _home() / "Library" / "Caches" / "unet"
    return Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache") / "unet"


def _home() -> Path:
    """The home folder, or os.devnull, in which nothing can be cached, if the user has none, as in some containers."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.devnull)


def stamp_of(pair: Pair) -> list[list[int]]:
    """Sizes and modification times of the pair's files; empty if one is not accessible."""
    stamps = []
    for path in (*pair.image.paths, *pair.mask.paths):
        try:
            found = os.stat(path)
        except OSError:  # reported when the file is read
            return []
        stamps.append([found.st_size, found.st_mtime_ns])
    return stamps
