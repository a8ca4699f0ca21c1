"""The --input of a prediction: its files, the images in them, and the output folder of their masks."""

from __future__ import annotations

import codecs
import glob
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from unet_cli.config.data import Preprocessing
from unet_cli.config.prediction import PredictConfig
from unet_cli.data.folder.channels import merge_channels, nnunet_name
from unet_cli.data.folder.layout import masks_among
from unet_cli.data.folder.passed_over import describe
from unet_cli.data.folder.volume_folders import volume_of
from unet_cli.data.folder.walk import natural, stem, walk
from unet_cli.data.formats import (
    DICOM_EXTENSIONS,
    EXTENSIONS,
    STACK_EXTENSIONS,
    VOLUME_EXTENSIONS,
    count_pages,
    extension_of,
    is_volume_file,
    lacking_packages,
    without_extension,
)
from unet_cli.data.formats.geo import is_world_file
from unet_cli.data.imagefile import is_image_file
from unet_cli.data.source import CHANNEL_WORDS, Source
from unet_cli.data.spacing import in_space
from unet_cli.data.writing import is_ours
from unet_cli.errors import UserError
from unet_cli.system.console import counted

MASKS = "_masks"  # at the end of the default output
NO_VOLUME = (
    "is an image, and these weights predict volumes: give files of NIfTI, TIFF or .npy, or folders of DICOM slices"
)


def paged(name: str, page: int, pages: int) -> str:
    """The name of a page of a stack: stack_01 for page 0 of 20."""
    return f"{name}_{page + 1:0{len(str(pages))}d}"


def find_files(
    config: PredictConfig,
    listed: Iterable[str],
    training: Mapping[str, Any],
    unread: list[UserError],
    notes: list[str],
) -> tuple[list[Path], Path | None, Path]:
    """The files of the input, the folder that is mirrored in the output, if any, and the output folder. unread: list to
    which errors of unreadable folders are added; notes: list to which notes on skipped files are added."""
    input, output = config.input, config.output
    path, base = Path(input), None
    if input == "-":
        images = [Path(line) for line in listed if line.strip()]
        output = _required(output, "a list of paths")
    elif path.is_dir():
        others: list[Path] = []
        images, base = list(walk(path, unread, others)), path
        output = output or _ours(output_beside(path))
        masks = real_path(output)
        if masks != real_path(path):  # the output of an earlier call within the input folder is no input
            images = [image for image in images if not real_path(image).is_relative_to(masks)]
        masks_found = masks_among(path, images, training)
        images = [image for image in images if image not in masks_found]
        if masks_found:
            shown = f"{counted(len(masks_found), 'mask')} in {input}, known from training, such as {min(masks_found)}"
            notes.append(f"left out: {shown}; to predict them, give their folder or a glob as --input")
        if training.get("volume_folders"):
            predicted = dict.fromkeys(image for image in images if _is_output(image))
            images = [image for image in images if image not in predicted]
            if predicted:
                shown = f"{counted(len(predicted), 'mask')} beside the folders of their slices"
                notes.append(f"left out: {shown}, such as {next(iter(predicted))}")
        notes += describe(file for file in others if not is_world_file(file))
    elif path.is_file():
        images = [path]
        output = output or _ours(output_beside(path.parent))
    elif glob.has_magic(input):
        matching = [Path(name) for name in sorted(glob.glob(input, recursive=True))]
        images = [file for file in matching if is_image_file(file)]
        notes += describe(
            file for file in matching if not (is_image_file(file) or is_world_file(file) or file.is_dir())
        )
        output = _required(output, "a glob")
    else:
        raise UserError(f"{input} does not exist: give an image, a folder, a quoted glob or - as --input")
    if not images:
        raise unread[0] if unread else UserError("\n".join([_nothing(input), *notes]))
    notes += lacking_packages(images)
    if extension_of(output) in EXTENSIONS and not output.is_dir():
        raise UserError(f"--output {output} looks like a file: give the output folder for the masks")
    return images, base, output


def _is_output(image: Path) -> bool:
    """Whether this is a mask in the default output of a folder of slices."""
    folder = image.parent
    of = folder.name.removesuffix(MASKS)
    return of not in ("", folder.name) and folder.with_name(of).is_dir() and is_ours(image)


def real_path(path: Path) -> Path:
    """The path with links resolved; a link to itself stays as it is."""
    return Path(os.path.realpath(path))


def _nothing(input: str) -> str:
    """The message where the input has no images."""
    if input == "-":
        return "no paths came in on stdin: pipe a list of images, one per line"
    others = sorted(path.name for path in Path(input).iterdir()) if Path(input).is_dir() else []
    what = f"{counted(len(others), 'other entry').replace('entrys', 'entries')}, such as {others[0]}" if others else ""
    return f"{input} holds no images" + (
        f", but {what}: see README.md for what can be read" if what else ": it is empty"
    )


class Found(NamedTuple):
    """An image of the input. name: of its outputs, a path without extension. pages: of a stack whose masks go to one
    file, or the slices of a volume. error: why it can't be read, if known already."""

    source: Source
    name: Path
    pages: int = 1
    error: UserError | None = None


