"""When a run's checkpoints are written, and what happens where they can't be."""

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

WITHIN_EPOCH = 10  # times as long as between epochs
MAX_SHARE = 0.05  # of a run's time may go into saving


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment: weights on the CPU, the row of its last epoch, and all else that a resumed run needs."""

    weights: dict[str, Tensor]
    row: EpochResult | None
    epoch: int
    state: dict[str, Any]


@dataclass
class Saver:
    """best.pth and last.pth in a run's folder.

    template: what is the same in all checkpoints of the run. every: least seconds between saves at the ends of epochs.
    """

    record: Record
    template: Checkpoint
    every: float
    console: Console

    def __post_init__(self) -> None:
        self._best: Checkpoint | None = None  # kept, since the folder may vanish
        self._best_is_new = False
        self.saved = "nothing has been saved"
        self._tried = -math.inf  # when the last save ended
        self._took = 0.0

    @property
    def folder(self) -> Path:
        return self.record.folder

    @property
    def resume(self) -> str:
        """The command that goes on with the run."""
        return shlex.join(["unet", "train", "--resume", str(self.folder)])

    def wants(self, row: EpochResult) -> bool:
        """Whether the weights of this epoch are to be kept as the best."""
        return row.is_best or not (self._best is not None or (self.folder / "best.pth").exists())

    def keep_best(self, weights: dict[str, Tensor], row: EpochResult) -> None:
        """They are written with the next save."""
        self._best, self._best_is_new = self._checkpoint(weights, row), True

    def save_when_due(self, snapshot: Callable[[], Snapshot], row: EpochResult | None = None) -> None:
        """After each step, and with its row after each epoch: save where it is time to. Never raises UserError.

        A save that fails is reported; the files of the one before stay whole, and the next is tried in its turn.
        """
        if self._tried == -math.inf and row is None:
            self._tried = time.monotonic()  # the first within an epoch is counted from its first step
        pause = max(self.every if row is not None else WITHIN_EPOCH * self.every, self._took / MAX_SHARE)
        if time.monotonic() - self._tried >= pause or (row is not None and row.epoch == 1):
            try:
                self.save(snapshot)
            except UserError as error:
                self.console.say(f"Not saved: {error}. Training goes on, and saving will be tried again")

    def save_at_last(self, snapshot: Callable[[], Snapshot]) -> None:
        """Save for the last time. Raises UserError that says what is lost."""
        try:
            self.save(snapshot)
        except UserError as error:
            raise UserError(f"the last save failed, and {self.saved}: {error}") from error

    def save(self, snapshot: Callable[[], Snapshot]) -> None:
        """Write both. Raises UserError where the disk refuses."""
        start = time.monotonic()
        try:
            if not self.record.is_written():
                self.console.say(f"{self.folder} has vanished, and is written again")
                self.record.write()
            best = self.folder / "best.pth"
            # First, so that last.pth never knows of a best score that was lost.
            if self._best is not None and (self._best_is_new or not best.exists()):
                save_checkpoint(best, self._best)
                self._best_is_new = False
            now = snapshot()
            last = self._checkpoint(now.weights, now.row)
            save_checkpoint(self.folder / "last.pth", replace(last, resume=now.state))
            self.saved = f"what is saved is of epoch {now.epoch}"
        finally:
            self._tried = time.monotonic()
            self._took = self._tried - start

    def _checkpoint(self, weights: dict[str, Tensor], row: EpochResult | None) -> Checkpoint:
        values = {} if row is None else row.plain()
        metrics = {key: value for key, value in values.items() if value is not None and math.isfinite(value)}
        return replace(self.template, weights=weights, metrics=metrics)
