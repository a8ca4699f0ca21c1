"""The files of one image: its mask, and what else was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unet_cli.config import PredictConfig
from unet_cli.data.colours import colours_of
from unet_cli.data.imagefile import carried_tags, joined, read_image, write_png, write_rows
from unet_cli.data.labels import LabelMap
from unet_cli.data.pictures import outlined
from unet_cli.files import make_folder
from unet_cli.inference.cleaning import clean, number_objects
from unet_cli.inference.jobs import Job
from unet_cli.inference.store import Store

ROWS_AT_ONCE = 256  # that are looked up: numpy takes 8 bytes a pixel for it


@dataclass(frozen=True)
class Outputs:
    """What is to be written for an image of `size` (H, W)."""

    job: Job
    size: tuple[int, int]
    config: PredictConfig
    labels: LabelMap
    keep_alpha: bool

    @property
    def maps(self) -> list[str]:
        """The extras that are maps from 0 to 1: of probability, in the order of the classes, and of attention."""
        return [extra for extra in self.job.extras if extra.startswith(("probability", "attention"))]

    def write(self, store: Store) -> tuple[float, ...]:
        """Write the files, the mask last: class indices are the store's plane 0, the maps those after it.
        The share of each class. Raises UserError.

        A mask goes from the store to a TIFF block by block; for anything else all of it is in memory.
        """
        job, config = self.job, self.config
        make_folder(job.mask.parent)
        blocks: Iterable[np.ndarray] = store.rows(0)
        if config.changes_masks or config.numbers_objects or config.overlay:
            pred = joined(blocks)
            pred = clean(pred, config) if config.changes_masks else pred
            blocks = [pred]
            if config.overlay:
                pixels = read_image(job.image, self.keep_alpha)
                write_png(job.beside("overlay"), outlined(pixels, pred, colours_of(self.labels)))
            if config.numbers_objects:
                self._write_file(job.beside("instances"), [number_objects(pred, config)])
        for plane, extra in enumerate(self.maps, 1):
            self._write_file(job.beside(extra), store.rows(plane))
        counts = np.zeros(self.labels.num_classes, np.int64)
        self._write_file(job.mask, self._decoded(blocks, counts), self.labels.written_palette)
        return tuple((counts / counts.sum()).tolist())

    def _decoded(self, blocks: Iterable[np.ndarray], counts: np.ndarray) -> Iterator[np.ndarray]:
        """Class indices -> the user's values; each class is counted."""
        for block in blocks:
            for top in range(0, len(block), ROWS_AT_ONCE):
                rows = block[top : top + ROWS_AT_ONCE]
                counts += np.bincount(rows.ravel(), minlength=len(counts))
                yield self.labels.decode(rows)

    def _write_file(self, path: Path, blocks: Iterable[np.ndarray], palette: list[int] | None = None) -> None:
        tags = carried_tags(self.job.image.path, self.job.image.page) if path.suffix == ".tif" else ()
        write_rows(path, blocks, self.size[0], palette, tags)
