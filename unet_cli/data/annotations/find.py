"""A folder of images with annotation files -> pairs whose masks are drawn, classes, and what is to be said."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from unet_cli.data.annotations.formats import FORMATS
from unet_cli.data.annotations.link import Images, Link, named_apart
from unet_cli.data.annotations.linked import Folder, Linked
from unet_cli.data.annotations.parsed import parsed
from unet_cli.data.annotations.shapes import AnnotationFile, clipped_points, is_background
from unet_cli.data.folder.passed_over import tool_of
from unet_cli.data.folder.roles import File, assign_roles
from unet_cli.data.folder.several import Paired, without_mask
from unet_cli.data.folder.walk import natural
from unet_cli.data.source import Entry, Pair, Source, page_name
from unet_cli.errors import UserError
from unet_cli.system.console import counted, few


@dataclass(frozen=True)
class Found:
    """A folder whose masks are drawn. used: files that were understood. ignores: some shapes mark ignored pixels."""

    tool: str
    splits: dict[str, Paired]
    notes: list[str]
    used: frozenset[Path]
    ignores: bool


def find_annotations(root: Path, inside: Sequence[Path], others: Sequence[Path]) -> Found | None:
    """None where there are masks as files, or no annotation files that go with the images.

    inside, others: the image files below the root, and those of other types. Raises UserError at files that can't be
    understood, or could be in several ways.
    """
    by_tool: defaultdict[str, list[Path]] = defaultdict(list)
    for path in others:
        tool = tool_of(path)
        if tool in FORMATS:
            by_tool[tool].append(path)
    files = assign_roles(root, list(inside), None, None) if by_tool else []
    if not files or any(file.role == "masks" for file in files):
        return None
    images = Images(root, files)
    linked: dict[str, Linked] = {}
    for tool, paths in by_tool.items():
        if found := FORMATS[tool].link(Folder(tool, images, paths, others, partial(_content, tool))):
            linked[tool] = found
    if not linked:
        return None
    linked = {tool: found for tool, found in linked.items() if found.links} or linked
    if len(linked) > 1:
        raise UserError(
            f"{root} holds annotations of {' and of '.join(linked)}: keep one kind, move the others elsewhere"
        )
    [(tool, found)] = linked.items()
    if not found.links:
        what = found.lost[0] if found.lost else f"{min(found.used)} lists none"
        raise UserError(f"{root}: {tool} annotations go with none of its {counted(len(files), 'image')}: {what}")
    return _as_pairs(root, tool, found)


def _content(tool: str, path: Path) -> AnnotationFile:
    return parsed(path, tool)[0]


def _as_pairs(root: Path, tool: str, linked: Linked) -> Found:
    links = named_apart(root, linked.links)
    read = {path: parsed(path, tool) for path in dict.fromkeys(link.path for link in links)}
    files = {path: file for path, (file, _) in read.items()}
    try:
        classes, notes = _classes(tool, linked, files.values())
    except UserError as error:
        raise UserError(f"{root}: {error}") from error
    colours = _colours(classes, linked.colours, files.values())
    names = _part_names(links)
    found: dict[str, Paired] = {}
    for split in ("train", "val", "test"):
        pairs = []
        for link in links:
            if names[link.split] == split:
                digest = read[link.path][1]
                entry = Entry(tool, link.entry, classes, linked.numbered, colours, digest, linked.is_many)
                name = link.image.name if link.page is None else page_name(link.image.name, link.page)
                image = Source((link.image.path,), page=link.page)
                pairs.append(Pair(name, image, Source((link.path,), entry=entry)))
        pairs += [_blank(file)[0] for file in linked.blank if names[file.split] == split]
        pairs.sort(key=lambda pair: natural(pair.name))
        unmasked = [_blank(file) for file in linked.bare if names[file.split] == split]
        if pairs:
            found[split] = Paired(pairs, f"masks drawn from {tool} annotations", unmasked=unmasked, classes=classes)
        elif unmasked:
            notes.append(f"{counted(len(unmasked), 'image')} of the {split} folder have no annotations: not used")
    found["train"].left.extend(linked.lost)
    notes = [*_summary(tool, links, files), *linked.notes, *notes]
    is_ignoring = any(file.has_ignored for file in files.values())
    return Found(tool, found, notes, linked.used.union(files), is_ignoring)


def _part_names(links: Sequence[Link]) -> dict[str | None, str]:
    """The part of the data that each split is. What no folder says is training; so is a part alone, to be evaluated."""
    names: dict[str | None, str] = {None: "train", "train": "train", "val": "val", "test": "test"}
    counts = Counter(names[link.split] for link in links)
    if "train" not in counts:
        names[counts.most_common(1)[0][0]] = "train"
    return names


def _blank(file: File) -> tuple[Pair, str]:
    return without_mask(file.name, (file.path,))


def _classes(tool: str, linked: Linked, files: Iterable[AnnotationFile]) -> tuple[tuple[str, ...], list[str]]:
    """The classes that are drawn anywhere, in their order, and a note on others. Raises UserError where none is."""
    order: dict[str, None] = dict.fromkeys(linked.names)
    used: set[str] = set()
    for file in files:
        if not linked.names:
            order |= dict.fromkeys(file.classes)
        used |= file.labels
    if linked.numbered:
        beyond = [number for number in used if not number.isdecimal() or int(number) >= len(linked.numbered)]
        if beyond:
            raise UserError(
                f"{tool} annotations have a class {max(beyond, key=int)}, but only {len(linked.numbered)} are named "
                f"({few(linked.numbered)}): name every class"
            )
        used = {linked.numbered[int(number)] for number in used}
    # Where each image has a file, the order of the files is no order of the classes.
    names = order if linked.names or linked.is_many else sorted(order, key=natural)
    drawn = tuple(name for name in names if name in used and not is_background(name))
    if not drawn:
        raise UserError(f"{tool} annotations hold no shape with an area: draw polygons, rectangles or masks")
    idle = [name for name in names if name not in used]
    return drawn, [f"classes without any annotation are left out: {few(idle)}"] if idle else []


def _colours(classes: Sequence[str], colours: Mapping[str, int], files: Iterable[AnnotationFile]) -> tuple[int, ...]:
    """Of background and classes, where all have one and no two the same. colours: that count most."""
    known = {name: colour for file in files for name, colour in file.colours.items()} | dict(colours)
    found = (0, *(known.get(name, 0) for name in classes))
    return found if len(set(found)) == len(found) else ()


def _summary(tool: str, links: Sequence[Link], files: Mapping[Path, AnnotationFile]) -> list[str]:
    """What the files hold, what is left out of it, and what is clipped."""
    counts, left_out = Counter[str](), Counter[str]()
    for file in files.values():
        counts += file.counts
        left_out += file.left_out
    shown = ", ".join(f"{count:,} {what}" for what, count in counts.most_common())
    lines = [f"{tool}: {counted(counts.total(), 'annotation')} of {counted(len(links), 'image')} ({shown})"]
    if left_out:
        shown = ", ".join(f"{count:,} {what}" for what, count in left_out.most_common())
        lines.append(f"annotations that are left out: {shown}")
    outside = [clipped_points(files[link.path].images[link.entry]) for link in links]
    if any(outside):
        lines.append(
            f"{counted(sum(outside), 'point')} outside of the image, in {counted(sum(map(bool, outside)), 'image')}: "
            "clipped at the border"
        )
    return lines
