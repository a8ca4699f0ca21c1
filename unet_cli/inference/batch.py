"""Folder -> masks: reading, computing and writing overlap; one bad file never stops the rest."""

from __future__ import annotations

import glob
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from unet_cli.ahead import ahead
from unet_cli.config import PredictConfig, Preprocessing
from unet_cli.data.formats import count_pages
from unet_cli.data.imagefile import EXTENSIONS, is_image_file, is_ours, read_stack, write_mask, write_png
from unet_cli.data.layout import merge_channels
from unet_cli.data.pictures import outlined
from unet_cli.data.roles import walk
from unet_cli.data.source import Source
from unet_cli.errors import UserError
from unet_cli.files import make_folder
from unet_cli.inference.predictor import Predictor, at_size, to_classes


@dataclass(frozen=True)
class Job:
    """One image, the mask to write for it, and what else is to be written beside the mask: NAME_<extra>.png."""

    image: Source
    mask: Path
    extras: tuple[str, ...] = ()

    @property
    def outputs(self) -> list[Path]:
        """Every file that is to be written."""
        return [self.mask, *(self.beside(extra) for extra in self.extras)]

    def beside(self, extra: str) -> Path:
        return self.mask.with_name(f"{self.mask.stem}_{extra}.png")


@dataclass(frozen=True)
class Outcome:
    """What became of one image: its size and the share of each class in its mask, or the error.

    note: a conversion that was made. top_probability: the highest probability of any foreground pixel.
    """

    job: Job
    error: str | None = None
    note: str | None = None
    width: int = 0
    height: int = 0
    shares: tuple[float, ...] = ()
    top_probability: float = 0.0
    seconds: float = 0.0

    def plain(self) -> dict[str, Any]:
        """As a line of --json."""
        if self.error is not None:
            return {"input": str(self.job.image), "error": self.error}
        return {
            "input": str(self.job.image),
            "output": str(self.job.mask),
            "width": self.width,
            "height": self.height,
            "class_shares": [round(share, 6) for share in self.shares],
            "highest_probability": round(self.top_probability, 6),
            "note": self.note,
            "seconds": round(self.seconds, 4),
        }


@dataclass(frozen=True)
class _Ready:
    """An image on its way: decoded, resized, and after the network its probabilities (K, S, S)."""

    job: Job
    pixels: np.ndarray
    prepared: Tensor
    note: str | None
    started: float
    probs: Tensor | None = None


def find_jobs(
    input: str, output: Path | None, extras: tuple[str, ...], listed: Iterable[str], preprocessing: Preprocessing
) -> tuple[list[Job], Path]:
    """The images that `input` names with the files to write for each, and the output folder that these are in.

    input: a file, a folder (its sub-folders are mirrored in the output), a glob, or '-' for the paths in `listed`.
    Files are put together, and taken apart into pages, as they were for training.
    extras: see Job. Raises UserError where nothing is found, an output folder is needed, two images would write the
    same file, or one would be written over an input or any other file that isn't ours.
    """
    path = Path(input)
    if input == "-":
        images, base = [Path(line.rstrip("\r\n")) for line in listed if line.strip()], None
        output = _required(output, "a list of paths")
    elif path.is_dir():
        images, base = list(walk(path)), path
        output = output or _ours(masks_beside(path))
        masks = output.resolve()
        if masks != path.resolve():  # masks of an earlier job in a folder below are not input
            images = [image for image in images if not image.resolve().is_relative_to(masks)]
    elif path.is_file():
        images, base = [path], None
        output = output or _ours(masks_beside(path.parent))
    elif glob.has_magic(input):
        images = [Path(found) for found in sorted(glob.glob(input, recursive=True)) if is_image_file(Path(found))]
        base, output = None, _required(output, "a glob")
    else:
        raise UserError(f"{input} does not exist: give an image, a folder, a quoted glob or - as --input")
    if not images:
        known = ", ".join(sorted(extension[1:] for extension in EXTENSIONS))
        raise UserError(f"{input} holds no images that could be read ({known})")

    images = list(dict.fromkeys(images))
    inputs = {image.resolve() for image in images}
    jobs: list[Job] = []
    writers: dict[Path, Source] = {}
    for image, place in _sources(images, preprocessing):
        place = place.relative_to(base) if base else Path(place.name)
        job = Job(image, output / f"{place}.png", extras)
        for path in job.outputs:
            if path.resolve() in inputs:
                raise UserError(
                    f"what is predicted for {image} would be written over the image {path}: choose another --output"
                )
            if path.exists() and not is_ours(path):
                raise UserError(f"{path} is there already and was not written by unet: choose another --output")
            if path in writers:
                raise UserError(
                    f"{writers[path]} and {image} would both write {path}: predict them into different --output folders"
                )
            writers[path] = image
        jobs.append(job)
    return jobs, output


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


