"""Pair files with known roles: by name, by the user's rule, or as parts of one image or mask."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from unet_cli.data.folder.name_rules import apply_rule, parse_pair
from unet_cli.data.folder.pairing import find_rule
from unet_cli.data.folder.path_rules import with_extensions
from unet_cli.data.folder.roles import File, located
from unet_cli.data.folder.several import (
    Paired,
    alone,
    result,
    with_channels,
    with_names_of_nnunet,
    with_objects,
    with_parts,
    without_mask,
)
from unet_cli.data.folder.walk import natural, stem
from unet_cli.data.formats import without_extension
from unet_cli.data.source import Pair, Source
from unet_cli.errors import UserError
from unet_cli.system.console import counted


def paired_files(images: list[File], masks: list[File]) -> Paired:
    """Pair file with file; else join channels to images or parts to masks, if these consist of several files."""
    if len(images) == len(masks) == 1 and images[0].is_given and masks[0].is_given:
        only = Pair(images[0].name, Source((images[0].path,)), Source((masks[0].path,)))
        return Paired([only], "the image and the mask that were given")
    try:
        image_files, mask_files = _by_name(images), _by_name(masks)
    except UserError:
        if whole := _by_whole_names(images, masks):
            return whole
        raise
    try:
        matching = find_rule(list(image_files), list(mask_files))
    except UserError:
        if several := _several(image_files, mask_files, images, masks):
            return several
        raise
    several = None
    if not matching.complete:
        several = _several(image_files, mask_files, images, masks, bool(matching.masks_left))
    return several or with_names_of_nnunet(result(matching, alone(image_files), alone(mask_files)))


def _several(
    by_image: dict[str, Path],
    by_mask: dict[str, Path],
    images: list[File],
    masks: list[File],
    may_be_parts: bool = True,
) -> Paired | None:
    """Other interpretations of names that don't match one to one."""
    return (
        with_channels(by_image, by_mask)
        or with_objects(by_image, by_mask)
        or _by_whole_names(images, masks)
        or (with_parts(by_image, by_mask) if may_be_parts else None)
    )


def _by_whole_names(images: list[File], masks: list[File]) -> Paired | None:
    """Pair by image names with extension, as in a.jpg_mask.png for a.jpg, if that leaves no file unpaired."""
    types = {_extension(file.path) for file in images}
    if not any(extension in without_extension(file.path.name) for file in masks for extension in types):
        return None
    whole = {file.name + _extension(file.path): file.path for file in images}
    mask_files = {_folder(file.name) + without_extension(file.path.name): file.path for file in masks}
    if len(whole) < len(images) or len(mask_files) < len(masks):
        return None
    with suppress(UserError):
        matching = find_rule(list(whole), list(mask_files))
        if matching.complete:
            return result(matching, alone(whole), alone(mask_files))
    return None


def paired_by_hand(root: Path, text: str, inside: Iterable[Path]) -> tuple[dict[str, Paired], list[str]]:
    """The pairs of each split, and notes, by the user's rule; case and leading zeros are ignored if that gives more
    pairs."""
    rule = with_extensions(parse_pair(text))
    by_path = {file.path.relative_to(root).as_posix(): file for file in located(root, inside)}
    names = list(by_path)
    matching = apply_rule(rule, names, names)
    if not matching.complete:
        # The loose rule fails where names differ only in what it ignores: then the strict one stays.
        with suppress(UserError):
            loose = apply_rule(replace(rule, loose=True), names, names)
            matching = max(matching, loose, key=lambda one: len(one.pairs))
    if not matching.pairs:
        counts = f"{len(matching.images_left)} files as images and {len(matching.masks_left)} as masks"
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "nothing"
        raise UserError(f"--pair '{text}' pairs nothing: it fits {counts}, of {len(names)} in {root}: {some}")
    if twice := {image for image, _ in matching.pairs} & {mask for _, mask in matching.pairs}:
        raise UserError(f"--pair '{text}' makes {by_path[min(twice)].path} both an image and a mask: make it stricter")
    # The template '{id}' also matches the masks of '{id}_mask'.
    paired = {name for pair in matching.pairs for name in pair}
    masks_left = [name for name in matching.masks_left if name not in paired]
    meant = paired.union(masks_left)
    images_left = [name for name in matching.images_left if name not in meant]
    found = {"train": Paired([], matching.rule.describe())}

    def of(name: str) -> Paired:
        return found.setdefault(by_path[name].split or "train", Paired([], matching.rule.describe()))

    for image, mask in sorted(matching.pairs, key=lambda pair: natural(pair[0])):
        pair = Pair(stem(image), Source((by_path[image].path,)), Source((by_path[mask].path,)))
        of(image).pairs.append(pair)
    for image in images_left:
        of(image).unmasked.append(without_mask(stem(image), (by_path[image].path,)))
    for mask in masks_left:
        of(mask).left.append(f"mask without an image: {by_path[mask].path}")
    if not found["train"].pairs:
        raise UserError(f"--pair '{text}' pairs no files to train on, only some of val or test: let it fit more")
    meant.update(images_left)
    return found, not_used(file for name, file in by_path.items() if name not in meant)


def _by_name(files: list[File]) -> dict[str, Path]:
    """Files by name. Raises UserError if two have the same name."""
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


def _extension(path: Path) -> str:
    """As it is written."""
    return path.name[len(without_extension(path.name)) :]


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def not_used(files: Iterable[File]) -> list[str]:
    """A note for each folder of unused files."""
    folders = Counter(file.path.parent for file in files)
    return [f"{folder} is not used: {counted(count, 'image file')}" for folder, count in folders.items()]
