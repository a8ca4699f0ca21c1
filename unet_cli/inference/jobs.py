"""What a prediction is asked to do, image by image, and what became of it."""

from __future__ import annotations

import codecs
import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from unet_cli.config import PredictConfig, Preprocessing
from unet_cli.console import counted
from unet_cli.data.formats import SLIDE_EXTENSIONS, count_pages, lacking_packages
from unet_cli.data.imagefile import EXTENSIONS, TIFF_EXTENSIONS, is_image_file, is_ours
from unet_cli.data.layout import masks_among, merge_channels
from unet_cli.data.passed_over import describe
from unet_cli.data.roles import walk
from unet_cli.data.source import Source
from unet_cli.errors import UserError, explain
from unet_cli.files import sweep
from unet_cli.processes import this_process

OVERLAY = "overlay.png"  # whatever the mask's type
EXTRA_NAME = re.compile(
    r"(?P<stem>.+)_((?P<overlay>overlay\.png)|(instances|probability(_\d+)?|attention_\d+)(?P<suffix>\.png|\.tif))"
)


@dataclass(frozen=True)
class Job:
    """One image, the mask to write for it, and what else is to be written beside the mask: NAME_<extra>."""

    image: Source
    mask: Path
    extras: tuple[str, ...] = ()

    @property
    def outputs(self) -> list[Path]:
        """Every file that is to be written."""
        return [self.mask, *(self.beside(extra) for extra in self.extras)]

    def beside(self, extra: str) -> Path:
        """The file for an extra: of the mask's type, but an overlay is always a PNG."""
        return self.mask.with_name(f"{self.mask.stem}_{extra}{'.png' if extra == 'overlay' else self.mask.suffix}")


@dataclass(frozen=True)
class Outcome:
    """What became of one image: its size and the share of each class in its mask, or the error.

    note: a conversion that was made. top_probability: of the foreground pixel that was surest before calibration, its
    calibrated probability.
    """

    job: Job
    error: str | None = None
    note: str | None = None
    width: int = 0
    height: int = 0
    shares: tuple[float, ...] = ()
    top_probability: float = 0.0
    seconds: float = 0.0

    def plain(self, names: tuple[str, ...]) -> dict[str, Any]:
        """As a line of --json. names: of the classes."""
        if self.error is not None:
            return {"input": str(self.job.image), "error": self.error}
        return {
            "input": str(self.job.image),
            "output": str(self.job.mask),
            "size": [self.width, self.height],
            "classes": {name: round(share, 6) for name, share in zip(names, self.shares, strict=True)},
            "highest_probability": round(self.top_probability, 6),
            "note": self.note,
            "seconds": round(self.seconds, 4),
        }


def failed(job: Job, error: UserError) -> Outcome:
    """A job's failure; files of an earlier run are removed, since they would pass for this run's result."""
    text = str(error)
    for path in job.outputs:
        try:
            path.unlink(missing_ok=True)
        except OSError as removal:
            text += f" (and the old {path} could not be removed: {removal.strerror})"
    is_named = text.startswith(f"{job.mask.parent}:") or any(path.name in text for path in job.outputs)
    return Outcome(job, error=text if is_named else str(job.image.named(UserError(text))))


class FoundJobs(NamedTuple):
    """unread: why folders in the input could not be looked into. notes: what in it is not predicted."""

    jobs: list[Job]
    output: Path
    unread: list[UserError]
    notes: list[str]


