"""Which image goes with which mask, from names alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unet_cli.data.imagefile import EXTENSIONS, is_image_file
from unet_cli.errors import UserError, explain

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "inputs", "input")
MASK_FOLDERS = (
    "masks", "mask", "labels", "label", "annotations", "annotation", "gt", "groundtruth", "ground_truth",
    "segmentations", "segmentation", "targets", "target",
)  # fmt: skip
SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class Pair:
    """An image and its mask. `name` is the image's path below its folder, without extension."""

    name: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class Layout:
    """The pairs of a data set by split: 'train', and 'val' and 'test' where they have folders of their own.

    rule: how the names were matched, in words.
    """

    root: Path
    splits: dict[str, list[Pair]]
    rule: str


def find_layout(data: Path) -> Layout:
    """Understand a folder: images beside masks, or train, val and test folders that each hold such a pair of folders.

    Raises UserError where there is no such folder, or any image or mask is without its partner; all are named.
    """
    if not data.exists():
        raise UserError(f"{data} does not exist: give the folder that holds your images and masks as --data")
    if not data.is_dir():
        raise UserError(f"{data} is a file: give the folder that holds your images and masks as --data")
    folders = _split_folders(data)
    if _pair_of_folders(data):
        if folders:
            names = ", ".join(folder.name for folder in folders.values())
            raise UserError(f"{data} holds images and masks folders and also {names}: move one kind elsewhere")
        folders = {"train": data}
    if "train" not in folders:
        raise UserError(_no_layout(data))

    splits, rules = {}, []
    for split, folder in folders.items():
        found = _pair_of_folders(folder)
        if found is None:
            raise UserError(_no_layout(folder))
        splits[split], rule = pair_up(*found)
        rules.append(rule)
    return Layout(data, splits, "; ".join(dict.fromkeys(rules)))


def pair_up(images: Path, masks: Path) -> tuple[list[Pair], str]:
    """Match the files of two folders, sub-folders included, by name, or by name plus one suffix that all masks share.

    Returns the pairs sorted by name, and the rule in words.
    Raises UserError that lists everything left over, on both sides.
    """
    image_files, mask_files = _by_stem(images), _by_stem(masks)
    if not image_files or not mask_files:
        empty = images if not image_files else masks
        raise UserError(f"{empty} holds no images: put {_extensions()} files there")
    suffix = _shared_suffix(image_files, mask_files)
    unmatched_images = [path for stem, path in image_files.items() if stem + suffix not in mask_files]
    expected = {stem + suffix for stem in image_files}
    unmatched_masks = [path for stem, path in mask_files.items() if stem not in expected]
    if unmatched_images or unmatched_masks:
        matched = len(image_files) - len(unmatched_images)
        raise UserError(
            "\n".join(
                [
                    f"{images} and {masks} do not match one to one: "
                    f"by the rule '{_rule(suffix)}', {matched} of {len(image_files)} images have a mask.",
                    *(f"  image without a mask: {path}" for path in unmatched_images),
                    *(f"  mask without an image: {path}" for path in unmatched_masks),
                    "Rename, add or remove these files.",
                ]
            )
        )
    pairs = [Pair(stem, path, mask_files[stem + suffix]) for stem, path in sorted(image_files.items())]
    return pairs, _rule(suffix)


def _rule(suffix: str) -> str:
    return f"mask NAME{suffix} for image NAME" if suffix else "images and masks of the same name"


def _shared_suffix(image_stems: dict[str, Path], mask_stems: dict[str, Path]) -> str:
    """What most masks have behind the name of their image; '' where they have the same name."""
    suffixes: Counter[str] = Counter()
    for stem in mask_stems:
        longest = next((stem[:end] for end in range(len(stem), 0, -1) if stem[:end] in image_stems), None)
        if longest is not None:
            suffixes[stem[len(longest) :]] += 1
    return suffixes.most_common(1)[0][0] if suffixes else ""


def _by_stem(folder: Path) -> dict[str, Path]:
    """The image files below a folder by their path in it without extension. Raises UserError where two are the same."""
    files: dict[str, Path] = {}
    for path in walk(folder):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in files:
            raise UserError(f"{files[stem]} and {path} differ in their extension alone: keep one of them")
        files[stem] = path
    return files


def walk(folder: Path) -> Iterator[Path]:
    """The image files below a folder in a fixed order; hidden files and folders are passed over. Raises UserError."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise explain(error, folder) from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from walk(entry)
        elif is_image_file(entry):
            yield entry


def _pair_of_folders(folder: Path) -> tuple[Path, Path] | None:
    images, masks = _child(folder, IMAGE_FOLDERS), _child(folder, MASK_FOLDERS)
    return (images, masks) if images and masks else None


def _split_folders(data: Path) -> dict[str, Path]:
    found = {split: _child(data, names) for split, names in SPLIT_FOLDERS.items()}
    return {split: folder for split, folder in found.items() if folder}


def _child(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The folder here that has one of the names, in any case. Raises UserError where there are several."""
    found = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and entry.name.lower() in names]
    if len(found) > 1:
        raise UserError(
            f"{folder} holds {' and '.join(entry.name for entry in found)}, which could each be meant: "
            "move or rename all but one"
        )
    return found[0] if found else None


def _no_layout(folder: Path) -> str:
    content = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir() if not entry.name.startswith("."))
    shown = "nothing" if not content else ", ".join(content[:8]) + (", ..." if len(content) > 8 else "")
    return (
        f"{folder} has no images folder beside a masks folder; it holds {shown}.\n"
        f"Put the images into {folder / 'images'} and the masks, under the same names, into {folder / 'masks'}; "
        "or give such a pair in train, val and test folders."
    )


def _extensions() -> str:
    return ", ".join(sorted(extension[1:] for extension in EXTENSIONS))
