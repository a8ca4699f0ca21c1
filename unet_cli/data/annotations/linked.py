"""How entries of annotation files find their images: a file for each image, or files that list images. Formats whose
folders have a meaning of their own add to these, beside their parsers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unet_cli.data.annotations.link import Images, Link, split_of_file
from unet_cli.data.annotations.shapes import AnnotationFile, OtherFormat
from unet_cli.data.folder.roles import File, meaning
from unet_cli.data.formats import count_pages
from unet_cli.errors import UserError
from unet_cli.system.console import counted, few


@dataclass(frozen=True)
class Folder:
    """A data folder as the files of one format see it.

    paths: the files that look as if they were of the format. others: all files that are no images, these among them.
    read: the content of one of them; raises UserError.
    """

    tool: str
    images: Images
    paths: Sequence[Path]
    others: Sequence[Path]
    read: Callable[[Path], AnnotationFile]

    def readable(self, paths: Iterable[Path]) -> tuple[dict[Path, AnnotationFile], dict[Path, str]]:
        """Of files that are each of one image, those that can be read, and why others can't."""
        files, broken = dict[Path, AnnotationFile](), dict[Path, str]()
        for path in paths:
            try:
                files[path] = self.read(path)
            except OtherFormat:
                continue
            except UserError as error:
                broken[path] = str(error)
        return files, broken


@dataclass(frozen=True)
class Linked:
    """What the files of one format say of a folder's images.

    links: images with their entries. bare: images without one. lost: what to say of entries without an image.
    numbered: names of classes that files number. names: classes in the order that a file of their own gives.
    colours: 0xRRGGBB of classes, likewise. used: other files that were understood. is_many: files hold entries of
    several images. blank: images without an entry that are background.
    """

    links: list[Link]
    bare: list[File]
    lost: list[str] = field(default_factory=list)
    names: tuple[str, ...] = ()
    numbered: tuple[str, ...] = ()
    colours: Mapping[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    used: frozenset[Path] = frozenset()
    is_many: bool = False
    blank: list[File] = field(default_factory=list)


Linker = Callable[[Folder], Linked | None]


def lists(
    folder: Folder,
    paths: Sequence[Path] | None = None,
    unlisted_lack_masks: bool = False,
    meant: Callable[[str], Sequence[str]] | None = None,
) -> Linked | None:
    """Files that each list images; listed ones that are not there are said.

    paths: instead of the folder's. unlisted_lack_masks: whether an image that none lists is one without a mask, and not
    left out with a note. meant: names that an entry's name may stand for, those that are tried first before others.
    None where no file is of the format.
    """
    links, lost, used = list[Link](), list[str](), list[Path]()
    for path in folder.paths if paths is None else paths:
        try:
            content = folder.read(path)
        except OtherFormat:
            continue
        used.append(path)
        missing, split = [], split_of_file(path)
        for name in content.images:
            names = meant(name) if meant else [name]
            file = next(filter(None, (folder.images.called(one, path, split) for one in names)), None)
            if file is None:
                missing.append(name)
            else:
                folders = [meaning(part)[1] for part in re.split(r"[\\/]", name)[:-1]]  # CVAT puts the subset there
                links.append(Link(file, path, name, split or file.split or next(filter(None, folders), None)))
        if missing:
            lost.append(f"{path} lists {counted(len(missing), 'image')} that the folder doesn't hold: {few(missing)}")
    taken = {link.image.path for link in links}
    unlisted = [file for file in folder.images.files if file.path not in taken]
    bare, notes = (unlisted if unlisted_lack_masks else []), list[str]()
    if unlisted and links and not unlisted_lack_masks:
        such = f"such as {unlisted[0].path}"
        notes = [f"left out: {counted(len(unlisted), 'image')} that no {folder.tool} file lists, {such}"]
    return Linked(links, bare, lost, notes=notes, used=frozenset(used), is_many=True) if used else None


def one_each(folder: Folder, name_of: Callable[[Path], str] | None = None) -> Linked | None:
    """A file for each image: by its place and name, or by the name that it gives, seen from its folder.

    name_of: the image's name according to its file's path. None where no file is of the format.
    """
    links, notes, guesses = list[Link](), list[str](), list[str]()
    files, broken = folder.readable(folder.paths)
    if not files and not broken:
        return None
    lost = list(broken.values())
    taken = {file.path for path in broken if (file := _image_of(folder.images, path, "", name_of)) is not None}
    for path, content in files.items():
        name = next(iter(content.images))
        file = _image_of(folder.images, path, name, name_of)
        if file is None and not name and (file := folder.images.named_in(path) or _only(folder, files, path)):
            guesses.append(f"{path} is taken for the annotations of {file.path}")
        if file is None:
            lost.append(f"annotations without an image: {path}")
            continue
        taken.add(file.path)
        links += _by_slice(file, path, content, lost, notes) or [Link(file, path, name, file.split)]
    if guesses:
        more = f" (and {len(guesses) - 1} more by their names)" if len(guesses) > 1 else ""
        notes.append(f"{guesses[0]}{more}")
    bare = [file for file in folder.images.files if file.path not in taken]
    return Linked(links, bare, lost, notes=notes, used=frozenset([*files, *broken]))


def _image_of(images: Images, path: Path, name: str, name_of: Callable[[Path], str] | None) -> File | None:
    """name: that the file gives its image, '' where it gives none."""
    if name_of is not None:
        return images.called(name_of(path), path)
    return images.beside(path) or images.called(name, path) or images.called(path.stem, path)


def _only(folder: Folder, files: Iterable[Path], path: Path) -> File | None:
    """The only image in the file's folder, where it is the only file: RoiSet.zip."""
    around = [file for file in folder.images.files if file.path.parent == path.parent]
    beside = [other for other in files if other.parent == path.parent]
    return around[0] if len(around) == len(beside) == 1 else None


def _by_slice(file: File, path: Path, content: AnnotationFile, lost: list[str], notes: list[str]) -> list[Link]:
    """A link for each page of a stack that shapes name; none where the image is no stack, or no shape names one."""
    try:
        pages = count_pages(file.path) if content.slices else 1
    except UserError:  # which is said when the image is read
        return []
    if pages == 1:
        return []
    beyond = [number + 1 for number in content.slices if number >= pages]
    if beyond:
        lost.append(f"{path} has annotations of slice {beyond[0]}, but {file.path} has {pages}")
    found = {number: entry for number, entry in content.slices.items() if number < pages}
    if len(found) < pages:
        notes.append(
            f"{path} has annotations of {len(found)} of the {pages} slices of {file.path}: others are left out"
        )
    return [Link(file, path, entry, file.split, page) for page, entry in sorted(found.items())]
