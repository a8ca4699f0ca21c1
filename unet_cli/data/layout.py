"""Which image goes with which mask: folders give the roles, names the pairs. Nothing is read but directories.

Every file is first given a role (image or mask), a split and a name, by the folders that it lies in: in
`train/images/mouse/1.png`, `train` is a word for a split and `images` for a role, and what remains, `mouse/1`, is the
name. Then the names of a split's images are paired with those of its masks (see pairing).
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path, PurePath

from unet_cli.data.imagefile import EXTENSIONS, is_image_file
from unet_cli.data.pairing import (
    MASK_WORDS,
    SAME_NAME,
    Matching,
    apply_rule,
    find_rule,
    parse_pair,
    split_mixed,
    tokens,
)
from unet_cli.data.source import Pair, Source
from unet_cli.errors import UserError, explain

IMAGE_FOLDERS = frozenset({"image", "images", "img", "imgs", "input", "inputs"})
MASK_FOLDERS = MASK_WORDS
SPLIT_FOLDERS = {
    "train": "train", "training": "train", "tr": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "ts": "test",
}  # fmt: skip
# They say nothing beside a word for a role or a split: JPEGImages, SegmentationClass, ground_truth.
FILLERS = frozenset({"jpeg", "jpg", "png", "tif", "tiff", "class", "ground", "set", "data", "files", "folder"})
LEFT_BEHIND = frozenset({"__macosx", "thumbs.db", "desktop.ini"})

ORDINAL = re.compile(r"\d(st|nd|rd|th)(?![a-z])")  # 1st_manual is a folder of masks like any other
CHANNEL = re.compile(r"(.+)_(\d{4})", re.DOTALL)


@dataclass(frozen=True)
class Layout:
    """The pairs of a data set by split: 'train', and 'val' and 'test' where they have folders; sorted by name.

    rule: how the names were matched, in words. notes: what should be said aloud, such as folders that are not used.
    left: a message for each file without a partner; it is for the caller to refuse them or leave them out.
    files_per_image: more than 1 where each channel has a file of its own.
    """

    root: Path
    splits: dict[str, list[Pair]]
    rule: str
    notes: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    files_per_image: int = 1


def find_layout(
    data: Path | None, images: str | None = None, masks: str | None = None, pair: str | None = None
) -> Layout:
    """Understand the folder `data`, as far as the user does not say which are the images, the masks, and the pairs.

    images, masks: a folder or a file, from `data` or from the current directory, or the name that folders have anywhere
    below `data`; with both, `data` may be None. pair: see pairing.parse_pair; its paths are below `data`.
    Raises UserError where that isn't possible, or could be meant in several ways.
    """
    root = data if data is not None else _common_root(images, masks)
    if not root.exists():
        raise UserError(f"{root} does not exist: give the folder that holds your images and masks as --data")
    if not root.is_dir():
        raise UserError(f"{root} is a file: give the folder that holds your images and masks as --data")
    if pair is not None:
        if images is not None or masks is not None:
            raise UserError("--pair says where images and masks are: leave out --images and --masks")
        return _by_hand(root, pair)
    inside = list(walk(root)) if data is not None else []
    files = _assigned(root, inside, images, masks)
    sides, notes = _sides(root, files)
    found = {split: _paired(*side) for split, side in sides.items()}
    counts = {split: result.files_per_image for split, result in found.items()}
    if len(set(counts.values())) > 1:
        differing = ", ".join(f"{count} in {split}" for split, count in counts.items())
        raise UserError(f"{root}: the number of files that make one image differs: {differing}. Make it the same.")
    return Layout(
        root,
        {split: result.pairs for split, result in found.items()},
        "; ".join(dict.fromkeys(result.rule for result in found.values())),
        tuple(dict.fromkeys([*notes, *(note for result in found.values() for note in result.notes)])),
        tuple(message for result in found.values() for message in result.left),
        counts["train"],
    )


def walk(folder: Path) -> Iterator[Path]:
    """The image files below a folder, in the order in which people count (2 before 10).

    What is hidden or left behind by a system is passed over, and so is a link to a folder that it lies in.
    Raises UserError.
    """
    yield from _walk(str(folder), ())


def _walk(folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    try:
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: natural(entry.name))
    except OSError as error:
        raise explain(error, folder) from error
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in LEFT_BEHIND:
            continue
        if entry.is_dir():
            yield from _walk(entry.path, (*above, here))
        elif is_image_file(path := Path(entry.path)):
            yield path


def natural(name: str) -> tuple[list[str | int], str]:
    """A key that sorts numbers by their value."""
    return [int(part) if part.isdecimal() else part.casefold() for part in re.split(r"(\d+)", name)], name


def merge_channels(files: Sequence[Path]) -> dict[Path, tuple[Path, ...]] | None:
    """Files named ID_0000.ext, ID_0001.ext, ...: folder/ID -> its files in order.

    None where they are not all named so, with the same two or more channels for every ID.
    """
    stems = {str(path.with_name(_stem(path.name))): path for path in files}
    merged, lacking = _channels(stems)
    several = len(stems) == len(files) and merged and not lacking
    return {Path(name): paths for name, paths in merged.items()} if several else None


# --- roles -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    """An image file and what its folders say of it.

    role: 'images', 'masks' or 'unused'. owner: the path of the folder that gives it. hint: the role that a folder's
    name merely contains. said: the user gave the role.
    """

    path: Path
    name: str
    role: str | None = None
    split: str | None = None
    owner: tuple[str, ...] = ()
    hint: str | None = None
    said: bool = False


@lru_cache(maxsize=1 << 16)
def _meaning(component: str) -> tuple[str | None, str | None, bool]:
    """The role and the split that the name of one folder speaks of, and whether of nothing else."""
    words = [token.casefold() for token in tokens(ORDINAL.sub("", component)) if token.isalnum()]
    role = "masks" if MASK_FOLDERS & set(words) else "images" if IMAGE_FOLDERS & set(words) else None
    splits = [SPLIT_FOLDERS[word] for word in words if word in SPLIT_FOLDERS]
    others = set(words) - MASK_FOLDERS - IMAGE_FOLDERS - SPLIT_FOLDERS.keys() - FILLERS
    # train2017 and stage1_train are what train is, but labels16 need not be what labels is.
    split = splits[-1] if splits and all(word.isdecimal() or word == "stage" for word in others) else None
    return role, split, not others and bool(role or split)


def _located(base: Path, paths: Iterable[Path]) -> list[_File]:
    """The files with what their folders below `base` say."""
    places: dict[Path, tuple[str, _File]] = {}
    files = []
    for path in paths:
        if path.parent not in places:
            places[path.parent] = _place(path.parent.relative_to(base))
        prefix, place = places[path.parent]
        files.append(replace(place, path=path, name=prefix + _stem(path.name)))
    return files


def _place(folder: Path) -> tuple[str, _File]:
    """What is left of a folder's path where words for roles and splits are taken out, and a file as it would be there.

    The last folder that gives a role or a split decides.
    """
    place = _File(folder, "")
    kept = ""
    for n, part in enumerate(folder.parts):
        role, split, exact = _meaning(part)
        place = replace(place, split=split or place.split)
        if exact and role:
            place = replace(place, role=role, owner=folder.parts[: n + 1])
        elif role:
            place = replace(place, hint=role)
        if not exact:
            kept += part + "/"
    return kept, place


def _assigned(root: Path, inside: list[Path], images: str | None, masks: str | None) -> list[_File]:
    """Every file with its role, as far as the user or the folders say it."""
    given = {
        role: _given(root, inside, role, text)
        for role, text in (("images", images), ("masks", masks))
        if text is not None
    }
    said = [file for files in given.values() for file in files]
    taken = {file.path for file in said}
    others = _located(root, [path for path in inside if path not in taken])
    if len(given) == 2:
        others = [replace(file, role="unused") for file in others]
        return others + (said if len(taken) == len(said) else _told_apart(given["images"]))
    for role in ("images", "masks"):
        if role in given:
            others = [replace(file, role="unused") if file.role == role else file for file in others]
        elif not any(file.role == role for file in others):
            # A folder such as GT_01 means masks only where no folder is called just that.
            hinted = {file.path for file in others if file.role is None and file.hint == role}
            if len(hinted) < len(others):
                others = [replace(file, role=role) if file.path in hinted else file for file in others]
    _refuse_rivals(root, others)
    if not any(file.role == "masks" for file in said + others):
        if "images" not in given:
            return _told_apart(others)
        others = [replace(file, role=file.role or "masks") for file in others]
    return said + others


def _told_apart(files: list[_File]) -> list[_File]:
    """Images and masks that lie in the same folders, told apart by a word in their names."""
    role = "images" if any(file.role == "images" for file in files) else None
    mixed = [file for file in files if file.role == role]
    masks = set(split_mixed([file.name for file in mixed])[1])
    if not masks:
        return files
    told = [replace(file, role="masks" if file.name in masks else "images") for file in mixed]
    return told + [file for file in files if file.role != role]


def _refuse_rivals(root: Path, files: list[_File]) -> None:
    """Raises UserError where two folders at the same place have the same role."""
    owners: defaultdict[tuple[object, ...], set[tuple[str, ...]]] = defaultdict(set)
    for file in files:
        if file.owner and file.role != "unused":
            around = tuple(part for part in file.owner[:-1] if not _meaning(part)[2])
            owners[file.role, file.split, around].add(file.owner)
    for (role, *_), rivals in owners.items():
        if len(rivals) > 1:
            names = " and ".join("/".join(rival) for rival in sorted(rivals))
            raise UserError(f"{root} holds {names}, which could each be meant: say which with --{role}")


def _given(root: Path, inside: list[Path], role: str, text: str) -> list[_File]:
    """The files that the user means by --images or --masks."""
    path = next((path for path in (root / text, Path(text)) if path.exists()), None)
    if path is None:
        wanted = text.strip("/").casefold()
        files = [
            replace(file, name="".join(f"{part}/" for part in parts if part.casefold() != wanted) + stem)
            for file in _located(root, inside)
            if wanted in file.path.parent.relative_to(root).as_posix().casefold().split("/")
            for *parts, stem in [file.name.split("/")]
        ]
        if not files:
            raise UserError(_not_there(root, inside, role, text))
    elif path.is_dir():
        path = _as_below(root, path)
        files = _located(path, walk(path))
        if not files:
            raise UserError(f"{path} holds no images: put {_extensions()} files there, or give another --{role}")
    elif is_image_file(path):
        files = [_File(_as_below(root, path), _stem(path.name))]
    else:
        raise UserError(f"{path}, given as --{role}, is no image file: known are {_extensions()}")
    return [replace(file, role=role, said=True) for file in files]


def _as_below(root: Path, path: Path) -> Path:
    """The path as `walk(root)` writes it, if it is below."""
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


def _common_root(images: str | None, masks: str | None) -> Path:
    if images is None or masks is None:
        raise UserError("no data: give the folder that holds your images and masks as --data, or --images and --masks")
    for role, text in (("images", images), ("masks", masks)):
        if not Path(text).exists():
            raise UserError(f"{text} does not exist: give the folder of the {role} as --{role}")
    folders = [path if path.is_dir() else path.parent for path in (Path(images).absolute(), Path(masks).absolute())]
    return Path(os.path.commonpath(folders))


# --- splits ----------------------------------------------------------------------------------------------------------


def _sides(root: Path, files: list[_File]) -> tuple[dict[str, tuple[list[_File], list[_File]]], list[str]]:
    """The images and the masks of each split, and notes on the files that are in none."""
    splits: defaultdict[str | None, list[_File]] = defaultdict(list)
    for file in files:
        if file.role != "unused":
            splits[file.split].append(file)
    if any(_roles(splits["train"])) and all(_roles(splits[None])):
        raise UserError(f"{root} holds images and masks folders and also train: move one kind elsewhere")
    if not all(_images_and_masks(splits["train"])):
        splits["train"] += splits[None]
    sides: dict[str, tuple[list[_File], list[_File]]] = {}
    notes: list[str] = []
    used: set[Path] = set()
    for split in ("train", "val", "test"):
        images, masks = _images_and_masks(splits[split])
        if images and masks:
            sides[split] = (images, masks)
            used |= {file.path for file in images + masks}
        elif split == "test" and splits[split]:
            notes.append(
                f"the test folder has no pairs of images and masks and is not used: {_counted(len(splits[split]))}"
            )
            used |= {file.path for file in splits[split]}
        elif split == "train" or splits[split]:
            raise UserError(_no_layout(_split_folder(root, splits[split], split)))
    return sides, notes + _not_used(file for file in files if file.path not in used)


def _roles(files: list[_File]) -> tuple[bool, bool]:
    return any(file.role == "images" for file in files), any(file.role == "masks" for file in files)


def _images_and_masks(files: list[_File]) -> tuple[list[_File], list[_File]]:
    """Files without a role are the images where only masks have one: photos/ beside masks/, train/ and train_masks/."""
    images = [file for file in files if file.role == "images"]
    masks = [file for file in files if file.role == "masks"]
    return images or [file for file in files if file.role is None and file.hint is None], masks


def _split_folder(root: Path, files: list[_File], split: str) -> Path:
    """The folder just below the root that holds this split, or the root."""
    tops = {file.path.relative_to(root).parts[0] for file in files if file.path.is_relative_to(root)}
    top = root / tops.pop() if len(tops) == 1 else root
    return top if top.is_dir() and _meaning(top.name)[1] == split else root


# --- pairs -----------------------------------------------------------------------------------------------------------

Files = Mapping[str, tuple[Path, ...]]  # by the name that they share


@dataclass(frozen=True)
class _Paired:
    """The pairs of one split, and what Layout says of them."""

    pairs: list[Pair]
    rule: str
    left: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files_per_image: int = 1


def _paired(images: list[_File], masks: list[_File]) -> _Paired:
    """Pair file with file; or else the channels of an image, or the objects of a mask, where they are several files."""
    if len(images) == len(masks) == 1 and images[0].said and masks[0].said:
        only = Pair(images[0].name, Source((images[0].path,)), Source((masks[0].path,)))
        return _Paired([only], "the image and the mask that were given")
    image_files, mask_files = _by_name(images), _by_name(masks)
    try:
        matching = find_rule(list(image_files), list(mask_files))
    except UserError:
        if several := _with_channels(image_files, mask_files) or _with_objects(image_files, mask_files):
            return several
        raise
    several = None
    if not matching.complete:
        several = _with_channels(image_files, mask_files) or _with_objects(image_files, mask_files)
    return several or _result(matching, _alone(image_files), _alone(mask_files))


def _result(matching: Matching, images: Files, masks: Files) -> _Paired:
    pairs = [
        Pair(image, Source(images[image]), Source(masks[mask]))
        for image, mask in sorted(matching.pairs, key=lambda pair: natural(pair[0]))
    ]
    return _Paired(pairs, matching.rule.describe(), _left(matching, images, masks))


def _left(matching: Matching, images: Files, masks: Files) -> list[str]:
    return [f"image without a mask: {path}" for name in matching.images_left for path in images[name]] + [
        f"mask without an image: {path}" for name in matching.masks_left for path in masks[name]
    ]


def _with_channels(images: dict[str, Path], masks: dict[str, Path]) -> _Paired | None:
    """ID_0000 and ID_0001 are one image, where each mask has one."""
    merged, lacking = _channels(images)
    if not merged:
        return None
    try:
        matching = find_rule([*merged, *lacking], list(masks))
    except UserError:
        return None
    if matching.masks_left:
        return None
    # An image that lacks a channel is reported as that, and its mask not at all.
    pairs = [(image, mask) for image, mask in matching.pairs if image in merged]
    images_left = [image for image in matching.images_left if image in merged]
    found = _result(replace(matching, pairs=pairs, images_left=images_left), merged, _alone(masks))
    count = len(next(iter(merged.values())))
    left = [f"image without its channel {channel}: {path}" for path, channel in lacking.values()]
    notes = [f"{count} files make one image, a channel each: ID_0000 to ID_{count - 1:04}"]
    return replace(found, left=found.left + left, notes=notes, files_per_image=count)


def _with_objects(images: dict[str, Path], masks: dict[str, Path]) -> _Paired | None:
    """A folder of masks for each image: ID/images/x with ID/masks/*, or images/ID with masks/ID/*."""
    folders: defaultdict[str, list[Path]] = defaultdict(list)
    for name, path in masks.items():
        folders[_folder(name)].append(path)
    # images/rat/1 is no sample of its own, but rat/images/1 may be: its folder is not the one in its name.
    samples = {_folder(name): path for name, path in images.items() if PurePath(_folder(name)).name != path.parent.name}
    in_folders = len(samples) == len(images) and "" not in samples
    if "" in folders or not (in_folders or len(folders) < len(masks)):
        return None
    if in_folders:
        images = samples
    elif any(_folder(name) in folders for name in images):
        return None
    try:
        matching = find_rule(list(images), list(folders))
    except UserError:
        return None
    # images/s1_1 is no image of masks/s1/*, and which folder an image is in is a matter of its very name.
    if matching.rule != SAME_NAME if in_folders else matching.masks_left:
        return None
    found = _result(matching, _alone(images), {name: tuple(paths) for name, paths in folders.items()})
    if len(folders) == len(masks):
        return replace(found, rule="a folder for each image and its mask")
    notes = [f"{len(masks)} mask files, one for each object, make {len(folders)} masks"]
    return replace(found, rule="a folder of masks for each image", notes=notes)


def _channels(files: Mapping[str, Path]) -> tuple[Files, dict[str, tuple[Path, str]]]:
    """Names without channel -> their files in order; and of those that lack a channel: a file, and what it lacks.

    Nothing where a name has no channel, or most names have not the same two or more.
    """
    ids: defaultdict[str, dict[str, Path]] = defaultdict(dict)
    for name, path in files.items():
        if not (parts := CHANNEL.fullmatch(name)):
            return {}, {}
        ids[parts[1]][parts[2]] = path
    if not ids:
        return {}, {}
    [(usual, count)] = Counter(frozenset(channels) for channels in ids.values()).most_common(1)
    expected = [f"{number:04}" for number in range(len(usual))]
    if len(usual) < 2 or usual != set(expected) or 2 * count <= len(ids):
        return {}, {}
    if not all(channels.keys() <= usual for channels in ids.values()):
        return {}, {}
    merged, lacking = {}, {}
    for name, channels in ids.items():
        if channels.keys() == usual:
            merged[name] = tuple(channels[channel] for channel in expected)
        else:
            lacking[name] = next(iter(channels.values())), next(c for c in expected if c not in channels)
    return merged, lacking


def _by_hand(root: Path, text: str) -> Layout:
    """The layout by a rule that the user gave; case and leading zeros are overlooked only if that pairs more."""
    rule = parse_pair(text)
    rule = replace(rule, image=_with_extension(rule.image), mask=_with_extension(rule.mask))
    located = {file.path.relative_to(root).as_posix(): file for file in _located(root, walk(root))}
    names = list(located)
    matching = apply_rule(rule, names, names)
    if not matching.complete:
        # Names that differ only in what the loose rule overlooks are not its business.
        with suppress(UserError):
            loose = apply_rule(replace(rule, loose=True), names, names)
            matching = max(matching, loose, key=lambda one: len(one.pairs))
    if not matching.pairs:
        counts = f"{len(matching.images_left)} files as images and {len(matching.masks_left)} as masks"
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "nothing"
        raise UserError(f"--pair '{text}' pairs nothing: it fits {counts}, of {len(names)} in {root}: {some}")
    if twice := {image for image, _ in matching.pairs} & {mask for _, mask in matching.pairs}:
        raise UserError(f"--pair '{text}' makes {located[min(twice)].path} an image and a mask: tell them apart")
    splits: dict[str, list[Pair]] = {"train": []}
    for image, mask in sorted(matching.pairs, key=lambda pair: natural(pair[0])):
        pair = Pair(_stem(image), Source((located[image].path,)), Source((located[mask].path,)))
        splits.setdefault(located[image].split or "train", []).append(pair)
    if not splits["train"]:
        raise UserError(f"--pair '{text}' pairs no files to train on, only some of val or test: let it fit more")
    # '{id}' fits the masks of '{id}_mask' as well.
    paired = {name for pair in matching.pairs for name in pair}
    masks_left = [name for name in matching.masks_left if name not in paired]
    meant = paired.union(masks_left)
    images_left = [name for name in matching.images_left if name not in meant]
    files = _alone({name: file.path for name, file in located.items()})
    left = _left(replace(matching, images_left=images_left, masks_left=masks_left), files, files)
    meant.update(images_left)
    notes = _not_used(file for name, file in located.items() if name not in meant)
    return Layout(root, splits, matching.rule.describe(), tuple(notes), tuple(left))


def _by_name(files: list[_File]) -> dict[str, Path]:
    """Raises UserError where two have the same name."""
    named: defaultdict[str, list[Path]] = defaultdict(list)
    for file in files:
        named[file.name].append(file.path)
    alike = []
    for paths in named.values():
        if len(paths) > 1:
            same_folder = len({path.parent for path in paths}) == 1
            how = "differ in their extension alone" if same_folder else "have the same name and the same meaning"
            alike.append(f"{' and '.join(map(str, paths))} {how}: keep one of them")
    if alike:
        raise UserError("\n".join(alike))
    return {name: path for name, [path] in named.items()}


def _alone(files: Mapping[str, Path]) -> Files:
    return {name: (path,) for name, path in files.items()}


# --- names and messages ----------------------------------------------------------------------------------------------


def _stem(name: str) -> str:
    """Without its extension, if it is one that we know."""
    stem, dot, extension = name.rpartition(".")
    return stem if dot + extension.lower() in EXTENSIONS else name


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _with_extension(template: str) -> str:
    """One without an extension fits them all."""
    return template if template.endswith(".{}") or _stem(template) != template else template + ".{}"


def _counted(files: int) -> str:
    return f"{files} image file" + ("s" if files != 1 else "")


def _not_used(files: Iterable[_File]) -> list[str]:
    folders = Counter(file.path.parent for file in files)
    return [f"{folder} is not used: {_counted(count)}" for folder, count in folders.items()]


def _no_layout(folder: Path) -> str:
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    for entry in entries:
        if entry.is_dir() and _meaning(entry.name)[0] and next(walk(entry), None) is None:
            return f"{entry} holds no images: put {_extensions()} files there"
    content = [entry.name + "/" * entry.is_dir() for entry in entries]
    shown = "nothing" if not content else ", ".join(content[:8]) + (", ..." if len(content) > 8 else "")
    return (
        f"{folder} has no images folder beside a masks folder; it holds {shown}.\n"
        f"Put the images into {folder / 'images'} and the masks, under the same names, into {folder / 'masks'}; "
        "give such a pair in train, val and test folders; or say where they are with --images and --masks."
    )


def _extensions() -> str:
    return ", ".join(sorted(extension[1:] for extension in EXTENSIONS))
