"""The files of one image: its mask, and what else was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from unet_cli.config import PredictConfig
from unet_cli.data.formats.tiff_write import write_tiff
from unet_cli.data.imagefile import carried_tags, read_image, write_mask, write_png
from unet_cli.data.labels import LabelMap
from unet_cli.data.pictures import outlined
from unet_cli.files import make_folder, whole_file
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
        """The extras that are probability maps, in the order of the classes."""
        return [extra for extra in self.job.extras if extra.startswith("probability")]

    def write(self, store: Store) -> tuple[float, ...]:
        """Write the files, the mask last: class indices are the store's plane 0, the probability maps those after it.
        The share of each class. Raises UserError.

        A mask goes from the store to a TIFF block by block; for anything else all of it is in memory.
        """
        job, config = self.job, self.config
        make_folder(job.mask.parent)
        blocks: Iterable[np.ndarray] = store.rows(0)
        if config.changes_masks or config.numbers_objects or config.overlay:
            pred = _joined(blocks)
            pred = clean(pred, config) if config.changes_masks else pred
            blocks = [pred]
            if config.overlay:
                pixels = read_image(job.image, self.keep_alpha)
                write_png(job.beside("overlay"), outlined(pixels, pred, self.labels.num_classes))
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
        """Blocks of rows, (h, W) or (h, W, 3), to a PNG at once, or to a TIFF one after the other."""
        if path.suffix != ".tif":
            write_mask(path, _joined(blocks), palette)
            return
        rows = iter(blocks)
        first = next(rows)
        with whole_file(path) as file:
            tags = carried_tags(self.job.image.path, self.job.image.page)
            write_tiff(file, chain([first], rows), (*self.size, *first.shape[2:]), first.dtype, palette, tags)


def _joined(blocks: Iterable[np.ndarray]) -> np.ndarray:
    parts = list(blocks)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