def sources_in(
    files: list[Path], preprocessing: Preprocessing, suffix: Callable[[Source], str], training: Mapping[str, Any]
) -> Iterator[Found]:
    """Each image in the files: a stack is one image where its masks go to one file by their suffix, else each page is
    one; a volume has its slices as pages, also for a network that sees each of them on its own. training: of the
    checkpoint, which says how volumes were read."""
    if preprocessing.is_volumetric:
        yield from volumes_in(files, preprocessing, training)
        return
    for name, paths in _merged(files, preprocessing, training):
        pages = _pages(paths[0]) if preprocessing.pages != "channels" else 1
        source = Source(paths, is_volume=preprocessing.pages == "images" and is_volume_file(paths[0]))
        if pages == 1 or suffix(source) != "png":
            yield Found(source, name, pages)
        else:
            for page in range(pages):
                yield Found(replace(source, page=page), name.with_name(paged(name.name, page, pages)))


def volumes_in(files: list[Path], preprocessing: Preprocessing, training: Mapping[str, Any]) -> Iterator[Found]:
    """Each volume in the files: a file, the files of its channels, or a folder of slices."""
    in_folders = bool(training.get("volume_folders"))
    slices = {path for path in files if is_slice(path, in_folders)}
    folders: defaultdict[Path, list[Path]] = defaultdict(list)
    for path in sorted(slices, key=lambda path: natural(path.name)):
        folders[path.parent].append(path)
    for folder, in_folder in folders.items():
        yield _of_slices(folder, tuple(in_folder))
    for name, paths in _merged([path for path in files if path not in slices], preprocessing, training):
        source = Source(paths, is_volume=True)
        error = None if extension_of(source.path) in STACK_EXTENSIONS else UserError(f"{source} {NO_VOLUME}")
        yield Found(source, name, _pages(source.path), error)


def is_slice(path: Path, in_folders: bool) -> bool:
    """Whether a file is a slice of a volume. in_folders: whether the weights were trained on folders of slices, of any
    type with one page."""
    if extension_of(path) in DICOM_EXTENSIONS:
        return True
    return in_folders and not is_volume_file(path) and _pages(path) == 1


def _of_slices(folder: Path, paths: tuple[Path, ...]) -> Found:
    if len(paths) == 1:
        error = UserError(f"{paths[0]} is one slice, and these weights predict volumes: give the folder of all slices")
        return Found(Source(paths, is_volume=True), folder / stem(paths[0].name), error=error)
    try:
        source = volume_of(paths)
        geometry = in_space(source) if source.turn else None
        return Found(source, folder, geometry.shape[0] if geometry else len(paths))
    except UserError as error:
        return Found(Source(paths, is_volume=True), folder, len(paths), error)


def _merged(
    files: list[Path], preprocessing: Preprocessing, training: Mapping[str, Any]
) -> list[tuple[Path, tuple[Path, ...]]]:
    """The name and the files of each image. A case of nnU-Net with one channel has its name without _0000."""
    if preprocessing.files > 1:
        return merge_channels(files, training.get(CHANNEL_WORDS) or ())
    return [(_alone(file) if preprocessing.is_volumetric else without_extension(file), (file,)) for file in files]


def _alone(file: Path) -> Path:
    name = without_extension(file)
    case = nnunet_name(name.name)
    has_more = any(file.with_name(f"{case}_0001{extension}").exists() for extension in VOLUME_EXTENSIONS)
    return name.with_name(case) if is_volume_file(file) and not has_more else name


def _pages(path: Path) -> int:
    """Number of pages; 1 for a bad file, which is reported when it is read, so that the others are still predicted."""
    try:
        return count_pages(path)
    except UserError:
        return 1


def listed_paths(content: bytes) -> list[str]:
    """The paths in a list: one per line, or separated by NUL as `find -print0` writes them; encoded as a byte order
    mark says, else as file names are on this system."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        content = content.decode("utf-16", errors="replace").encode()
    text = os.fsdecode(content.removeprefix(codecs.BOM_UTF8))
    return text.split("\0") if "\0" in text else [line.rstrip("\r") for line in text.split("\n")]


def output_beside(folder: Path) -> Path:
    """FOLDER_masks beside FOLDER, as a relative path where FOLDER is one, except for '.' and '..'."""
    named = folder if folder.name not in ("", "..") else folder.resolve()
    return named.with_name(named.name + MASKS)


def _ours(folder: Path) -> Path:
    """The default output folder. Raises UserError where it holds files that unet did not write."""
    other = next((path for path in walk(folder) if not is_ours(path)), None) if folder.is_dir() else None
    if other is not None:
        raise UserError(f"{folder} holds files that unet did not write, such as {other}: choose an --output")
    return folder


def _required(output: Path | None, what: str) -> Path:
    if output is None:
        raise UserError(f"--input is {what}: give a folder for the masks with --output DIR")
    return output
