"""How long a run lasts, and its learning rate on the way: over epochs, a time budget, or whichever ends first."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

WARMUP = 0.05  # of the run


def lr_factor(progress: float) -> float:
    """Share of the highest learning rate: linear warm-up over the first 5 %, then half a cosine down to zero.

    progress: from 0 to 1. Source of the cosine: Loshchilov, Hutter, "SGDR", ICLR 2017, equation 5, without restarts.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < WARMUP:
        return (progress + 1e-3) / (WARMUP + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))


@dataclass
class Budget:
    """Steps and seconds that a run may use.

    epochs, steps_per_epoch: epochs is None where time alone decides. start, begin, end: of the whole command, of its
    first step, and when it has to be over, in seconds of time.monotonic(); end is None where epochs alone decide.
    The seconds that finishing takes (the last validation, saving, the scores at original size, the pictures) are kept
    free: those of a validation are guessed from a step's until one has been timed; reading_seconds is how long it takes
    to read the validation part from disk.
    """

    epochs: int | None
    steps_per_epoch: int
    start: float
    end: float | None
    begin: float = 0.0
    step_seconds: float = 0.0
    validation_seconds: float = 0.0
    saving_seconds: float = 0.0
    reading_seconds: float = 0.0

    FINISHING_SECONDS = 4.0  # importing the plotting library, drawing, writing
    FINISHING_VALIDATIONS = 2.3  # the last one, and the scores at original size

    @property
    def last_step_at(self) -> float:
        """When the steps have to end, by the clock."""
        assert self.end is not None
        validations = self.FINISHING_VALIDATIONS * self.validation_seconds
        return self.end - self.FINISHING_SECONDS - validations - self.saving_seconds - self.reading_seconds

    def progress(self, step: int) -> float:
        """Of the run, 0 to 1, before the given step (counted from 0)."""
        by_steps = step / (self.epochs * self.steps_per_epoch) if self.epochs else 0.0
        if self.end is None or step == 0:
            return by_steps
        # Half a step ahead, so that the steps' middles sample the schedule and the last one is close to its end.
        elapsed = time.monotonic() - self.begin + 0.5 * self.step_seconds
        return max(by_steps, elapsed / max(self.last_step_at - self.begin, 1e-3))

    def allows_step(self, step: int) -> bool:
        """Whether another step fits. The first one always does: a run that learned nothing is of no use."""
        if self.epochs and step >= self.epochs * self.steps_per_epoch:
            return False
        if self.end is None or step == 0:
            return True
        return time.monotonic() + self.step_seconds <= self.last_step_at

    def remaining(self, step: int) -> float:
        """Seconds until the run ends, as far as is known."""
        by_steps = math.inf
        if self.epochs:
            steps = self.epochs * self.steps_per_epoch - step
            by_steps = steps * self.step_seconds + steps / self.steps_per_epoch * self.validation_seconds
        by_time = math.inf if self.end is None else self.end - time.monotonic()
        return max(0.0, min(by_steps, by_time))
