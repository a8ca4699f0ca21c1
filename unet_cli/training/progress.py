"""The progress of a run: the plain values that a resumed run needs beside weights and optimizer state."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from unet_cli.system.console import Console, duration
from unet_cli.system.schema import AnyFloat, Misfit, parsed

SECONDS_BETWEEN_EPOCHS = 3.0  # between lines of the console


@dataclass(frozen=True)
class EpochResult:
    """One row of the log. Losses are means over images; Dice, set Dice and IoU are those of the validation part at
    network size, see metrics.overlap.summarize.

    seconds: since the start of the run. The val_ fields are None in epochs without validation. averaged: whether the
    averaged weights were validated in this epoch, or would have been if there were a validation part. is_best: whether
    they are the best of the run so far. val_foreground: share of the validation pixels predicted as foreground.
    skipped: steps of this epoch whose loss was not finite. val_classes: Dice of each class by name, where there are
    several foreground classes. val_core_dice: set Dice of the cores of objects, where these are learned.
    """

    epoch: int
    step: int
    seconds: float
    lr: float
    train_loss: AnyFloat
    val_loss: AnyFloat | None = None
    val_dice: float | None = None
    val_set_dice: float | None = None
    val_iou: float | None = None
    val_mean_iou: float | None = None
    val_foreground: float | None = None
    averaged: bool = False
    is_best: bool = False
    skipped: int = 0
    val_classes: dict[str, float] = field(default_factory=dict)
    val_core_dice: float | None = None

    @property
    def score(self) -> float | None:
        """The score by which weights are compared, set Dice: empty masks can't win by it. Cores count as much as the
        classes."""
        if self.val_set_dice is None or self.val_core_dice is None:
            return self.val_set_dice
        return (self.val_set_dice + self.val_core_dice) / 2

    def describe(self) -> str:
        """A line for the log."""
        line = f"epoch {self.epoch:3d} ({duration(self.seconds)}): loss {self.train_loss:.4f}"
        if self.val_dice is not None:
            line += f", validation loss {self.val_loss:.4f}, Dice {self.val_dice:.4f}, IoU {self.val_iou:.4f}"
            line += "" if self.val_set_dice is None else f", set Dice {self.val_set_dice:.4f}"
            line += "" if self.val_core_dice is None else f", of cores {self.val_core_dice:.4f}"
            line += " (best)" if self.is_best else ""
        if self.val_classes:
            line += f", mean IoU of all classes {self.val_mean_iou:.4f}" if self.val_mean_iou is not None else ""
            line += "\n  Dice of " + ", ".join(f"{name} {dice:.3f}" for name, dice in self.val_classes.items())
        return line

    def plain(self) -> dict[str, Any]:
        """The row of a table, with a column for each class."""
        row = asdict(self)
        classes = row.pop("val_classes")
        return row | {f"val_dice_{name}": dice for name, dice in classes.items()}


class EpochPrinter:
    """Console lines about epochs: the first and the last, and every few seconds the latest and the best since."""

    def __init__(self, console: Console) -> None:
        self._console, self._printed_at = console, -math.inf
        self._pending: list[EpochResult] = []
        self._explained = False

    def __enter__(self) -> EpochPrinter:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def add(self, row: EpochResult) -> None:
        """Add the row of an epoch that has ended; a row of the same epoch, validated later, replaces it."""
        self._pending = [one for one in self._pending if one.epoch != row.epoch] + [row]
        if time.monotonic() - self._printed_at >= SECONDS_BETWEEN_EPOCHS:
            self.flush()

    def flush(self) -> None:
        """Print the pending lines."""
        if not self._pending:
            return
        *passed, latest = self._pending
        # The best epoch since the last line is shown too, or its score would appear in log.csv only.
        best = [] if latest.is_best else [row for row in passed if row.is_best][-1:]
        if passed and not self._explained:
            self._console.say("Epochs are short: a line every few seconds; log.csv has a row for each")
            self._explained = True
        self._console.say(*(row.describe() for row in (*best, latest)))
        self._printed_at, self._pending = time.monotonic(), []


@dataclass
class Progress:
    """The position of a run within its epochs.

    epoch: current epoch, from 1. seen: samples of it that all processes have trained on. loss_sum, loss_images: sum of
    the finite losses and number of their images. skipped: steps of this epoch whose loss was not finite; bad_steps:
    consecutive such steps. began: seconds of the run before its first step. rows: log of all epochs before this one.
    side: crop side in this epoch, None where the plan has none. cooling: epochs before the cool-down of an open run,
    None before it begins.
    """

    epoch: int = 1
    seen: int = 0
    side: int | None = None
    cooling: int | None = None
    loss_sum: AnyFloat = 0.0
    loss_images: int = 0
    skipped: int = 0
    bad_steps: int = 0
    began: float | None = None
    rows: list[EpochResult] = field(default_factory=list)

    @property
    def best(self) -> float:
        """The highest validation score so far, -1 without any."""
        return max((row.score for row in self.rows if row.is_best and row.score is not None), default=-1.0)

    @property
    def scores(self) -> list[float]:
        """The validation score of each epoch that has one."""
        return [row.score for row in self.rows if row.score is not None]

    @property
    def lacks_score(self) -> bool:
        """Whether an older version chose the best weights by another score."""
        best = [row for row in self.rows if row.is_best][-1:]
        return any(row.val_dice is not None and row.score is None for row in best)

    @property
    def epochs_since_best(self) -> int:
        best = max((row.epoch for row in self.rows if row.is_best), default=0)
        return self.epoch - 1 - best

    def end_epoch(self, row: EpochResult) -> None:
        self.rows.append(row)
        self.epoch, self.seen, self.side = self.epoch + 1, 0, None
        self.loss_sum, self.loss_images, self.skipped = 0.0, 0, 0

    def plain(self) -> dict[str, Any]:
        """Plain values for the checkpoint."""
        return asdict(self)

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Progress:
        """The progress from the values of `plain`. Raises Misfit."""
        it = parsed(cls, values, "progress")
        if it.epoch < 1 or min(it.seen, it.skipped, it.bad_steps) < 0 or len(it.rows) != it.epoch - 1:
            raise Misfit(f"progress is in epoch {it.epoch} after {len(it.rows)} epochs and {it.seen} samples")
        return it
