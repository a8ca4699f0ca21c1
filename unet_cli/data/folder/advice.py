"""Error messages for folders whose layout is not recognized, each with a way out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from unet_cli.data.folder.pairing import SeveralRules
from unet_cli.data.folder.passed_over import annotation_lines, describe
from unet_cli.data.folder.path_rules import option_for
from unet_cli.data.folder.roles import File, meaning
from unet_cli.data.folder.volume_folders import paired_folders
from unet_cli.data.folder.walk import known_extensions, walk
from unet_cli.data.formats import extension_of
from unet_cli.errors import UserError

MAX_CHOICES = 8  # rules shown if several fit


def no_layout(folder: Path, root: Path, others: Sequence[Path]) -> str:
    """The message for a folder without recognizable images and masks."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    found = annotation_lines([path for path in others if path.is_relative_to(folder)])
    if not found:
        for entry in entries:
            if entry.is_dir() and meaning(entry.name)[0] and next(walk(entry), None) is None:
                inside = describe(path for path in others if path.is_relative_to(entry))
                return "\n".join([f"{entry} holds no images: put {known_extensions()} files there", *inside])
    content = [entry.name + "/" * entry.is_dir() for entry in entries]
    shown = "nothing" if not content else ", ".join(content[:8]) + (", ..." if len(content) > 8 else "")
    lines = [f"{folder} has no images folder beside a masks folder; it holds {shown}."]
    lines += describe(path for path in others if path.is_relative_to(folder))
    if above := _sets_above(root):
        return "\n".join([*lines, *above])
    lines.append(
        f"Put the images into {folder / 'images'} and the masks, under the same names, into {folder / 'masks'}; "
        "give such a pair in train, val and test folders; or say where they are with --images and --masks."
    )
    return "\n".join(lines)


def types_choice(root: Path, twins: Sequence[tuple[Path, Path]]) -> str:
    """The question for files that differ only in their type, neither of which is typical of photographs: which are the
    masks?"""
    (first, second), count = twins[0], len(twins)
    ends = [path.name[-len(extension_of(path)) :] for path in (first, second)]
    return "\n".join(
        [f"{root} holds {ends[0]} and {ends[1]} files of the same names ({count}): which are the images?"]
        + [f"  --pair '{{id}}{image}={{id}}{mask}'" for image, mask in (ends, ends[::-1])]
        + ["Choose one of these, or put each type into a folder of its own"]
    )


def _sets_above(root: Path) -> list[str]:
    """The hint for a folder of images alone: the parent folder, if it contains a folder of masks."""
    path = Path(os.path.abspath(root))
    for folder in (path, path.parent):
        try:
            with os.scandir(folder.parent) as listing:
                names = sorted(entry.name for entry in listing if entry.is_dir() and entry.name != folder.name)
        except OSError:
            return []
        beside = [name for name in names if meaning(name)[0] == "masks" and meaning(name)[2]]
        if beside and meaning(folder.name)[2] and meaning(folder.name)[0] != "masks":
            return [f"{folder.parent} holds {beside[0]} beside {folder.name}: did you mean --data {folder.parent}?"]
    return []


def choose(root: Path, error: SeveralRules, images: list[File], masks: list[File], inside: Sequence[Path]) -> str:
    """Each rule as an option to paste, with an example."""
    by_image, by_mask = ({file.name: file.path for file in side} for side in (images, masks))
    by_option = {}
    for rule, pairs in error.choices[:MAX_CHOICES]:
        image, mask = pairs[0]
        option = option_for(root, [(by_image[a], by_mask[b]) for a, b in pairs], inside)
        flags = f"--data {root} " if any(file.is_given for file in images + masks) else ""
        by_option[flags + option if option else rule.describe()] = f"{image} with {mask}"
    lines = [f"  {option}: {example}" for option, example in sorted(by_option.items())]
    count = len(error.choices[0][1])
    return "\n".join(
        [f"{root}: {_number(len(error.choices))} rules pair {count} names each, with different partners:", *lines]
        + ["Choose one of these, or give the folder as --masks FOLDER"]
        + _as_volumes(images, masks)
    )


def _as_volumes(images: Sequence[File], masks: Sequence[File]) -> list[str]:
    """The hint for images that all pair as volumes in folders."""
    with suppress(UserError):
        found = paired_folders(images, masks)
        if found.pairs and not found.left and not found.unmasked:
            return ["If each folder of images holds the slices of one volume, say so with --volume-folders"]
    return []


def _number(count: int) -> str:
    return {2: "two", 3: "three", 4: "four"}.get(count, str(count))
