"""The budget of a run: a number of epochs, a time limit, or whichever is reached first."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass


@dataclass
class Budget:
    """Epochs and seconds that a run may use. Progress is counted in epochs, such as 2.5.

    epochs: limit, None where time alone decides. steps_per_epoch: for estimates. start, begin, end: start of the run,
    start of its first step and deadline, in seconds of time.monotonic(), as if the run had never been interrupted; end
    is None where epochs alone decide.
    Time for finishing (the last validation, saving, the scores at original size, the pictures) is reserved. The
    duration of a validation is estimated from that of a step until one has been timed; measuring_seconds is the time
    to read the validation part from disk and to evaluate its predictions at original size.
    """

    epochs: float | None
    steps_per_epoch: int
    start: float
    end: float | None
    begin: float = 0.0
    step_seconds: float = 0.0
    validation_seconds: float = 0.0
    saving_seconds: float = 0.0
    measuring_seconds: float = 0.0

    FINISHING_SECONDS = 5.0  # importing the plotting library, drawing, intervals, writing
    FINISHING_VALIDATIONS = 2.0  # the last one, and the scores at original size

    @property
    def last_step_at(self) -> float:
        """Deadline of the last step, in seconds of time.monotonic()."""
        assert self.end is not None
        validations = self.FINISHING_VALIDATIONS * self.validation_seconds
        return self.end - self.FINISHING_SECONDS - validations - self.saving_seconds - self.measuring_seconds

    def progress(self, done: float) -> float:
        """Share of the run, 0 to 1, that is over after `done` epochs."""
        by_epochs = done / self.epochs if self.epochs else 0.0
        if self.end is None or done == 0:
            return by_epochs
        # Half a step ahead, so that the steps' middles sample the schedule and the last one is close to its end.
        elapsed = time.monotonic() - self.begin + 0.5 * self.step_seconds
        return max(by_epochs, elapsed / max(self.last_step_at - self.begin, 1e-3))

    def allows_step(self, done: float) -> bool:
        """Whether another step fits. The first one is always allowed: a run without a step is of no use."""
        if self.epochs and done >= self.epochs:
            return False
        if self.end is None or done == 0:
            return True
        return time.monotonic() + self.step_seconds <= self.last_step_at

    def remaining(self, done: float) -> float:
        """Estimated seconds until the run ends, infinite where nothing limits it."""
        by_epochs = math.inf  # two limits, of which the earlier counts; either may be missing
        if self.epochs:
            by_epochs = (self.epochs - done) * (self.steps_per_epoch * self.step_seconds + self.validation_seconds)
        by_time = math.inf if self.end is None else self.end - time.monotonic()
        return max(0.0, min(by_epochs, by_time))
