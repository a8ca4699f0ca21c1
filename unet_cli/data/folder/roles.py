"""The role of each file below a folder: image or mask, its split, and its name.

They follow from its folders, or the user: in `train/images/mouse/1.png`, `train` is a word for a split and `images` for
a role, and the rest, `mouse/1`, is the name.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

from unet_cli.data.folder.pairing import split_mixed
from unet_cli.data.folder.walk import known_extensions, stem, walk
from unet_cli.data.folder.words import (
    CELLPOSE_MASKS,
    CELLPOSE_OWN,
    FILLERS,
    IMAGE_WORDS,
    MASK_HINTS,
    MASK_WORDS,
    SPLIT_WORDS,
    known_words,
    tokens,
)
from unet_cli.data.formats import PACKAGES, SLIDE_EXTENSIONS, VOLUME_EXTENSIONS, extension_of
from unet_cli.data.imagefile import is_image_file
from unet_cli.errors import UserError

ORDINAL = re.compile(r"\d(st|nd|rd|th)(?![a-z])")  # 1st_manual is a folder of masks like any other

# Formats of cameras and scanners, seldom used for masks; and MASK_TYPES, seldom used for images.
IMAGE_TYPES = (SLIDE_EXTENSIONS | PACKAGES.keys() | {".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif"}).difference(
    VOLUME_EXTENSIONS
)
MASK_TYPES = frozenset({".mat"})


@dataclass(frozen=True)
class File:
    """An image file with the role, split and name that its folders give it.

    role: 'images', 'masks' or 'unused'. owner: path of the folder that gives the role. hint: role that is only part of
    a folder's name. is_given: whether the user gave the role. by_type: whether only the file type gives it.
    """

    path: Path
    name: str
    role: str | None = None
    split: str | None = None
    owner: tuple[str, ...] = ()
    hint: str | None = None
    is_given: bool = False
    by_type: bool = False


@lru_cache(maxsize=1 << 16)
def meaning(component: str) -> tuple[str | None, str | None, bool]:
    """The role and the split in a folder's name, and whether the name has no other meaning."""
    alone = [token.casefold() for token in tokens(ORDINAL.sub("", component)) if token.isalnum()]
    words = [word for one in alone for word in known_words(one)]
    role = "masks" if (MASK_WORDS | MASK_HINTS) & set(words) else "images" if IMAGE_WORDS & set(words) else None
    splits = [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]
    others = set(words) - MASK_WORDS - IMAGE_WORDS - SPLIT_WORDS.keys() - FILLERS
    # train2017 and stage1_train mean train, but labels16 need not mean labels.
    split = splits[-1] if splits and all(word.isdecimal() or word == "stage" for word in others) else None
    return role, split, not others and bool(role or split)


def located(base: Path, paths: Iterable[Path]) -> list[File]:
    """The files with role, split and name from their folders below `base`."""
    places: dict[str, tuple[str, File]] = {}
    files = []
    for path in paths:
        name = path.name
        folder = str(path)[: -len(name)]  # for a hundred thousand files: path.parent is ten times slower
        if folder not in places:
            places[folder] = _place(path.parent.relative_to(base))
        prefix, at = places[folder]
        files.append(File(path, prefix + stem(name), at.role, at.split, at.owner, at.hint))
    return files


def _place(folder: Path) -> tuple[str, File]:
    """The folder's path without words for roles and splits, and a file with the properties of this folder.

    The last folder that gives a role or a split decides.
    """
    place = File(folder, "")
    kept = ""
    for n, part in enumerate(folder.parts):
        role, split, exact = meaning(part)
        place = replace(place, split=split or place.split)
        if exact and role:
            place = replace(place, role=role, owner=folder.parts[: n + 1])
        elif role:
            place = replace(place, hint=role)
        if not exact:
            kept += part + "/"
    return kept, place