def find_jobs(
    config: PredictConfig,
    mode: str,
    extras: tuple[str, ...],
    listed: Iterable[str],
    preprocessing: Preprocessing,
    training: Mapping[str, Any] = MappingProxyType({}),
) -> FoundJobs:
    """The images that `config.input` names, with the files to write for each, and the output folder. Masks in an input
    folder are no images; training: of the checkpoint, which knows them.

    The input is a file, a folder (its sub-folders are mirrored in the output), a glob, or '-' for the paths in
    `listed`. Files are put together, and taken apart into pages, as they were for training. mode: 'resize' or 'tile'.
    Raises UserError where nothing is found, an output folder is needed, two images would write the same file, or one
    would be written over an input or any other file that isn't ours.
    """
    unread: list[UserError] = []
    notes: list[str] = []
    images, base, output = _files(config, listed, training, unread, notes)
    images = list(dict.fromkeys(images))
    inputs = {_real(image) for image in images}
    jobs: list[Job] = []
    writers: dict[Path, Source] = {}
    for image, place in _sources(images, preprocessing):
        place = place.relative_to(base) if base else Path(place.name)
        in_tiff = mode == "tile" and image.path.suffix.lower() in SLIDE_EXTENSIONS.union(TIFF_EXTENSIONS)
        suffix = config.format or ("tif" if in_tiff else "png")
        job = Job(image, output / f"{place}.{suffix}", extras)
        for path in job.outputs:
            if _real(path) in inputs:
                raise UserError(
                    f"what is predicted for {image} would be written over the image {path}: choose another --output"
                )
            if os.path.exists(path) and not is_ours(path):
                raise UserError(f"{path} is there already and was not written by unet: choose another --output")
            if path in writers:
                raise UserError(
                    f"{writers[path]} and {image} would both write {path}: predict them one after the other, "
                    f"with an --input such as '*{image.path.suffix}', into different --output folders"
                )
            writers[path] = image
        jobs.append(job)
    return FoundJobs(jobs, output, unread, notes)


def share_of(jobs: list[Job], shard: tuple[int, int] | None) -> list[Job]:
    """The jobs of this call: of `shard` (number from 1, count), and in it of this process where torchrun started
    several. All calls together have each job once."""
    for number, count in (shard or (1, 1), this_process()):
        jobs = jobs[number - 1 :: count]
    return jobs


def clear(jobs: Iterable[Job], everything: Iterable[Job]) -> None:
    """Remove what earlier calls left for these jobs, of `everything`: masks, which could pass for those of this call
    where it is stopped; extras that belong to them, asked for or not; and what was half written. Raises UserError."""
    outputs = {path for job in jobs for path in job.outputs}
    stems = {(job.mask.with_suffix(""), suffix) for job in jobs for suffix in (job.mask.suffix, OVERLAY)}
    masks = {job.mask for job in everything}
    for folder in {stem.parent for stem, _ in stems}:
        sweep(folder)
        for path in folder.iterdir() if folder.is_dir() else ():
            found = EXTRA_NAME.fullmatch(path.name)
            belongs = found and (folder / found["stem"], found["overlay"] or found["suffix"]) in stems
            if path in outputs or (belongs and path not in masks and is_ours(path)):
                try:
                    path.unlink()
                except OSError as error:
                    raise explain(error, path) from error


def is_done(job: Job) -> bool:
    """Whether everything that is to be written for it is there; each file was written whole."""
    return all(os.path.exists(path) for path in job.outputs)


def _files(
    config: PredictConfig,
    listed: Iterable[str],
    training: Mapping[str, Any],
    unread: list[UserError],
    notes: list[str],
) -> tuple[list[Path], Path | None, Path]:
    """The files of the input, the folder that is mirrored in the output, if any, and the output folder. unread: is told
    of folders that can't be looked into, notes of what is passed over."""
    input, output = config.input, config.output
    path, base = Path(input), None
    if input == "-":
        images = [Path(line) for line in listed if line.strip()]
        output = _required(output, "a list of paths")
    elif path.is_dir():
        others: list[Path] = []
        images, base = list(walk(path, unread, others)), path
        output = output or _ours(masks_beside(path))
        masks = _real(output)
        if masks != _real(path):  # masks of an earlier job in a folder below are not input
            images = [image for image in images if not _real(image).is_relative_to(masks)]
        given = masks_among(path, images, training)
        images = [image for image in images if image not in given]
        if given:
            shown = f"{counted(len(given), 'mask')} in {input}, as training knows them, such as {min(given)}"
            notes.append(f"left out: {shown}; to predict them, give their folder or a glob as --input")
        notes += describe(others)
    elif path.is_file():
        images = [path]
        output = output or _ours(masks_beside(path.parent))
    elif glob.has_magic(input):
        matching = [Path(found) for found in sorted(glob.glob(input, recursive=True))]
        images = [found for found in matching if is_image_file(found)]
        notes += describe(found for found in matching if not is_image_file(found) and not found.is_dir())
        output = _required(output, "a glob")
    else:
        raise UserError(f"{input} does not exist: give an image, a folder, a quoted glob or - as --input")
    if not images:
        raise unread[0] if unread else UserError("\n".join([_nothing(input), *notes]))
    notes += lacking_packages(images)
    if output.suffix.lower() in EXTENSIONS and not output.is_dir():
        raise UserError(f"--output {output} looks like a file: give the folder that masks shall go to")
    return images, base, output


