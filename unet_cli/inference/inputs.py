"""The --input of a prediction: its files, the images in them, and the output folder of their masks."""

from __future__ import annotations

import codecs
import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from unet_cli.config.data import Preprocessing
from unet_cli.config.prediction import PredictConfig
from unet_cli.data.folder.layout import masks_among
from unet_cli.data.folder.passed_over import describe
from unet_cli.data.folder.several import merge_channels
from unet_cli.data.folder.walk import walk
from unet_cli.data.formats import (
    EXTENSIONS,
    count_pages,
    extension_of,
    is_volume_file,
    lacking_packages,
    without_extension,
)
from unet_cli.data.imagefile import is_image_file
from unet_cli.data.source import Source
from unet_cli.data.writing import is_ours
from unet_cli.errors import UserError
from unet_cli.system.console import counted


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
        notes += describe(others)
    elif path.is_file():
        images = [path]
        output = output or _ours(output_beside(path.parent))
    elif glob.has_magic(input):
        matching = [Path(name) for name in sorted(glob.glob(input, recursive=True))]
        images = [file for file in matching if is_image_file(file)]
        notes += describe(file for file in matching if not is_image_file(file) and not file.is_dir())
        output = _required(output, "a glob")
    else:
        raise UserError(f"{input} does not exist: give an image, a folder, a quoted glob or - as --input")
    if not images:
        raise unread[0] if unread else UserError("\n".join([_nothing(input), *notes]))
    notes += lacking_packages(images)
    if extension_of(output) in EXTENSIONS and not output.is_dir():
        raise UserError(f"--output {output} looks like a file: give the output folder for the masks")
    return images, base, output


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


def sources_in(
    files: list[Path], preprocessing: Preprocessing, suffix: Callable[[Source], str]
) -> Iterator[tuple[Source, Path, int]]:
    """Each image in the files, its output name (a path without extension), and its number of pages: a stack is one
    image where its masks go to one file by their suffix, else each page is one; a volume has its slices as pages, also
    for a network that sees each of them on its own."""
    merged = (
        merge_channels(files) if preprocessing.files > 1 else [(without_extension(file), (file,)) for file in files]
    )
    for name, paths in merged:
        try:
            pages = count_pages(paths[0]) if preprocessing.pages != "channels" else 1
        except UserError:  # reported when the file is read, so that the other files are still predicted
            pages = 1
        is_volume = preprocessing.pages == "images" and is_volume_file(paths[0])
        source = Source(paths, is_volume=is_volume or preprocessing.is_volumetric)
        if preprocessing.is_volumetric or pages == 1 or suffix(source) != "png":
            yield source, name, pages
        else:
            for page in range(pages):
                yield replace(source, page=page), name.with_name(paged(name.name, page, pages)), 1


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
    return named.with_name(named.name + "_masks")


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