def assign_roles(
    root: Path, inside: list[Path], images: str | None, masks: str | None, passed_over: list[Path] | None = None
) -> list[File]:
    """Every file with its role, as far as the user or the folders give one. passed_over: see walk, for folders that are
    not inside."""
    given = {
        role: _given(root, inside, role, text, passed_over if not inside else None)
        for role, text in (("images", images), ("masks", masks))
        if text is not None
    }
    given_files = [file for files in given.values() for file in files]
    taken = {file.path for file in given_files}
    others = located(root, [path for path in inside if path not in taken] if taken else inside)
    if len(given) == 2:
        others = [replace(file, role="unused") for file in others]
        return others + (given_files if len(taken) == len(given_files) else _separated(given["images"]))
    for role in ("images", "masks"):
        if role in given:
            others = [replace(file, role="unused") if file.role == role else file for file in others]
        elif not any(file.role == role for file in others):
            # A folder such as GT_01 means masks only where no folder is called just that.
            hinted = {file.path for file in others if file.role is None and file.hint == role}
            if len(hinted) < len(others):
                others = [replace(file, role=role) if file.path in hinted else file for file in others]
    others = _without_predictions(others)
    _refuse_rivals(root, others)
    if not any(file.role == "masks" for file in given_files + others):
        if "images" not in given:
            return _separated(others)
        others = [replace(file, role=file.role or "masks") for file in others]
    return given_files + others


def _separated(files: list[File]) -> list[File]:
    """Images and masks in the same folders, distinguished by a word in their names or by their types."""
    role = "images" if any(file.role == "images" for file in files) else None
    mixed = [file for file in files if file.role == role]
    named = set(split_mixed([file.name for file in mixed])[1])
    if named:
        are_masks = [file.name in named for file in mixed]
    else:
        by_type = _masks_by_type(mixed)
        if not by_type:
            return files
        are_masks = [file.path in by_type for file in mixed]
    separated = [
        replace(file, role="masks" if is_mask else "images", by_type=not named)
        for file, is_mask in zip(mixed, are_masks, strict=True)
    ]
    return separated + [file for file in files if file.role != role]


def _masks_by_type(files: list[File]) -> set[Path]:
    """7.png beside 7.jpg, or 7_cell.png: camera formats are the images, lossless formats their masks."""
    types = {file.path: extension_of(file.path) for file in files}
    are_images = [types[file.path] in IMAGE_TYPES for file in files]
    if not any(are_images):
        are_images = [types[file.path] not in MASK_TYPES for file in files]
    images = {file.name for file, is_image in zip(files, are_images, strict=True) if is_image}
    others = [file for file, is_image in zip(files, are_images, strict=True) if not is_image]
    masks = {file.path for file in others if file.name in images or _begins_with(file.name, images)}
    return masks if 2 * len(masks) >= min(len(images), len(others)) else set()


def twins_of(files: list[File]) -> list[tuple[Path, Path]]:
    """Pairs of files with the same name and two types, if most files have such a twin."""
    named: defaultdict[str, list[Path]] = defaultdict(list)
    for file in files:
        named[file.name].append(file.path)
    twins = [(first, second) for first, second in (paths for paths in named.values() if len(paths) == 2)]
    types = {tuple(extension_of(path) for path in pair) for pair in twins}
    return twins if len(types) == 1 and 3 * len(twins) >= len(files) else []


def _begins_with(name: str, names: set[str]) -> bool:
    """Whether the name is one of `names` with a suffix: 7_cell, for 7."""
    return any(not letter.isalnum() and name[:end] in names for end, letter in enumerate(name) if end)


