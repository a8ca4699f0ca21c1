"""An image that is being predicted, with the finished rows of its mask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator

import numpy as np
from torch import Tensor

from unet_cli.config.prediction import PredictConfig
from unet_cli.errors import UserError
from unet_cli.inference.batching import Task
from unet_cli.inference.jobs import Job, Outcome, failed
from unet_cli.inference.outputs import Outputs
from unet_cli.inference.predictor import Predictor
from unet_cli.inference.resampled import Resampled
from unet_cli.inference.store import InMemory, OnDisk, Store
from unet_cli.inference.views import Band, Picture, Stack, Tiled, View
from unet_cli.metrics.ranking import sixteen_bit
from unet_cli.system.files import make_folder
from unet_cli.version import __version__


class Sheet(Task):
    """An image with the finished rows of its mask; the last of them writes its files.

    can_pause: whether the mask may be huge, since the image is a volume or the mask goes to a TIFF, and the image is
    predicted in tiles or is a stack; its rows are then stored in a hidden file beside it, from which the same call
    resumes.
    """

    def __init__(
        self, predictor: Predictor, config: PredictConfig, job: Job, picture: Picture, stopping: Callable[[], bool]
    ) -> None:
        """stopping: whether a stop was requested, so that sheets that can pause do. Raises UserError where the store
        can't be written."""
        super().__init__(picture, job.image)
        self.job = job
        self.can_pause = isinstance(picture, (Tiled, Resampled, Stack)) and job.mask.suffix != ".png"
        self._stopping, self._predictor = stopping, predictor
        self._page_size = picture.size[0] // job.pages, picture.size[1]
        keep_alpha = predictor.preprocessing.keep_alpha
        self._outputs = Outputs(
            job, self._page_size, predictor.cleaning(config), predictor.labels, keep_alpha, predictor.planes
        )
        self._started = time.perf_counter()
        self._lock = threading.Lock()
        self._is_over = False
        self._store: Store = self._on_disk(predictor) if self.can_pause else InMemory()
        self._first = self._store.done
        if self._first:
            picture.notes.add("rows of a stopped call were used")

    def views(self) -> Generator[View]:
        """The network inputs for the missing rows. Raises UserError."""
        if self._stopping():
            self._drop_empty_store()
            return
        for view in self.picture.views(self._first):
            if self.can_pause and self._stopping():
                self._drop_empty_store()
                return
            if self._is_over:
                return
            yield view

    @property
    def is_complete(self) -> bool:
        """Whether all rows are in the store from the start: an earlier call was stopped while it wrote the files."""
        return self._first == self.picture.size[0]

    def add(self, band: Band) -> Outcome | None:
        """Add finished rows, from any thread. The last rows write the files and return the outcome, others None."""
        if self._is_over:
            return None
        try:
            stored = max(self._first - band.top, 0)
            if stored < band.size[0]:
                self._store_rows(band.top + stored, self._predictor.finished(band)[:, stored:])
            # Threads add bands concurrently: exactly one of them sees the store complete and the sheet not yet over.
            with self._lock:
                if self._store.done < self.picture.size[0] or self._is_over:
                    return None
                self._is_over = True
        except UserError as error:
            return self.fail(error)
        return self.finish()

    def fail(self, error: UserError, keep: bool = True) -> Outcome | None:
        """End with an error and return the outcome, None where it has ended before. keep: whether finished rows are of
        use to the next call."""
        # Several bands in flight may fail: only the first failure is an outcome.
        with self._lock:
            was_over, self._is_over = self._is_over, True
        if keep:
            self._store.close()
        else:
            self._store.remove()
        return None if was_over else failed(self.job, error)

    def finish(self) -> Outcome:
        """Write the files."""
        try:
            written = self._outputs.write(self._store)
        except UserError as error:
            self._store.close()  # kept on disk, so that the next call only has to write the files
            return failed(self.job, error)
        self._store.remove()
        height, width = self._page_size
        return Outcome(
            job=self.job,
            note="; ".join(sorted({*self.picture.notes, *written.notes})) or None,
            width=width,
            height=height,
            shares=written.shares,
            objects=written.objects,
            top_probability=self._store.top_probability,
            seconds=time.perf_counter() - self._started,
        )

    def _store_rows(self, top: int, combined: Tensor) -> None:
        """Store finished rows (outputs + gates, h, W): their classes, the maps and the highest probability."""
        predictor = self._predictor
        probs, attention = combined[: predictor.planes], combined[predictor.labels.outputs :]
        maps = [*predictor.calibrated(probs), *attention] if self._outputs.stored_probabilities else attention
        classes = predictor.labels.num_classes - 1
        top_probs = predictor.calibrated(most_confident_pixel(probs, classes))
        planes = [predictor.classes(combined), *map(sixteen_bit, maps)]
        self._store.add(top, planes, float(top_probs[-classes:].max()))

    def _drop_empty_store(self) -> None:
        """Remove the hidden file where it is empty; else it stays open for rows in flight."""
        if not self._store.done:
            self._store.remove()

    def _on_disk(self, predictor: Predictor) -> OnDisk:
        mask = make_folder(self.job.mask.parent) / self.job.mask.name
        files = [path.stat() for path in self.job.image.paths]
        dtypes = [np.dtype(np.uint8)] + [np.dtype(np.uint16)] * self._outputs.stored
        # Rows of an earlier call are used only if everything that they depend on is the same, the image file included.
        identity = {
            "version": __version__,
            "image": str(self.job.image),
            "size": self.picture.size,
            "files": [[status.st_size, status.st_mtime_ns] for status in files],
            "planes": [str(dtype) for dtype in dtypes],
            "predictor": predictor.identity,
        }
        return OnDisk(mask.with_name(f".{mask.name}.part"), identity, self.picture.size[1], dtypes)


def most_confident_pixel(probs: Tensor, classes: int) -> Tensor:
    """(K, H, W) probabilities -> (K,) probabilities of the pixel with the highest one of a foreground class.

    classes: number of these; they are the last of the K. With several classes another pixel may have the highest one
    after calibration; finding it would take calibrating all pixels.
    """
    return probs.flatten(1)[:, int(probs[-classes:].argmax()) % probs[0].numel()]