def _real(path: Path) -> Path:
    """Where links lead; a link to itself, to itself."""
    return Path(os.path.realpath(path))


def _nothing(input: str) -> str:
    """Why there are no images."""
    if input == "-":
        return "no paths came in on stdin: pipe a list of images, one a line"
    others = sorted(path.name for path in Path(input).iterdir()) if Path(input).is_dir() else []
    what = f"{counted(len(others), 'other entry').replace('entrys', 'entries')}, such as {others[0]}" if others else ""
    return f"{input} holds no images" + (
        f", but {what}: see README.md for what can be read" if what else ": it is empty"
    )


def _sources(files: list[Path], preprocessing: Preprocessing) -> Iterator[tuple[Source, Path]]:
    """Each image that the files hold, and what to call it: its path without extension."""
    merged = merge_channels(files) if preprocessing.files > 1 else [(file.with_suffix(""), (file,)) for file in files]
    for place, paths in merged:
        try:
            pages = count_pages(paths[0]) if preprocessing.pages == "images" else 1
        except UserError:  # reading it will tell why, and the others go on
            pages = 1
        if pages == 1:
            yield Source(paths), place
        else:
            digits = len(str(pages))
            yield from (
                (Source(paths, page), place.with_name(f"{place.name}_{page + 1:0{digits}d}")) for page in range(pages)
            )


def listed_paths(content: bytes) -> list[str]:
    """The paths of a list: one a line, or with NUL between them as `find -print0` writes them; a byte order mark says
    how they are encoded, else they are as the system has them."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        content = content.decode("utf-16", errors="replace").encode()
    text = os.fsdecode(content.removeprefix(codecs.BOM_UTF8))
    return text.split("\0") if "\0" in text else [line.rstrip("\r") for line in text.split("\n")]


def masks_beside(folder: Path) -> Path:
    """FOLDER_masks beside FOLDER, written as the folder was, unless that was '.' or the like."""
    named = folder if folder.name not in ("", "..") else folder.resolve()
    return named.with_name(named.name + "_masks")


def _ours(folder: Path) -> Path:
    """A folder that nobody asked for is written to only where it holds nothing of the user's. Raises UserError."""
    found = next((path for path in walk(folder) if not is_ours(path)), None) if folder.is_dir() else None
    if found is not None:
        raise UserError(f"{folder} holds files that unet did not write, such as {found}: choose an --output")
    return folder


def extras_of(config: PredictConfig, num_classes: int, gates: int) -> tuple[str, ...]:
    """What is written beside each mask: an overlay, a probability map (of each class, where there are several), a map
    of each attention gate, and numbered objects."""
    maps = ("probability",) if num_classes == 2 else tuple(f"probability_{index}" for index in range(num_classes))
    attention = tuple(f"attention_{gate + 1}" for gate in range(gates))
    extras = ("overlay",) * config.overlay + maps * config.probabilities + attention
    return extras + ("instances",) * config.numbers_objects


def _required(output: Path | None, what: str) -> Path:
    if output is None:
        raise UserError(f"--input is {what}: say with --output DIR where the masks shall go")
    return output
