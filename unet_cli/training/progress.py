"""Where a run is: the plain values that, beside weights and optimiser, a resumed run goes on from."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from unet_cli.system.console import Console, duration
from unet_cli.system.schema import AnyFloat, Misfit, parsed

SECONDS_BETWEEN_EPOCHS = 3.0  # that are told


@dataclass(frozen=True)
class EpochResult:
    """One row of the log. Losses are means over images; dice, set_dice and iou are of the validation part, at network
    size, see metrics.summarize.

    seconds: since the run began. The val_ fields are None where nothing was validated. averaged: whether the averaged
    weights were judged, or would have been with a validation part; not in epochs without validation. is_best: whether
    these are the run's best so far. val_foreground: share of the validation pixels that is predicted to be foreground.
    skipped: steps of this epoch whose loss was not finite. val_classes: Dice of each class by name, where there are
    several foreground classes.
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

    @property
    def score(self) -> float | None:
        """What weights are compared by: empty masks can't win it."""
        return self.val_set_dice

    def describe(self) -> str:
        """A line for the log."""
        line = f"epoch {self.epoch:3d} ({duration(self.seconds)}): loss {self.train_loss:.4f}"
        if self.val_dice is not None:
            line += f", validation loss {self.val_loss:.4f}, Dice {self.val_dice:.4f}, IoU {self.val_iou:.4f}"
            line += "" if self.val_set_dice is None else f", set Dice {self.val_set_dice:.4f}"
            line += " (best)" if self.is_best else ""
        if self.val_classes:
            line += f", mean IoU of all classes {self.val_mean_iou:.4f}" if self.val_mean_iou is not None else ""
            line += "\n  Dice of " + ", ".join(f"{name} {dice:.3f}" for name, dice in self.val_classes.items())
        return line

    def plain(self) -> dict[str, Any]:
        """As a row of a table: a column for each class."""
        row = asdict(self)
        classes = row.pop("val_classes")
        return row | {f"val_dice_{name}": dice for name, dice in classes.items()}


class EpochLog:
    """Lines about epochs: the first and the last; between them the latest every few seconds, and the best since."""

    def __init__(self, console: Console) -> None:
        self._console, self._told = console, -math.inf
        self._untold: list[EpochResult] = []
        self._explained = False

    def __enter__(self) -> EpochLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def add(self, row: EpochResult) -> None:
        """Of an epoch that has ended; again where it was validated afterwards."""
        self._untold = [one for one in self._untold if one.epoch != row.epoch] + [row]
        if time.monotonic() - self._told >= SECONDS_BETWEEN_EPOCHS:
            self.flush()

    def flush(self) -> None:
        """Say where the run is, unless that has been said."""
        if not self._untold:
            return
        *passed, latest = self._untold
        best = [] if latest.is_best else [row for row in passed if row.is_best][-1:]
        if passed and not self._explained:
            self._console.say("Epochs are short: a line every few seconds; log.csv has a row for each")
            self._explained = True
        self._console.say(*(row.describe() for row in (*best, latest)))
        self._told, self._untold = time.monotonic(), []


@dataclass
class Progress:
    """epoch: the one at hand, from 1. seen: samples of it that were trained on, by all processes.

    loss_sum, loss_images: of those whose loss was finite. skipped: steps of this epoch whose loss was not finite;
    bad_steps: such steps in a row. began: seconds of the run before its first step. rows: the log of all epochs before
    this one. side: of what the network sees in this epoch, None where nothing has been planned. cooling: epochs before
    the cool-down of a run that has stopped learning, None while it hasn't.
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
        """Whether the best weights were chosen by another score, in an older version."""
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
        """Plain values that a checkpoint holds."""
        return asdict(self)

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Progress:
        """What `plain` gave. Raises Misfit."""
        found = parsed(cls, values, "progress")
        if found.epoch < 1 or min(found.seen, found.skipped, found.bad_steps) < 0 or len(found.rows) != found.epoch - 1:
            raise Misfit(f"progress is in epoch {found.epoch} after {len(found.rows)} epochs and {found.seen} samples")
        return found
