"""labelmap.txt: the names and colours of the classes of mask images, as CVAT and datumaro export them (Pascal VOC and
"Segmentation mask 1.1"): a line `name:red,green,blue:parts:actions` for each, `#` before comments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from unet_cli.data.annotations.shapes import is_background
from unet_cli.errors import UserError, explain

FILE = "labelmap.txt"
LINE = re.compile(r"(?P<name>[^:]+):(?P<red>\d{1,3}),(?P<green>\d{1,3}),(?P<blue>\d{1,3})(:.*)?")

Colours = tuple[tuple[str, int], ...]


def colours_beside(masks: Sequence[Path], others: Sequence[Path]) -> tuple[Colours, frozenset[Path]]:
    """Names of classes, the background first, with their colours 0xRRGGBB, of the one labelmap.txt in a folder above
    the masks, and that file; nothing where there is none, or several that differ. Raises UserError at a broken one."""
    files = [path for path in others if path.name.lower() == FILE]
    files = [path for path in files if all(mask.is_relative_to(path.parent) for mask in masks)]
    found = {_colours(path) for path in files}
    return (found.pop(), frozenset(files)) if len(found) == 1 else ((), frozenset())


def _colours(path: Path) -> Colours:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise explain(error, path) from error
    except ValueError as error:
        raise UserError(f"{path} is no text: {error}") from error
    found: dict[str, int] = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        parts = [int(match[part]) for part in ("red", "green", "blue")] if match else [256]
        if match is None or max(parts) > 255 or match["name"] in found:
            raise UserError(f"{path}, line {number}: '{line[:60]}' is no name with a colour, such as cell:255,0,0::")
        found[match["name"].strip()] = parts[0] << 16 | parts[1] << 8 | parts[2]
    names = sorted(found, key=lambda name: not is_background(name))
    return tuple((name, found[name]) for name in names)
