"""One image on its way through the network, and the rows of its mask that are finished."""

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
from unet_cli.inference.store import InMemory, OnDisk, Store
from unet_cli.inference.views import Band, Picture, Stack, Tiled, View
from unet_cli.metrics.ranking import sixteen_bit
from unet_cli.system.files import make_folder
from unet_cli.version import __version__


class Sheet(Task):
    """A picture, and the rows of its mask that are finished; with the last of them its files are written.

    can_pause: the mask goes to a TIFF and may be huge, since the image is predicted in tiles or is a stack; so its rows
    are kept in a hidden file beside it, from which the same call goes on.
    """

    def __init__(
        self, predictor: Predictor, config: PredictConfig, job: Job, picture: Picture, stopping: Callable[[], bool]
    ) -> None:
        """stopping: nothing is begun any more, and what can pause does. Raises UserError where nothing can be
        written."""
        super().__init__(picture, job.image)
        self.job = job
        self.can_pause = isinstance(picture, (Tiled, Stack)) and job.mask.suffix == ".tif"
        self._stopping, self._predictor, self._probabilities = stopping, predictor, config.probabilities
        self._page_size = picture.size[0] // job.pages, picture.size[1]
        self._outputs = Outputs(job, self._page_size, config, predictor.labels, predictor.preprocessing.keep_alpha)
        self._started = time.perf_counter()
        self._lock = threading.Lock()
        self._is_over = False
        self._store: Store = self._on_disk(predictor) if self.can_pause else InMemory()
        self._first = self._store.done
        if self._first:
            picture.notes.add("rows of a stopped call were used")

    def views(self) -> Generator[View]:
        """What the networks have to see for the rows that are missing. Raises UserError."""
        if self._stopping():
            self._pause()
            return
        for view in self.picture.views(self._first):
            if self.can_pause and self._stopping():
                self._pause()
                return
            if self._is_over:
                return
            yield view

    @property
    def is_complete(self) -> bool:
        """All rows are there: a former call was stopped while it wrote the files."""
        return self._first == self.picture.size[0]

    def add(self, band: Band) -> Outcome | None:
        """Take finished rows, from any thread. The outcome, once: with the last rows the files are written."""
        if self._is_over:
            return None
        try:
            known = max(self._first - band.top, 0)
            if known < band.size[0]:
                self._keep(band.top + known, band.finished()[:, known:])
            with self._lock:
                if self._store.done < self.picture.size[0] or self._is_over:
                    return None
                self._is_over = True
        except UserError as error:
            return self.fail(error)
        return self.finish()

    def fail(self, error: UserError, keep: bool = True) -> Outcome | None:
        """Give up; the outcome, once. keep: what is finished is of use to the next call."""
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
            shares = self._outputs.write(self._store)
        except UserError as error:
            self._store.close()
            return failed(self.job, error)
        self._store.remove()
        height, width = self._page_size
        return Outcome(
            job=self.job,
            note="; ".join(sorted(self.picture.notes)) or None,
            width=width,
            height=height,
            shares=shares,
            top_probability=self._store.top_probability,
            seconds=time.perf_counter() - self._started,
        )

    def _keep(self, top: int, combined: Tensor) -> None:
        """Give the store (planes + gates, h, W) finished rows: their classes, the maps and the highest probability."""
        predictor = self._predictor
        probs, attention = combined[: predictor.planes], combined[predictor.planes :]
        maps = [*predictor.calibrated(probs), *attention] if self._probabilities else attention
        surest = predictor.calibrated(surest_pixel(probs))
        planes = [predictor.classes(probs), *map(sixteen_bit, maps)]
        self._store.add(top, planes, float(foreground(surest).max()))

    def _pause(self) -> None:
        """Leave a hidden file only where it holds something. It stays open for rows that are on their way."""
        if not self._store.done:
            self._store.remove()

    def _on_disk(self, predictor: Predictor) -> OnDisk:
        mask = make_folder(self.job.mask.parent) / self.job.mask.name
        files = [path.stat() for path in self.job.image.paths]
        dtypes = [np.dtype(np.uint8)] + [np.dtype(np.uint16)] * len(self._outputs.maps)
        identity = {
            "version": __version__,
            "image": str(self.job.image),
            "size": self.picture.size,
            "files": [[status.st_size, status.st_mtime_ns] for status in files],
            "planes": [str(dtype) for dtype in dtypes],
            "predictor": predictor.identity,
        }
        return OnDisk(mask.with_name(f".{mask.name}.part"), identity, self.picture.size[1], dtypes)


def foreground(probs: Tensor) -> Tensor:
    """(K, ...) probabilities -> those of the foreground classes: of K = 1 itself."""
    return probs if len(probs) == 1 else probs[1:]


def surest_pixel(probs: Tensor) -> Tensor:
    """(K, H, W) probabilities -> (K,) of the pixel where a foreground class has the highest.

    Of several classes, it is the surest one before calibration. Afterwards another may be surer, which only calibrating
    all pixels would tell.
    """
    return probs.flatten(1)[:, int(foreground(probs).argmax()) % probs[0].numel()]
