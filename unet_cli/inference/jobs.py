"""Prediction jobs: the files to write for each image, and the outcome."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from unet_cli.config.data import Preprocessing
from unet_cli.config.prediction import PredictConfig
from unet_cli.config.spacing import along_axes, in_mm
from unet_cli.data.class_names import class_files
from unet_cli.data.formats import (
    SLIDE_EXTENSIONS,
    STACK_EXTENSIONS,
    TIFF_EXTENSIONS,
    extension_of,
    is_volume_file,
    without_extension,
)
from unet_cli.data.formats.geo import WORLD_FILES, Affine, is_geotiff, place_of, world_file, world_transform
from unet_cli.data.series import is_series
from unet_cli.data.source import CLASS_FOLDERS, Source
from unet_cli.data.writing import is_ours
from unet_cli.errors import UserError, explain
from unet_cli.inference.inputs import find_files, paged, real_path, sources_in
from unet_cli.inference.records import is_our_record, record_files, stale_records
from unet_cli.system.console import counted
from unet_cli.system.distributed import this_process
from unet_cli.system.files import sweep

OVERLAY = "overlay.png"  # a PNG for every type of mask
EXTRA_NAME = re.compile(
    r"(?P<overlay>overlay\.png)|(classes|(instances|probability)(_.+)?|attention_\d+)(?P<suffix>\.png|\.tif|\.nii|\.nii\.gz)"
)


@dataclass(frozen=True)
class Job:
    """One image, the mask file to write for it, and the extra files beside the mask: NAME_<extra>.

    pages: number of pages of a stack whose masks go to one TIFF, in the order of the image's pages; image is then the
    whole stack. Of a volume, the number of its slices. error: why the image can't be read, if known already. by_class:
    of classes that overlap, the file of each, instead of the mask; extras are named after it all the same. records:
    files on its objects, see records.py. output: the folder of the whole call. world: the transform that is written to
    a world file beside each mask and each extra of its type, where their own tags don't say it.
    """

    image: Source
    mask: Path
    extras: tuple[str, ...] = ()
    pages: int = 1
    error: UserError | None = None
    by_class: tuple[Path, ...] = ()
    records: tuple[Path, ...] = ()
    output: Path = Path()
    world: Affine | None = None

    @property
    def masks(self) -> tuple[Path, ...]:
        """The mask's file, or the files of its classes."""
        return self.by_class or (self.mask,)

    @property
    def outputs(self) -> list[Path]:
        """All files to write."""
        files = [*self.masks, *(self.beside(extra) for extra in self.extras if extra != "overlay")]
        worlds = [world_file(path) for path in files] if self.world is not None else []
        return [*files, *(self.overlays if "overlay" in self.extras else ()), *worlds, *self.records]

    @property
    def name(self) -> str:
        """Of the mask, without extension."""
        return without_extension(self.mask.name)

    def beside(self, extra: str) -> Path:
        """The file of an extra, of the mask's type."""
        return self.mask.with_name(f"{self.name}_{extra}{extension_of(self.mask)}")

    @property
    def overlays(self) -> list[Path]:
        """The files of the overlays, always PNG: one for each page of a stack."""
        return [self.mask.with_name(f"{name}_{OVERLAY}") for name in self.page_names]

    @property
    def page_names(self) -> list[str]:
        """The name of each page of a stack, or the one of any other image."""
        if self.pages == 1 or self.image.is_volume:
            return [self.name]
        return [paged(self.name, page, self.pages) for page in range(self.pages)]

    def page(self, page: int) -> Source:
        """The source of a page of a stack, or of a slice of a volume, counted from 0; of any other image the image
        itself."""
        return self.image if self.pages == 1 else replace(self.image, page=page, is_volume=False)


