"""A folder of images with annotation files -> pairs whose masks are drawn, classes, and what is to be said."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unet_cli.data.annotations import yolo
from unet_cli.data.annotations.link import Images, Link, named_apart, split_of_file
from unet_cli.data.annotations.parsed import parsed
from unet_cli.data.annotations.shapes import AnnotationFile, clipped_points, is_background
from unet_cli.data.folder.passed_over import tool_of
from unet_cli.data.folder.roles import File, assign_roles, meaning
from unet_cli.data.folder.several import Paired, without_mask
from unet_cli.data.folder.walk import natural
from unet_cli.data.source import Entry, Pair, Source
from unet_cli.errors import UserError, explain
from unet_cli.system.console import counted, few


@dataclass(frozen=True)
class Linked:
    """What the files of one format say of a folder's images.

    links: images with their entries. bare: images without one. lost: what to say of entries without an image.
    numbered: names of classes that files number. names: classes in the order that a file of their own gives.
    used: other files that were understood. is_many: files hold entries of several images. blank: images without an
    entry that are background.
    """

    links: list[Link]
    bare: list[File]
    lost: list[str] = field(default_factory=list)
    names: tuple[str, ...] = ()
    numbered: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    used: frozenset[Path] = frozenset()
    is_many: bool = False
    blank: list[File] = field(default_factory=list)


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
        if tool in LINKERS:
            by_tool[tool].append(path)
    files = assign_roles(root, list(inside), None, None) if by_tool else []
    if not files or any(file.role == "masks" for file in files):
        return None
    images = Images(root, files)
    linked = {tool: found for tool, paths in by_tool.items() if (found := LINKERS[tool](images, paths, others))}
    if not linked:
        return None
    if len(linked) > 1:
        raise UserError(
            f"{root} holds annotations of {' and of '.join(linked)}: keep one kind, move the others elsewhere"
        )
    [(tool, found)] = linked.items()
    if not found.links:
        what = found.lost[0] if found.lost else f"{min(found.used)} lists none"
        raise UserError(f"{root}: {tool} annotations go with none of its {counted(len(files), 'image')}: {what}")
    return _as_pairs(root, tool, found)


def _as_pairs(root: Path, tool: str, linked: Linked) -> Found:
    links = named_apart(root, linked.links)
    read = {path: parsed(path, tool) for path in dict.fromkeys(link.path for link in links)}
    files = {path: file for path, (file, _) in read.items()}
    try:
        classes, notes = _classes(tool, linked, files.values())
    except UserError as error:
        raise UserError(f"{root}: {error}") from error
    colours = _colours(classes, files.values())
    names = _part_names(links)
    found: dict[str, Paired] = {}
    for split in ("train", "val", "test"):
        pairs = []
        for link in links:
            if names[link.split] == split:
                digest = read[link.path][1]
                entry = Entry(tool, link.entry, classes, linked.numbered, colours, digest, linked.is_many)
                pairs.append(Pair(link.image.name, Source((link.image.path,)), Source((link.path,), entry=entry)))
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
    names = order if linked.names else sorted(order, key=natural) if tool == "labelme" else order
    drawn = tuple(name for name in names if name in used and not is_background(name))
    if not drawn:
        raise UserError(f"{tool} annotations hold no shape with an area: draw polygons, rectangles or masks")
    idle = [name for name in names if name not in used]
    return drawn, [f"classes without any annotation are left out: {few(idle)}"] if idle else []


def _colours(classes: Sequence[str], files: Iterable[AnnotationFile]) -> tuple[int, ...]:
    """Of background and classes, where all have one and no two the same."""
    known = {name: colour for file in files for name, colour in file.colours.items()}
    colours = (0, *(known.get(name, 0) for name in classes))
    return colours if len(set(colours)) == len(colours) else ()


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


# --- labelme ---------------------------------------------------------------------------------------------------------


def _link_labelme(images: Images, paths: Sequence[Path], others: Sequence[Path]) -> Linked | None:
    """A file for each image: by its imagePath, seen from its folder, or else by its own name."""
    links, lost = list[Link](), list[str]()
    files = _readable("labelme", paths, lost)
    broken = {file.path for path in paths if path not in files and (file := images.beside(path)) is not None}
    for path, content in files.items():
        [name] = content.images
        file = images.beside(path) or images.called(name, path) or images.called(path.stem, path)
        if file is None:
            lost.append(f"annotations without an image: {path}")
        else:
            links.append(Link(file, path, name, file.split))
    taken = broken.union(link.image.path for link in links)
    bare = [file for file in images.files if file.path not in taken]
    return Linked(links, bare, lost, used=frozenset(paths))


def _readable(tool: str, paths: Iterable[Path], lost: list[str]) -> dict[Path, AnnotationFile]:
    """Of files that are each of one image, those that can be read; lost is told why others can't."""
    files = {}
    for path in paths:
        try:
            files[path] = parsed(path, tool)[0]
        except UserError as error:
            lost.append(str(error))
    return files


