"""Volumes whose slices are files, a folder for each volume: series of DICOM, or images numbered by their names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from unet_cli.data.folder.pairing import find_rule
from unet_cli.data.folder.roles import File
from unet_cli.data.folder.several import Paired, result
from unet_cli.data.folder.walk import stem, walk
from unet_cli.data.formats import DICOM_EXTENSIONS, extension_of, is_volume_file
from unet_cli.data.formats.dicom_series import in_order, turn_of
from unet_cli.data.source import Source, Turn
from unet_cli.errors import UserError

SUFFIX = "_masks"  # of the folder that `unet predict` writes beside one with slices


def paired_folders(images: Sequence[File], masks: Sequence[File]) -> Paired:
    """Pair each folder of images with a folder of as many masks, or with one file that is a volume. The slices are in
    the order of their positions in a DICOM series, else in that of their names. Raises UserError."""
    image_folders, mask_folders = _folders(images), _folders(masks)
    predicted = [
        image_folders.pop(name)
        for name in list(image_folders)
        if name.removesuffix(SUFFIX) in image_folders and name.endswith(SUFFIX)
    ]
    for name, paths in image_folders.items():
        if not name or len(paths) < 2:
            raise UserError(
                f"{paths[0]}: with --volume-folders each folder of images holds the slices of one volume: give every "
                "volume a folder of its own"
            )
    # A file in a folder of many is no volume by itself.
    alone = {file.name: (file.path,) for file in masks if len(mask_folders[_folder(file)]) == 1 or not _folder(file)}
    candidates = {name: paths for name, paths in mask_folders.items() if name and len(paths) > 1} | alone
    found = result(find_rule(list(image_folders), list(candidates)), image_folders, candidates)
    pairs, unmasked, left = [], [], list(found.left)
    for pair, message in found.unmasked:
        try:
            image = volume_of(pair.image.paths)
        except UserError as error:
            left.append(str(error))
            continue
        unmasked.append((replace(pair, image=image, mask=replace(image, is_blank=True)), message))
    for pair in found.pairs:
        try:
            image = volume_of(pair.image.paths)
            slices = _like(image.paths, pair.image.paths, pair.mask.paths)
            mask = replace(pair.mask, paths=slices, turn=_turn_of_mask(slices, image.turn))
        except UserError as error:
            left.append(str(error))
            continue
        pairs.append(replace(pair, image=image, mask=mask))
    files = sum(len(paths) for paths in image_folders.values())
    notes = [f"{paths[0].parent} is not used: it holds masks of the slices beside it" for paths in predicted]
    notes += [*found.notes, f"{files:,} image files in {len(image_folders):,} folders, a volume each"]
    return replace(found, pairs=pairs, unmasked=unmasked, left=left, notes=notes)


def _folder(file: File) -> str:
    return file.name.rpartition("/")[0]


def _folders(files: Sequence[File]) -> dict[str, tuple[Path, ...]]:
    folders: defaultdict[str, list[Path]] = defaultdict(list)
    for file in files:
        folders[_folder(file)].append(file.path)
    return {name: tuple(paths) for name, paths in folders.items()}


def volume_of(paths: tuple[Path, ...]) -> Source:
    """The volume whose slices are these files, in the order of their names: those of a DICOM series are brought into
    the order of their positions, and its axes to those of NIfTI. Raises UserError."""
    if not any(extension_of(path) in DICOM_EXTENSIONS for path in paths):
        return Source(paths, is_volume=True)
    ordered = in_order(paths)
    return Source(ordered, is_volume=True, turn=turn_of(ordered))


def volume_in(folder: Path) -> Source:
    """The volume whose slices are the files of this folder. Raises UserError."""
    paths = tuple(path for path in walk(folder) if path.parent == folder)
    if not paths:
        raise UserError(f"{folder} holds no slices: give a volume, or the folder of its slices")
    return volume_of(paths)


def _turn_of_mask(paths: tuple[Path, ...], of_image: Turn) -> Turn:
    """Files that tell their own place are turned by it, others as their image is. Raises UserError."""
    if is_volume_file(paths[0]):
        return ()
    return turn_of(paths) if extension_of(paths[0]) in DICOM_EXTENSIONS else of_image


def _like(slices: tuple[Path, ...], as_named: tuple[Path, ...], masks: tuple[Path, ...]) -> tuple[Path, ...]:
    """The masks in the order of the slices. as_named: the slices in the order of their names. Raises UserError."""
    if len(masks) == 1:
        return masks
    if any(extension_of(path) in DICOM_EXTENSIONS for path in masks):
        masks = in_order(masks)
    else:
        of_slice = {stem(path.name): path for path in masks}
        if all(stem(path.name) in of_slice for path in slices):
            masks = tuple(of_slice[stem(path.name)] for path in slices)
        elif slices != as_named and len(masks) == len(slices):
            raise UserError(
                f"{masks[0].parent}: it isn't clear which mask belongs to which slice of {slices[0].parent}, whose "
                "names are in another order than their positions: give masks the names of their slices"
            )
    if len(masks) != len(slices):
        raise UserError(
            f"{masks[0].parent} holds {len(masks)} masks but {slices[0].parent} {len(slices)} slices: give each slice "
            "a mask, or leave the volume out with --skip-bad"
        )
    return masks
