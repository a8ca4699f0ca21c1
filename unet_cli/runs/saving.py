"""Saving of a run's checkpoints: when they are written, and how a failure to write is handled."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from unet_cli.checkpoint import Checkpoint, save_checkpoint
from unet_cli.errors import UserError
from unet_cli.run_folder import Record
from unet_cli.system.console import Console
from unet_cli.training.progress import EpochResult

WITHIN_EPOCH = 10  # saves within an epoch are this many times rarer than between epochs
MAX_SHARE = 0.05  # maximum share of a run's time for saving


@dataclass(frozen=True)
class Snapshot:
    """The state of a run at one moment: weights on the CPU, the row of its last epoch, and the state for resuming."""

    weights: dict[str, Tensor]
    row: EpochResult | None
    epoch: int
    state: dict[str, Any]


@dataclass
class Saver:
    """Writer of best.pth and last.pth in a run's folder.

    template: checkpoint with all that is the same throughout the run. every: minimum seconds between saves at the ends
    of epochs.
    """

    record: Record
    template: Checkpoint
    every: float
    console: Console

    def __post_init__(self) -> None:
        self._best: Checkpoint | None = None  # kept in memory, since the folder may be deleted
        self._best_is_new = False
        self.saved = "nothing has been saved"
        self._last_try = -math.inf  # clock time at which the last save ended
        self._duration = 0.0  # seconds that it took

    @property
    def folder(self) -> Path:
        return self.record.folder

    @property
    def resume_command(self) -> str:
        """The command that resumes the run."""
        return shlex.join(["unet", "train", "--resume", str(self.folder)])

    def is_new_best(self, row: EpochResult) -> bool:
        """Whether the weights of this epoch become the best ones; the first epoch's always do."""
        return row.is_best or not (self._best is not None or (self.folder / "best.pth").exists())

    def keep_best(self, weights: dict[str, Tensor], row: EpochResult) -> None:
        """Keep these weights as the best; they are written with the next save."""
        self._best, self._best_is_new = self._checkpoint(weights, row), True

    def save_when_due(self, snapshot: Callable[[], Snapshot], row: EpochResult | None = None) -> None:
        """Save if a save is due. Called after each step, and after each epoch with its row. Never raises UserError.

        A save that fails is reported; the files of the previous one stay intact, and the next one is tried when due.
        """
        if self._last_try == -math.inf and row is None:
            self._last_try = time.monotonic()  # the pause before the first save counts from the first step
        # Large networks on slow disks are saved less often, so that saving never takes more than MAX_SHARE of the time.
        pause = max(self.every if row is not None else WITHIN_EPOCH * self.every, self._duration / MAX_SHARE)
        if time.monotonic() - self._last_try >= pause or (row is not None and row.epoch == 1):
            try:
                self.save(snapshot)
            except UserError as error:
                self.console.say(f"Not saved: {error}. Training continues, and saving will be tried again")

    def save_final(self, snapshot: Callable[[], Snapshot]) -> None:
        """Save at the end of a run. Raises UserError that says what was saved before."""
        try:
            self.save(snapshot)
        except UserError as error:
            raise UserError(f"the last save failed, and {self.saved}: {error}") from error

    def save(self, snapshot: Callable[[], Snapshot]) -> None:
        """Write both checkpoints. Raises UserError where writing fails."""
        start = time.monotonic()
        try:
            if not self.record.is_written():
                self.console.say(f"{self.folder} has disappeared and is written again")
                self.record.write()
            best = self.folder / "best.pth"
            # best.pth comes first: last.pth must never record a best score whose weights were lost.
            if self._best is not None and (self._best_is_new or not best.exists()):
                save_checkpoint(best, self._best)
                self._best_is_new = False
            now = snapshot()
            last = self._checkpoint(now.weights, now.row)
            save_checkpoint(self.folder / "last.pth", replace(last, resume=now.state))
            self.saved = f"the last save is of epoch {now.epoch}"
        finally:  # a failed save counts too, or every step would try again
            self._last_try = time.monotonic()
            self._duration = self._last_try - start

    def _checkpoint(self, weights: dict[str, Tensor], row: EpochResult | None) -> Checkpoint:
        values = {} if row is None else row.plain()
        metrics = {key: value for key, value in values.items() if value is not None and math.isfinite(value)}
        return replace(self.template, weights=weights, metrics=metrics)
