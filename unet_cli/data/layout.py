"""Which image goes with which mask: folders give the roles, names the pairs. Nothing is read but directories.

Every file is first given a role (image or mask), a split and a name, by the folders that it lies in: in
`train/images/mouse/1.png`, `train` is a word for a split and `images` for a role, and what remains, `mouse/1`, is the
name. Then the names of a split's images are paired with those of its masks (see pairing).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from unet_cli.console import counted
from unet_cli.data.pairing import (
    SAME_NAME,
    Matching,
    apply_rule,
    find_rule,
    parse_pair,
)
from unet_cli.data.roles import File, assign_roles, common_root, known_extensions, located, meaning, natural, stem, walk
from unet_cli.data.source import Pair, Source
from unet_cli.errors import UserError

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
    root = data if data is not None else common_root(images, masks)
    if not root.exists():
        raise UserError(f"{root} does not exist: give the folder that holds your images and masks as --data")
    if not root.is_dir():
        raise UserError(f"{root} is a file: give the folder that holds your images and masks as --data")
    if pair is not None:
        if images is not None or masks is not None:
            raise UserError("--pair says where images and masks are: leave out --images and --masks")
        return _by_hand(root, pair)
    inside = list(walk(root)) if data is not None else []
    files = assign_roles(root, inside, images, masks)
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


def merge_channels(files: Sequence[Path]) -> list[tuple[Path, tuple[Path, ...]]]:
    """Put ID_0000.ext, ID_0001.ext, ... together: (folder/ID, its files in order); what isn't named so stays alone."""
    images: defaultdict[Path, list[Path]] = defaultdict(list)
    for path in files:
        name = stem(path.name)
        parts = CHANNEL.fullmatch(name)
        images[path.with_name(parts[1] if parts else name)].append(path)
    return [(place, tuple(sorted(paths))) for place, paths in images.items()]


# --- splits ----------------------------------------------------------------------------------------------------------


def _sides(root: Path, files: list[File]) -> tuple[dict[str, tuple[list[File], list[File]]], list[str]]:
    """The images and the masks of each split, and notes on the files that are in none."""
    splits: defaultdict[str | None, list[File]] = defaultdict(list)
    for file in files:
        if file.role != "unused":
            splits[file.split].append(file)
    if any(_roles(splits["train"])) and all(_roles(splits[None])):
        raise UserError(f"{root} holds images and masks folders and also train: move one kind elsewhere")
    if not all(_images_and_masks(splits["train"])):
        splits["train"] += splits[None]
    sides: dict[str, tuple[list[File], list[File]]] = {}
    notes: list[str] = []
    used: set[Path] = set()
    for split in ("train", "val", "test"):
        images, masks = _images_and_masks(splits[split])
        if images and masks:
            sides[split] = (images, masks)
            used |= {file.path for file in images + masks}
        elif split == "test" and splits[split]:
            notes.append(
                "the test folder has no pairs of images and masks and is not used: "
                + counted(len(splits[split]), "image file")
            )
            used |= {file.path for file in splits[split]}
        elif split == "train" or splits[split]:
            raise UserError(_no_layout(_split_folder(root, splits[split], split)))
    return sides, notes + _not_used(file for file in files if file.path not in used)


def _roles(files: list[File]) -> tuple[bool, bool]:
    return any(file.role == "images" for file in files), any(file.role == "masks" for file in files)


def _images_and_masks(files: list[File]) -> tuple[list[File], list[File]]:
    """Files without a role are the images where only masks have one: photos/ beside masks/, train/ and train_masks/."""
    images = [file for file in files if file.role == "images"]
    masks = [file for file in files if file.role == "masks"]
    return images or [file for file in files if file.role is None and file.hint is None], masks


def _split_folder(root: Path, files: list[File], split: str) -> Path:
    """The folder just below the root that holds this split, or the root."""
    tops = {file.path.relative_to(root).parts[0] for file in files if file.path.is_relative_to(root)}
    top = root / tops.pop() if len(tops) == 1 else root
    return top if top.is_dir() and meaning(top.name)[1] == split else root


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


def _paired(images: list[File], masks: list[File]) -> _Paired:
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
    pairs = [Pair(image, Source(images[image]), Source(masks[mask])) for image, mask in matching.pairs]
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
    if 2 * len(matching.pairs) < len(images):  # a folder that happens to have an image's name
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
    by_path = {file.path.relative_to(root).as_posix(): file for file in located(root, walk(root))}
    names = list(by_path)
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
        raise UserError(f"--pair '{text}' makes {by_path[min(twice)].path} an image and a mask: tell them apart")
    splits: dict[str, list[Pair]] = {"train": []}
    for image, mask in sorted(matching.pairs, key=lambda pair: natural(pair[0])):
        pair = Pair(stem(image), Source((by_path[image].path,)), Source((by_path[mask].path,)))
        splits.setdefault(by_path[image].split or "train", []).append(pair)
    if not splits["train"]:
        raise UserError(f"--pair '{text}' pairs no files to train on, only some of val or test: let it fit more")
    # '{id}' fits the masks of '{id}_mask' as well.
    paired = {name for pair in matching.pairs for name in pair}
    masks_left = [name for name in matching.masks_left if name not in paired]
    meant = paired.union(masks_left)
    images_left = [name for name in matching.images_left if name not in meant]
    files = _alone({name: file.path for name, file in by_path.items()})
    left = _left(replace(matching, images_left=images_left, masks_left=masks_left), files, files)
    meant.update(images_left)
    notes = _not_used(file for name, file in by_path.items() if name not in meant)
    return Layout(root, splits, matching.rule.describe(), tuple(notes), tuple(left))


def _by_name(files: list[File]) -> dict[str, Path]:
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


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _with_extension(template: str) -> str:
    """One without an extension fits them all."""
    return template if template.endswith(".{}") or stem(template) != template else template + ".{}"


def _not_used(files: Iterable[File]) -> list[str]:
    folders = Counter(file.path.parent for file in files)
    return [f"{folder} is not used: {counted(count, 'image file')}" for folder, count in folders.items()]


def _no_layout(folder: Path) -> str:
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    for entry in entries:
        if entry.is_dir() and meaning(entry.name)[0] and next(walk(entry), None) is None:
            return f"{entry} holds no images: put {known_extensions()} files there"
    content = [entry.name + "/" * entry.is_dir() for entry in entries]
    shown = "nothing" if not content else ", ".join(content[:8]) + (", ..." if len(content) > 8 else "")
    return (
        f"{folder} has no images folder beside a masks folder; it holds {shown}.\n"
        f"Put the images into {folder / 'images'} and the masks, under the same names, into {folder / 'masks'}; "
        "give such a pair in train, val and test folders; or say where they are with --images and --masks."
    )