def without_companions(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """The files, and separately those that a tool wrote for itself beside its masks."""
    masks = [path for path in paths if CELLPOSE_MASKS in path.name]
    bases = {str(path).removesuffix(path.name) + stem(path.name).removesuffix(CELLPOSE_MASKS) for path in masks}
    if not bases:
        return paths, []
    own = {base + end for base in bases for end in CELLPOSE_OWN}
    is_own = [str(path).removesuffix(path.name) + stem(path.name) in own for path in paths]
    kept = [path for path, found in zip(paths, is_own, strict=True) if not found]
    return kept, [path for path, found in zip(paths, is_own, strict=True) if found]


def _without_predictions(files: list[File]) -> list[File]:
    """Mark `images_masks` beside `images`, the default output of predict, as unused, if there are other masks."""
    images = {file.owner for file in files if file.role == "images"}
    masks = {file.owner for file in files if file.role == "masks" and file.owner}
    predicted = {owner for owner in masks if (*owner[:-1], owner[-1].removesuffix("_masks")) in images}
    if not predicted or predicted == masks:
        return files
    return [replace(file, role="unused") if file.owner in predicted else file for file in files]


def _refuse_rivals(root: Path, files: list[File]) -> None:
    """Raises UserError if two folders at the same place have the same role."""
    owners: defaultdict[tuple[object, ...], set[tuple[str, ...]]] = defaultdict(set)
    for file in files:
        if file.owner and file.role != "unused":
            around = tuple(part for part in file.owner[:-1] if not meaning(part)[2])
            owners[file.role, file.split, around].add(file.owner)
    for (role, *_), rivals in owners.items():
        if len(rivals) > 1:
            folders = ["/".join(rival) for rival in sorted(rivals)]
            ways = " or ".join(f"--{role} {text}" for text in _names_in_splits(root, rivals, files) or folders)
            raise UserError(f"{root} holds {' and '.join(folders)}, which could each be meant: say which with {ways}")


def _names_in_splits(root: Path, rivals: set[tuple[str, ...]], files: list[File]) -> list[str]:
    """The names of the rival folders, if such folders occur in several splits: a path would exclude the others. For
    DRIVE, 1st_manual and mask, but not 2nd_manual, which only test has."""
    splits: defaultdict[str, set[str | None]] = defaultdict(set)
    for file in files:
        if file.owner:
            splits[file.owner[-1]].add(file.split)
    names = sorted({rival[-1] for rival in rivals if len(splits[rival[-1]]) > 1})
    is_clear = len({rival[-1] for rival in rivals}) == len(rivals)
    return names if is_clear and not any((root / name).exists() or Path(name).exists() for name in names) else []


def _given(root: Path, inside: list[Path], role: str, text: str, passed_over: list[Path] | None = None) -> list[File]:
    """The files given by --images or --masks."""
    path = next((path for path in (root / text, Path(text)) if path.exists()), None)
    if path is None:
        wanted = text.strip("/").casefold()
        files = [
            replace(file, name="".join(f"{part}/" for part in parts if part.casefold() != wanted) + stem)
            for file in located(root, inside)
            if wanted in file.path.parent.relative_to(root).as_posix().casefold().split("/")
            for *parts, stem in [file.name.split("/")]
        ]
        if not files:
            raise UserError(_not_there(root, inside, role, text))
    elif path.is_dir():
        path = _as_below(root, path)
        files = located(path, walk(path, passed_over=passed_over))
        if not files:
            raise UserError(f"{path} holds no images: put {known_extensions()} files there, or give another --{role}")
    elif is_image_file(path):
        files = [File(_as_below(root, path), stem(path.name))]
    else:
        raise UserError(f"{path}, given as --{role}, is no image file: known are {known_extensions()}")
    return [replace(file, role=role, is_given=True) for file in files]


def _as_below(root: Path, path: Path) -> Path:
    """The path as `walk(root)` yields it, if it is below."""
    absolute, base = Path(os.path.abspath(path)), Path(os.path.abspath(root))
    return root / absolute.relative_to(base) if absolute.is_relative_to(base) else path


def _not_there(root: Path, inside: list[Path], role: str, text: str) -> str:
    below = {folder.relative_to(root) for folder in {path.parent for path in inside}}
    folders = sorted({above for folder in below for above in (folder, *folder.parents) if above.name})
    names = list(dict.fromkeys(name for folder in folders for name in (folder.as_posix(), folder.name)))
    near = get_close_matches(text, names, n=3, cutoff=0.5) or names[:8]
    return f"--{role} {text} does not exist in {root} or here: " + (
        f"folders there are {', '.join(near)}" if near else "give a folder that holds images"
    )


def common_root(images: str | None, masks: str | None) -> Path:
    if images is None or masks is None:
        raise UserError("no data: give the folder that holds your images and masks as --data, or --images and --masks")
    for role, text in (("images", images), ("masks", masks)):
        if not Path(text).exists():
            raise UserError(f"{text} does not exist: give the folder of the {role} as --{role}")
    folders = [path if path.is_dir() else path.parent for path in (Path(images).absolute(), Path(masks).absolute())]
    return Path(os.path.commonpath(folders))