# --- COCO ------------------------------------------------------------------------------------------------------------


def _link_coco(images: Images, paths: Sequence[Path], others: Sequence[Path]) -> Linked | None:
    """Files that each list images, often one a split."""
    paths = [path for path in paths if _mentions(path, b'"images"', b'"annotations"')]
    if not paths:
        return None
    instances = [path for path in paths if "instances" in path.stem.casefold()]
    chosen = instances or list(paths)  # captions and key points of the same images lie beside them
    notes = [f"{path} is not read, since others are called instances" for path in paths if path not in chosen]
    return _listed("COCO", images, chosen, notes)


def _mentions(path: Path, *words: bytes) -> bool:
    """Whether a file holds all of these: many have categories, or images."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise explain(error, path) from error
    return all(word in content for word in words)


def _listed(tool: str, images: Images, paths: Sequence[Path], notes: list[str]) -> Linked:
    """By the lists of files: images that none lists are left out, and listed ones that are not there are said."""
    links, lost = [], []
    for path in paths:
        missing = []
        for name in parsed(path, tool)[0].images:
            split = split_of_file(path)
            file = images.called(name, path, split)
            if file is None:
                missing.append(name)
            else:
                folders = [meaning(part)[1] for part in name.split("/")[:-1]]  # CVAT puts the subset there
                links.append(Link(file, path, name, split or file.split or next(filter(None, folders), None)))
        if missing:
            lost.append(f"{path} lists {counted(len(missing), 'image')} that are not in the folder: {few(missing)}")
    taken = {link.image.path for link in links}
    unlisted = [file.path for file in images.files if file.path not in taken]
    if unlisted and links:
        listed = f"{counted(len(unlisted), 'image')} that no {tool} file lists are left out, such as {unlisted[0]}"
        notes = [*notes, listed]
    return Linked(links, [], lost, notes=notes, used=frozenset(paths), is_many=True)


def _link_cvat(images: Images, paths: Sequence[Path], others: Sequence[Path]) -> Linked | None:
    return _listed("CVAT", images, paths, [])


# --- YOLO ------------------------------------------------------------------------------------------------------------


def _link_yolo(images: Images, paths: Sequence[Path], others: Sequence[Path]) -> Linked | None:
    """A text file for each image, of the same name; an image without one is background, but where no image of its
    split has any, as in a test folder that nobody annotated."""
    texts = [path for path in others if path.suffix.lower() == ".txt"]
    by_image = {file.path: (file, path) for path in texts if (file := images.beside(path)) is not None}
    sources = [path for path in others if _names_classes(path)]
    if not any(path in paths for _, path in by_image.values()):
        return None
    if not sources and 2 * len(by_image) < len(images.files):
        return None
    lost: list[str] = []
    read = _readable("YOLO", [path for _, path in by_image.values()], lost)
    links = [Link(file, path, "", file.split) for file, path in by_image.values() if path in read]
    linked = {file.split for file, _ in by_image.values()}
    blank = [file for file in images.files if file.path not in by_image and file.split in linked]
    unused = [file for file in images.files if file.split not in linked]
    taken = {path for _, path in by_image.values()}
    lost += [f"annotations without an image: {path}" for path in paths if path not in taken and path not in sources]
    notes = [f"{counted(len(blank), 'image')} without a text file: taken as background"] if blank else []
    if unused:
        notes.append(f"{counted(len(unused), 'image')} of a folder without text files are left out")
    labels = {int(label) for file in read.values() for label in file.labels}
    numbered = _class_names(sources)
    names = tuple(dict.fromkeys(numbered)) or tuple(f"class {number}" for number in sorted(labels))
    numbered = numbered or tuple(f"class {number}" for number in range(max(labels, default=0) + 1))
    return Linked(links, [], lost, names, numbered, notes, frozenset(taken.union(sources)), blank=blank)


def _names_classes(path: Path) -> bool:
    return path.name.lower() in ("classes.txt", "obj.names") or path.suffix.lower() in (".yaml", ".yml")


def _class_names(sources: Sequence[Path]) -> tuple[str, ...]:
    """From the first file that has names, a data.yaml before others."""
    for path in sorted(sources, key=lambda path: (path.suffix.lower() not in (".yaml", ".yml"), len(path.parts))):
        try:
            names = yolo.names_in(path, path.read_text("utf-8-sig"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}, which may name the classes, can't be read: {error}") from error
        if names:
            return names
    return ()


Linker = Callable[[Images, Sequence[Path], Sequence[Path]], Linked | None]
LINKERS: dict[str, Linker] = {"COCO": _link_coco, "CVAT": _link_cvat, "labelme": _link_labelme, "YOLO": _link_yolo}
