"""YOLO segmentation: a text file for each image, a line for each object: class x y x y ..., in shares of the sides.

Origin: the corner of the first pixel, so that 1 is the last one's far corner; a pixel is inside where its centre is,
see polygons.py. (ultralytics rounds vertices down to whole pixels and draws these in, which makes objects half a pixel
larger.) A line of five numbers is a box: class, middle x and y, width, height. Names of classes are in data.yaml or
classes.txt.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unet_cli.data.annotations.link import Link
from unet_cli.data.annotations.linked import Folder, Linked
from unet_cli.data.annotations.rings import box_ring
from unet_cli.data.annotations.shapes import Annotated, AnnotationFile, Shape, ring_of, shapes_or_problem
from unet_cli.errors import UserError
from unet_cli.system.console import counted

BOX = 5  # numbers in the line of a box
MIN_NUMBERS = 7  # in that of a polygon: the class, and three points
MAX_CLASS = 10_000
ITEM = re.compile(r"""\s*(?:-\s+|(?P<key>\d+)\s*:\s*)(?P<name>.*)""")


def parse(content: bytes) -> AnnotationFile:
    """The one image of a file, under no name, its classes as their numbers. Raises UserError at what is no text."""
    counts, left_out = Counter[str](), Counter[str]()
    lines = enumerate(content.decode("utf-8-sig").splitlines(), 1)
    items = ((f"line {number}", words) for number, line in lines if (words := line.split()))
    found, problem = shapes_or_problem(items, lambda words: _shape(words, counts, left_out))
    shapes = [shape for _, shape in found]
    classes = sorted({shape.label for shape in shapes}, key=int)
    one = Annotated(None, tuple(shapes), relative=True, problem=problem)
    return AnnotationFile({"": one}, tuple(classes), counts, left_out)


def link(folder: Folder) -> Linked | None:
    """A text file for each image, of the same name; an image without one is background, but where no image of its
    split has any, as in a test folder that nobody annotated."""
    images, paths = folder.images, folder.paths
    texts = [path for path in folder.others if path.suffix.lower() == ".txt"]
    by_image = {file.path: (file, path) for path in texts if (file := images.beside(path)) is not None}
    sources = [path for path in folder.others if _names_classes(path)]
    if not any(path in paths for _, path in by_image.values()):
        return None
    if not sources and 2 * len(by_image) < len(images.files):
        return None
    read, broken = folder.readable(path for _, path in by_image.values())
    links = [Link(file, path, "", file.split) for file, path in by_image.values() if path in read]
    linked = {file.split for file, _ in by_image.values()}
    blank = [file for file in images.files if file.path not in by_image and file.split in linked]
    unused = [file for file in images.files if file.split not in linked]
    taken = {path for _, path in by_image.values()}
    lost = list(broken.values())
    lost += [f"annotations without an image: {path}" for path in paths if path not in taken and path not in sources]
    notes = [f"{counted(len(blank), 'image')} without a text file: taken as background"] if blank else []
    if unused:
        notes.append(f"left out: {counted(len(unused), 'image')} of a folder without text files")
    labels = {int(label) for file in read.values() for label in file.labels}
    numbered = _class_names(sources)
    names = tuple(dict.fromkeys(numbered)) or tuple(f"class {number}" for number in sorted(labels))
    numbered = numbered or tuple(f"class {number}" for number in range(max(labels, default=0) + 1))
    used = frozenset(taken.union(sources))
    return Linked(links, [], lost, names, numbered, notes=notes, used=used, blank=blank)


def _names_classes(path: Path) -> bool:
    return path.name.lower() in ("classes.txt", "obj.names") or path.suffix.lower() in (".yaml", ".yml")


def _class_names(sources: Sequence[Path]) -> tuple[str, ...]:
    """From the first file that has names, a data.yaml before others."""
    for path in sorted(sources, key=lambda path: (path.suffix.lower() not in (".yaml", ".yml"), len(path.parts))):
        try:
            names = names_in(path, path.read_text("utf-8-sig"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}, which may name the classes, can't be read: {error}") from error
        if names:
            return names
    return ()


def _shape(words: list[str], counts: Counter[str], left_out: Counter[str]) -> Shape | None:
    label, *values = words
    if not re.fullmatch(r"\d+(\.0*)?", label) or int(float(label)) > MAX_CLASS:
        raise UserError(f"begins with {label[:20]}, which is no number of a class")
    label = str(int(float(label)))
    if len(words) == BOX:
        (x, y), (width, height) = ring_of(values)
        ring = box_ring(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    elif len(words) % 2 == 0:
        raise UserError(f"has {len(words)} numbers, where a class and pairs of coordinates are an odd number")
    elif len(words) < MIN_NUMBERS:
        left_out["polygon of fewer than 3 points"] += 1
        return None
    else:
        ring = ring_of(values)
    if np.abs(ring).max() > 2:
        raise UserError("has coordinates in pixels, where shares of the image's sides, 0 to 1, are expected")
    counts["box, filled" if len(words) == BOX else "polygon"] += 1
    return Shape(label, "parts", (ring,))


def names_in(path: Path, text: str) -> tuple[str, ...]:
    """Names of classes by their numbers: of data.yaml, or of a text file with a name a line; nothing where a YAML file
    has none. Raises UserError where they are written in a way that only a whole YAML parser would understand."""
    if path.suffix.lower() not in (".yaml", ".yml"):
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    lines = [_without_comment(line) for line in text.splitlines()]
    start = next((n for n, line in enumerate(lines) if re.match(r"names\s*:", line)), None)
    if start is None:
        return ()
    rest = lines[start].split(":", 1)[1].strip()
    if rest:
        return _inline(path, rest, lines[start + 1 :])
    names: dict[int, str] = {}
    for line in lines[start + 1 :]:
        item = ITEM.fullmatch(line)
        if item:
            names[int(item["key"]) if item["key"] else len(names)] = _unquoted(item["name"])
        elif line.strip():
            break
    return _numbered(path, names)


def _inline(path: Path, text: str, following: list[str]) -> tuple[str, ...]:
    """[cell, wall] or {0: cell, 1: wall}, over one line or several."""
    end = {"[": "]", "{": "}"}.get(text[0])
    for line in following:
        if end is None or end in text:
            break
        text += " " + line.strip()
    if end is None or not text.endswith(end):
        raise _not_simple(path)
    inner = text[1:-1]
    quoted = r"'[^']*'|\"[^\"]*\"|[^,'\"]+"
    parts = [part.strip() for part in re.findall(quoted if text[0] == "[" else rf"\d+\s*:\s*(?:{quoted})", inner)]
    if _letters("".join(parts)) != _letters(inner):
        raise _not_simple(path)
    if text[0] == "[":
        return _numbered(path, dict(enumerate(_unquoted(part) for part in parts if part)))
    pairs = [part.split(":", 1) for part in parts]
    return _numbered(path, {int(key): _unquoted(name) for key, name in pairs})


def _letters(text: str) -> str:
    return re.sub(r"[\s,]", "", text)


def _numbered(path: Path, names: dict[int, str]) -> tuple[str, ...]:
    if sorted(names) != list(range(len(names))) or not names or "" in names.values():
        raise _not_simple(path)
    return tuple(names[number] for number in range(len(names)))


def _unquoted(text: str) -> str:
    text = text.strip()
    if text[:1] in ("'", '"'):
        try:
            return str(ast.literal_eval(text))
        except (ValueError, SyntaxError):
            return text.strip("'\"")
    return text


def _without_comment(line: str) -> str:
    return re.sub(r"(^|\s)#.*", "", line).rstrip()


def _not_simple(path: Path) -> UserError:
    return UserError(
        f"{path}: the names of the classes are not understood: write them as names: [cell, wall], in the order of "
        "their numbers"
    )
