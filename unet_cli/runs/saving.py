"""When a run's checkpoints are written, and what happens where they can't be."""

from __future__ import annotations

import math
import shlex
import time
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from unet_cli.checkpoint import Checkpoint, save_checkpoint
from unet_cli.errors import UserError
from unet_cli.run_folder import Record
from unet_cli.training.loop import Trainer
from unet_cli.training.progress import EpochResult

WITHIN_EPOCH = 10  # times as long as between epochs
MOST_SHARE = 0.05  # of a run's time may go into saving


@dataclass
class Saver:
    """best.pth and last.pth in a run's folder.

    template: what is the same in all checkpoints of the run. every: least seconds between saves at the ends of epochs.
    """

    record: Record
    template: Checkpoint
    every: float

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

    def note(self, trainer: Trainer, result: EpochResult | None) -> None:
        """After each step and epoch: keep the best weights, and save where it is time to. Never raises.

        A save that fails is reported; the files of the one before stay whole, and the next is tried in its turn.
        """
        if result is not None and (result.is_best or not self._has_best()):
            self._best, self._best_is_new = self._checkpoint(_weights(trainer, result.averaged), result), True
        if self._tried == -math.inf and result is None:
            self._tried = time.monotonic()  # the first within an epoch is counted from its first step
        pause = max(self.every if result is not None else WITHIN_EPOCH * self.every, self._took / MOST_SHARE)
        if time.monotonic() - self._tried >= pause or (result is not None and result.epoch == 1):
            try:
                self.save(trainer)
            except UserError as error:
                trainer.console.say(f"Not saved: {error}. Training goes on, and saving will be tried again")

    def save_at_last(self, trainer: Trainer) -> None:
        """Write both for the last time, if there is anything to save. Raises UserError that says what is lost."""
        try:
            if trainer.learner.step:
                self.save(trainer)
        except UserError as error:
            raise UserError(f"the last save failed, and {self.saved}: {error}") from error

    def save(self, trainer: Trainer) -> None:
        """Write both. Raises UserError where the disk refuses."""
        start = time.monotonic()
        try:
            if not self.record.is_written():
                trainer.console.say(f"{self.folder} has vanished, and is written again")
                self.record.write()
            best = self.folder / "best.pth"
            # First, so that last.pth never knows of a best score that was lost.
            if self._best is not None and (self._best_is_new or not best.exists()):
                save_checkpoint(best, self._best)
                self._best_is_new = False
            rows = trainer.progress.rows
            last = self._checkpoint(_weights(trainer, averaged=False), rows[-1] if rows else None)
            save_checkpoint(self.folder / "last.pth", replace(last, resume=trainer.state()))
            self.saved = f"what is saved is of epoch {trainer.progress.epoch}"
        finally:
            self._tried = time.monotonic()
            self._took = self._tried - start

    def _has_best(self) -> bool:
        return self._best is not None or (self.folder / "best.pth").exists()

    def _checkpoint(self, weights: dict[str, Tensor], result: EpochResult | None) -> Checkpoint:
        values = {} if result is None else result.plain()
        metrics = {key: value for key, value in values.items() if value is not None and math.isfinite(value)}
        return replace(self.template, weights=weights, metrics=metrics)


def _weights(trainer: Trainer, averaged: bool) -> dict[str, Tensor]:
    """A copy on the CPU, which training doesn't change any more."""
    state = trainer.learner.average.state_dict() if averaged else trainer.learner.model.state_dict()
    return {key: value.detach().to("cpu", copy=True) for key, value in state.items()}
