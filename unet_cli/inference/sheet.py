"""The files of one image: finished rows are collected, and mask and extras are written when all of them are there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from torch import Tensor

import unet_cli
from unet_cli.config import PredictConfig
from unet_cli.data.formats.tiff_write import write_tiff
from unet_cli.data.imagefile import carried_tags, read_image, write_mask, write_png
from unet_cli.data.pictures import outlined
from unet_cli.errors import UserError
from unet_cli.files import make_folder, whole_file
from unet_cli.inference.cleaning import clean, number_objects
from unet_cli.inference.flow import Task
from unet_cli.inference.jobs import Job, Outcome, failed
from unet_cli.inference.picture import Band, Picture, Tiled, View
from unet_cli.inference.predictor import Predictor, to_classes
from unet_cli.inference.store import InMemory, OnDisk, Store


class Sheet(Task):
    """One image on its way: how it goes through the network, the rows of its mask that are finished, and its files.

    is_over: its files are written, or it failed: nothing more is to be done. can_pause: the mask goes to a TIFF in
    tiles and may be huge, so its rows are kept in a hidden file beside it, from which the same call goes on.
    """

    def __init__(
        self,
        predictor: Predictor,
        config: PredictConfig,
        job: Job,
        picture: Picture,
        stopping: Callable[[], bool],
    ) -> None:
        """stopping: whether to pause, if that can be. Raises UserError where nothing can be written."""
        super().__init__(picture)
        self.job = job
        self.is_over = False
        self.can_pause = isinstance(picture, Tiled) and job.mask.suffix == ".tif"
        self._stopping = stopping
        self._labels, self._threshold, self._config = predictor.labels, predictor.threshold, config
        self._keep_alpha = predictor.preprocessing.keep_alpha
        self._started = time.perf_counter()
        self._lock = threading.Lock()
        maps = sum(extra.startswith("probability") for extra in job.extras)
        self._dtypes = [np.dtype(np.uint8)] + [np.dtype(np.uint16)] * maps
        self._store: Store = self._on_disk(predictor) if self.can_pause else InMemory()
        self._first = self._store.done
        if self._first:
            picture.notes.add("rows of a stopped call were used")

    def views(self) -> Generator[View]:
        """What the networks have to see for the rows that are missing. Raises UserError."""
        for view in self.picture.views(self._first):
            if self.is_over or (self.can_pause and self._stopping()):
                return
            yield view

    @property
    def is_complete(self) -> bool:
        """All rows are there: a former call was stopped while it wrote the files."""
        return self._first == self.picture.size[0]

    def add(self, band: Band) -> Outcome | None:
        """Take finished rows, from any thread. The outcome, once: with the last rows the files are written."""
        if self.is_over:
            return None
        try:
            probs = band.combined()
            planes = [to_classes(probs, self._threshold), *map(sixteen_bit, probs[: len(self._dtypes) - 1])]
            known = max(self._first - band.top, 0)
            if known < len(planes[0]):
                foreground = probs[:, known:] if len(probs) == 1 else probs[1:, known:]
                self._store.add(band.top + known, [plane[known:] for plane in planes], float(foreground.max()))
            with self._lock:
                if self._store.done < self.picture.size[0] or self.is_over:
                    return None
                self.is_over = True
        except UserError as error:
            return self.fail(error)
        return self.finish()

    def fail(self, error: UserError, keep: bool = True) -> Outcome | None:
        """Give up; the outcome, once. keep: what is finished is of use to the next call."""
        with self._lock:
            was_over, self.is_over = self.is_over, True
        if keep:
            self._store.close()
        else:
            self._store.remove()
        return None if was_over else failed(self.job, error)

    def finish(self) -> Outcome:
        """Write the files, the mask last."""
        job, config, palette = self.job, self._config, self._labels.written_palette
        counts = np.zeros(self._labels.num_classes, np.int64)

        def decoded(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
            for block in blocks:
                counts[:] += np.bincount(block.ravel(), minlength=len(counts))
                yield self._labels.decode(block)

        try:
            make_folder(job.mask.parent)
            blocks: Iterable[np.ndarray] = self._store.rows(0)
            if config.changes_masks or config.numbers_objects or config.overlay:
                pred = _joined(blocks)
                pred = clean(pred, config) if config.changes_masks else pred
                blocks = [pred]
                if config.overlay:
                    pixels = read_image(job.image, self._keep_alpha)
                    write_png(job.beside("overlay"), outlined(pixels, pred, self._labels.num_classes))
                if config.numbers_objects:
                    self._write(job.beside("instances"), [number_objects(pred, config)])
            for plane, extra in enumerate((name for name in job.extras if name.startswith("probability")), 1):
                self._write(job.beside(extra), self._store.rows(plane))
            self._write(job.mask, decoded(blocks), palette)
        except UserError as error:
            self._store.close()
            return failed(job, error)
        self._store.remove()
        height, width = self.picture.size
        return Outcome(
            job=job,
            note="; ".join(sorted(self.picture.notes)) or None,
            width=width,
            height=height,
            shares=tuple((counts / (height * width)).tolist()),
            top_probability=self._store.top_probability,
            seconds=time.perf_counter() - self._started,
        )

    def _write(self, path: Path, blocks: Iterable[np.ndarray], palette: list[int] | None = None) -> None:
        """Blocks of rows, (h, W) or (h, W, 3), to a PNG at once, or to a TIFF one after the other."""
        if path.suffix != ".tif":
            write_mask(path, _joined(blocks), palette)
            return
        rows = iter(blocks)
        first = next(rows)
        shape = (*self.picture.size, *first.shape[2:])
        with whole_file(path) as file:
            tags = carried_tags(self.job.image.path, self.job.image.page)
            write_tiff(file, chain([first], rows), shape, first.dtype, palette, tags)

    def _on_disk(self, predictor: Predictor) -> OnDisk:
        mask = make_folder(self.job.mask.parent) / self.job.mask.name
        files = [path.stat() for path in self.job.image.paths]
        identity = {
            "version": unet_cli.__version__,
            "image": str(self.job.image),
            "files": [[status.st_size, status.st_mtime_ns] for status in files],
            "planes": [str(dtype) for dtype in self._dtypes],
            "predictor": predictor.identity,
        }
        return OnDisk(mask.with_name(f".{mask.name}.part"), identity, self.picture.size[1], self._dtypes)


def sixteen_bit(probs: Tensor) -> np.ndarray:
    """(H, W) probabilities -> uint16, 65535 being 1."""
    return (probs.numpy() * 65535 + 0.5).astype(np.uint16)


def _joined(blocks: Iterable[np.ndarray]) -> np.ndarray:
    parts = list(blocks)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