@dataclass(frozen=True)
class Outcome:
    """The outcome of one image or stack: its size, or that of its pages, and the share of each class in its mask, or
    the error.

    objects: their number, where they are predicted. note: conversions that were made. top_probability: calibrated
    probability of the foreground pixel that had the highest before calibration.
    """

    job: Job
    error: str | None = None
    note: str | None = None
    width: int = 0
    height: int = 0
    shares: tuple[float, ...] = ()
    objects: int | None = None
    top_probability: float = 0.0
    seconds: float = 0.0

    def plain(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Plain values for a line of --json. names: class names."""
        if self.error is not None:
            return {"input": str(self.job.image), "error": self.error}
        return {
            "input": str(self.job.image),
            "output": str(self.job.mask) if not self.job.by_class else list(map(str, self.job.by_class)),
            "size": [self.width, self.height, *([self.job.pages] if self.job.image.is_volume else [])],
            **({"pages": self.job.pages} if self.job.pages > 1 and not self.job.image.is_volume else {}),
            "classes": {name: round(share, 6) for name, share in zip(names, self.shares, strict=True)},
            **({"objects": self.objects} if self.objects is not None else {}),
            "highest_probability": round(self.top_probability, 6),
            "note": self.note,
            "seconds": round(self.seconds, 4),
        }


def failed(job: Job, error: UserError) -> Outcome:
    """The outcome of a failed job. Its files of an earlier call are removed, since they would look like results of this
    one."""
    text = str(error)
    for path in job.outputs:
        try:
            path.unlink(missing_ok=True)
        except OSError as removal:
            text += f" (and the old {path} could not be removed: {removal.strerror})"
    is_named = text.startswith(f"{job.mask.parent}:") or any(path.name in text for path in job.outputs)
    return Outcome(job, error=text if is_named else str(job.image.named(UserError(text))))


class FoundJobs(NamedTuple):
    """The jobs and the output folder. unread: errors of unreadable folders in the input. notes: what is not
    predicted."""

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
    overlapping: Sequence[str] = (),
) -> FoundJobs:
    """The images of `config.input`, with the files to write for each, and the output folder. Masks in an input folder
    are left out; training: Checkpoint.training, by which they are recognised. overlapping: names of the classes that
    get files of their own.

    The input is a file, a folder (its subfolders are mirrored in the output), a glob, or '-' for the paths in `listed`.
    Files are merged into channels, and split into pages, as for training. mode: 'resize' or 'tile'. Raises UserError
    where nothing is found, an output folder is needed, two images would write the same file, or one would overwrite an
    input or any other file that unet did not write.
    """
    unread: list[UserError] = []
    notes: list[str] = []
    images, base, output = find_files(config, listed, training, unread, notes)
    images = list(dict.fromkeys(images))
    inputs = {real_path(image) for image in images}
    jobs: list[Job] = []
    writers: dict[Path, Source] = {}

    if preprocessing.is_volumetric and config.format == "png":
        raise UserError("--format png is for images, and these weights predict volumes: leave it out, or use tif")
    if config.spacing is not None:
        if not preprocessing.is_volumetric and config.table is None:
            raise UserError("--spacing is for volumes and for --table, and these weights predict images: leave it out")
        if preprocessing.is_volumetric:
            in_mm(config.spacing)  # refuses what is no spacing of voxels

    unplaced = 0

    @cache
    def is_located(path: Path) -> bool:
        return extension_of(path) in STACK_EXTENSIONS and is_geotiff(path)

    def suffix(image: Source) -> str:
        if config.format:
            return config.format
        if is_series(image):
            return "nii.gz"
        if is_volume_file(image.path) and image.is_volume:
            return extension_of(image.path)[1:]
        in_tiff = mode == "tile" and image.path.suffix.lower() in SLIDE_EXTENSIONS.union(TIFF_EXTENSIONS)
        return "tif" if in_tiff or image.is_volume or is_located(image.path) else "png"

    for image, place, pages, error in sources_in(images, preprocessing, suffix, training):
        # A folder of slices that is the whole input has its own name.
        is_below = base is not None and place != base
        name = place.relative_to(base) if base and is_below else Path(real_path(place).name)
        mask = output / f"{name}.{suffix(image)}"
        by_class = class_files(output, mask, overlapping, training.get(CLASS_FOLDERS, True))
        world = _world(image, mask, is_located(image.path))
        job = Job(image, mask, extras, pages, error, by_class, output=output, world=world)
        job = replace(job, records=record_files(config, job.mask, job.page_names, output))
        if config.spacing is not None and not preprocessing.is_volumetric:
            along_axes(config.spacing, 3 if image.is_volume else 2)  # refuses another number of axes
        if config.polygons and image.is_volume:
            raise UserError(
                f"{image} is a volume, and --polygons {config.polygons} is for images: leave it out; "
                "--table and --instances are of volumes too"
            )
        unplaced += mask.suffix == ".png" and is_located(image.path)
        for path in job.outputs:
            # Links are resolved, or a mask could be written over an image by another name.
            if real_path(path) in inputs:
                raise UserError(
                    f"the prediction for {image} would be written over the image {path}: choose another --output"
                )
            if os.path.exists(path) and not (is_ours(path) or is_our_record(path)):
                raise UserError(f"{path} already exists and was not written by unet: choose another --output")
            if path in writers:
                raise UserError(
                    f"{writers[path]} and {image} would both write {path}: predict them one after the other, "
                    f"with an --input such as '*{extension_of(image.path)}', into different --output folders"
                )
            writers[path] = image
        jobs.append(job)
    if unplaced:
        notes.append(
            f"PNG can't hold the coordinate system of {counted(unplaced, 'GeoTIFF')}: the masks have world files "
            "(.pgw), which say where they lie in it; leave out --format png for masks as GeoTIFF"
        )
    return FoundJobs(jobs, output, unread, notes)


def _world(image: Source, mask: Path, is_located: bool) -> Affine | None:
    """The transform for the world file of a mask. is_located: whether the image is a GeoTIFF, whose tags a TIFF takes
    over."""
    if image.is_volume or mask.suffix not in WORLD_FILES:
        return None
    if not is_located:
        return world_transform(image.path)
    try:
        place = place_of(image.path, image.page) if mask.suffix == ".png" else None
    except UserError:  # reported when it is read
        return None
    return place.transform if place else None


def share_of(jobs: list[Job], shard: tuple[int, int] | None) -> list[Job]:
    """The jobs of this call: those of `shard` (number from 1, count), and of them those of this process where torchrun
    started several. Each job belongs to exactly one shard and process."""
    for number, count in (shard or (1, 1), this_process()):
        jobs = jobs[number - 1 :: count]
    return jobs


def remove_stale_outputs(jobs: Iterable[Job], everything: Iterable[Job]) -> None:
    """Remove the files of earlier calls for these jobs: masks, which would look like results of this call if it is
    stopped; their extras, requested now or not; and incomplete files. everything: the jobs of all shards, whose masks
    are not mistaken for extras. Raises UserError."""
    jobs = list(jobs)
    outputs = {path for job in jobs for path in job.outputs}
    stems = {(without_extension(job.mask), suffix) for job in jobs for suffix in (extension_of(job.mask), OVERLAY)}
    stems |= {
        (overlay.with_name(overlay.name.removesuffix(f"_{OVERLAY}")), OVERLAY)
        for job in jobs
        for overlay in job.overlays
    }
    for path in (path for job in jobs for path in stale_records(job)):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise explain(error, path) from error
    # An image may be called a_overlay: its mask a_overlay.png looks like an extra of a.png, and is kept.
    masks = {path for job in everything for path in job.masks}
    for folder in {stem.parent for stem, _ in stems} | {path.parent for path in outputs}:
        sweep(folder)
        for path in folder.iterdir() if folder.is_dir() else ():
            belongs = any((folder / stem, suffix) in stems for stem, suffix in _extra_of(path.name))
            if path in outputs or (belongs and path not in masks and is_ours(path)):
                try:
                    path.unlink(missing_ok=True)
                    if path.suffix in WORLD_FILES:
                        world_file(path).unlink(missing_ok=True)
                except OSError as error:
                    raise explain(error, path) from error


def _extra_of(name: str) -> Iterator[tuple[str, str]]:
    """For the name of a file that may be an extra: the stem of its mask, and the suffix of the mask's file, or OVERLAY.
    There are several where names of images or classes look like extras themselves."""
    for position in (underscore.start() for underscore in re.finditer("_", name)):
        match = EXTRA_NAME.fullmatch(name, position + 1)
        if match:
            yield name[:position], match["overlay"] or match["suffix"]


def is_done(job: Job) -> bool:
    """Whether all files of the job exist; files are renamed into place only when they are complete."""
    return all(os.path.exists(path) for path in job.outputs)
