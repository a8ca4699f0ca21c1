"""The objects of an image's masks, found, scored, and written as polygons and rows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unet_cli.config.prediction import PredictConfig
from unet_cli.config.spacing import along_axes
from unet_cli.data.colours import colours_of
from unet_cli.data.export import coco, geojson, labelme, roi, yolo
from unet_cli.data.export.drawing import Drawing
from unet_cli.data.formats.geo import Place, place_of
from unet_cli.data.found import Block, Objects, mean_values
from unet_cli.data.imagefile import open_bands
from unet_cli.data.labels import LabelMap
from unet_cli.data.measure import rows_of
from unet_cli.data.slabs import joined
from unet_cli.data.source import Source
from unet_cli.data.spacing import pixel_size
from unet_cli.inference.jobs import Job
from unet_cli.inference.records import COCO, TABLE, write_record
from unet_cli.system.files import make_folder, whole_file, write_bytes

MAX = np.float32(65535)  # of a stored probability, which is 1

Blocks = Iterable[np.ndarray]


@dataclass(frozen=True)
class Describer:
    """Writer of the records of a job's objects."""

    job: Job
    config: PredictConfig
    labels: LabelMap
    keep_alpha: bool

    def write(self, found: Sequence[Objects], probabilities: Sequence[Iterator[Blocks]]) -> None:
        """found: the objects of each page, or of the one volume. probabilities: those of each class, or of the
        foreground alone, of each page in blocks of rows. A volume's pages are its slices. Raises UserError."""
        entries: list[dict[str, Any]] = []
        rows: list[dict[str, Any]] = []
        if self.job.image.is_volume:
            [objects] = found
            blocks = (
                (at, np.stack([joined(one) for one in page])[:, None])
                for at, page in enumerate(zip(*probabilities, strict=True))
            )
            scores = self._scores(objects, blocks, len(probabilities))
            rows += self._rows(objects, self.job.image, scores)
        else:
            for page, (objects, *probs) in enumerate(zip(found, *probabilities, strict=True)):
                scores = self._scores(objects, _stacked(probs), len(probs))
                entries += self._polygons(objects, scores, page)
                if self.config.table is not None:
                    rows += self._rows(objects, self.job.page(page), scores)
        for path in self.job.records:
            if path.name.endswith((COCO, TABLE)):
                write_record(path, entries if path.name.endswith(COCO) else rows)

    def _scores(self, objects: Objects, blocks: Iterable[Block], planes: int) -> np.ndarray:
        """(n,) mean probability of each object's class. All blocks are consumed."""
        first = planes - self.labels.num_classes  # of binary masks the one plane is that of the foreground
        means = mean_values(objects, blocks, first + objects.classes)
        return means[:, 0] / MAX if means.size else np.zeros(0)

    def _polygons(self, objects: Objects, scores: np.ndarray, page: int) -> list[dict[str, Any]]:
        """Write the file of a page, or return its entry in that of the whole job."""
        kind, job = self.config.polygons, self.job
        if kind is None:
            return []
        is_paged = len(job.page_names) > 1 or job.image.page is not None
        file = f"{job.page_names[page]}{job.image.path.suffix}" if is_paged else job.image.path.name
        if kind == "coco":
            file = (job.mask.relative_to(job.output).parent / file).as_posix()
        elif kind == "labelme" and not is_paged:  # which opens the image from there
            file = Path(os.path.relpath(job.image.path, job.mask.parent)).as_posix()
        colours = colours_of(self.labels).areas
        drawing = Drawing(file, objects, self.labels.names, colours, self.config.simplify, scores)
        if kind == "coco":
            return [coco.entry(drawing)]
        source = job.page(page)
        place = place_of(source.path, source.page) if kind == "geojson" else None
        write_polygons(kind, job.records[page], drawing, place)
        return []

    def _rows(self, objects: Objects, source: Source, scores: np.ndarray) -> list[dict[str, Any]]:
        dims = len(objects.shape)
        stated = self.config.spacing
        known = along_axes(stated, dims) if stated is not None else pixel_size(source)
        steps, unit = known or (None, "")
        bands = open_bands(source, self.keep_alpha)
        told: dict[str, Any] = {"image": str(source.path)}
        if source.page is not None:
            told["page"] = source.page + 1
        rows = rows_of(objects, self.labels.names, steps, unit, scores, bands.rows())
        return [told | row for row in rows]


def write_polygons(kind: str, path: Path, drawing: Drawing, place: Place | None = None) -> None:
    """The file of one image. place: where it lies, for GeoJSON. Raises UserError."""
    if kind == "roi":
        make_folder(path.parent)
        with whole_file(path) as file:
            roi.write(file, drawing)
    elif kind == "geojson":
        write_bytes(path, geojson.written(drawing, place))
    else:
        write_bytes(path, {"labelme": labelme.written, "yolo": yolo.written}[kind](drawing))


def _stacked(planes: Sequence[Blocks]) -> Iterator[Block]:
    """Blocks of several planes that begin at the same rows -> together."""
    top = 0
    for blocks in zip(*planes, strict=True):
        yield top, np.stack(blocks)
        top += len(blocks[0])