def extras_of(config: PredictConfig, num_classes: int) -> tuple[str, ...]:
    """What is written beside each mask: an overlay, and a probability map (of each class, where there are several)."""
    maps = ("probability",) if num_classes == 2 else tuple(f"probability_{index}" for index in range(num_classes))
    return ("overlay",) * config.overlay + maps * config.probabilities


def predict_all(
    predictor: Predictor, jobs: Iterable[Job], threshold: float, batch_size: int, workers: int | None
) -> Iterator[Outcome]:
    """Write the masks, and yield what became of each image, in the order of the jobs.

    Images are read ahead in threads, go through the network `batch_size` at a time, and are written in threads while
    the network computes the next ones. A job that fails leaves no mask, not even one of an earlier run.
    """
    ready = ahead(partial(_read, predictor), jobs, workers)
    predicted = _through_network(predictor, ready, batch_size)
    return ahead(partial(_write, predictor, threshold), predicted, workers)


def _read(predictor: Predictor, job: Job) -> _Ready | Outcome:
    started = time.perf_counter()
    try:
        stack, notes = read_stack(job.image, predictor.checkpoint.preprocessing.keep_alpha)
        pixels = stack.reshape(-1, *stack.shape[2:])
        prepared, note = predictor.prepare(pixels)
        note = "; ".join([*notes, *([note] if note else [])]) or None
    except UserError as error:
        return _failed(job, error)
    return _Ready(job, pixels, prepared, note, started)


def _through_network(
    predictor: Predictor, items: Iterable[_Ready | Outcome], batch_size: int
) -> Iterator[_Ready | Outcome]:
    """Fill batches across files, keeping the order; failures pass through."""
    waiting: list[_Ready | Outcome] = []
    for item in items:
        waiting.append(item)
        if sum(isinstance(one, _Ready) for one in waiting) == batch_size:
            yield from _compute(predictor, waiting, batch_size)
            waiting = []
    yield from _compute(predictor, waiting, batch_size)


def _compute(predictor: Predictor, items: list[_Ready | Outcome], batch_size: int) -> Iterator[_Ready | Outcome]:
    ready = [item for item in items if isinstance(item, _Ready)]
    probs = iter(predictor.probabilities([item.prepared for item in ready], batch_size) if ready else ())
    for item in items:
        if isinstance(item, _Ready):
            yield _Ready(item.job, item.pixels, item.prepared, item.note, item.started, next(probs))
        else:
            yield item


def _write(predictor: Predictor, threshold: float, item: _Ready | Outcome) -> Outcome:
    """Bring the probabilities to the original size, threshold, write."""
    if isinstance(item, Outcome):
        return item
    assert item.probs is not None
    labels = predictor.checkpoint.labels
    probs = at_size(item.probs, item.pixels.shape[1:])
    pred = to_classes(probs, threshold)
    try:
        make_folder(item.job.mask.parent)
        planes = iter(probs)
        for extra in item.job.extras:
            overlay = extra == "overlay"
            picture = outlined(item.pixels, pred, labels.num_classes) if overlay else sixteen_bit(next(planes))
            write_png(item.job.beside(extra), picture)
        write_mask(item.job.mask, labels.decode(pred), labels.written_palette)
    except UserError as error:
        return _failed(item.job, error)
    foreground = probs if probs.shape[0] == 1 else probs[1:]
    shares = np.bincount(pred.ravel(), minlength=labels.num_classes) / pred.size
    return Outcome(
        job=item.job,
        note=item.note,
        width=pred.shape[1],
        height=pred.shape[0],
        shares=tuple(float(share) for share in shares),
        top_probability=float(foreground.max()),
        seconds=time.perf_counter() - item.started,
    )


def _failed(job: Job, error: UserError) -> Outcome:
    """A job's failure; files of an earlier run are removed, since they would pass for this run's result."""
    text = str(error)
    for path in job.outputs:
        try:
            path.unlink(missing_ok=True)
        except OSError as removal:
            text += f" (and the old {path} could not be removed: {removal.strerror})"
    return Outcome(job, error=text if str(job.mask.parent) in text else str(job.image.named(UserError(text))))


def sixteen_bit(probs: Tensor) -> Image.Image:
    """(H, W) probabilities -> 16-bit gray, 65535 being 1."""
    return Image.fromarray((probs.numpy() * 65535 + 0.5).astype(np.uint16))


def _required(output: Path | None, what: str) -> Path:
    if output is None:
        raise UserError(f"--input is {what}: say with --output DIR where the masks shall go")
    return output
