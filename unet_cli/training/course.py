"""The state of a run and what comes next, from its plan, budget and learning rate schedule: numbers, no tensors."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace

from unet_cli.system.console import duration
from unet_cli.training.budget import Budget
from unet_cli.training.plan import FORWARD, Plan
from unet_cli.training.progress import EpochResult, Progress
from unet_cli.training.schedule import cooldown_epochs, has_settled, lr_factor, open_progress

STEPS_BEFORE_ESTIMATE = 3


@dataclass
class Course:
    """The schedule of a run and its progress.

    schedule: name in SCHEDULES. lr: learning rate before the schedule. size: side of the network's input in prediction,
    in pixels (of a volume's slices); dimensions: number of its sides. samples: number of training samples at this
    epoch's crop side; val_samples: number of validation samples. step_samples: batch size over all processes. patience:
    epochs without a better score after which the run ends. step: the optimizer step up to which `progress` is counted.
    """

    plan: Plan
    budget: Budget
    schedule: str
    lr: float
    size: int
    samples: int
    val_samples: int
    step_samples: int
    patience: int | None = None
    dimensions: int = 2
    progress: Progress = field(default_factory=Progress)
    step: int = 0

    def __post_init__(self) -> None:
        self._timed_steps = 0  # in this process
        self._side_before = self.size
        self._has_timed_validation = False

    @property
    def done(self) -> float:
        """Epochs done, such as 2.5."""
        return self.progress.epoch - 1 + self.progress.seen / max(1, self._epoch_samples)

    @property
    def share(self) -> float:
        """Share of the run that is over, 0 to 1."""
        if self.plan.is_open:
            return open_progress(self.done, self.progress.cooling)
        return self.budget.progress(self.done)

    @property
    def side(self) -> int:
        """Crop side in this epoch, in pixels."""
        return self.progress.side or self.size

    @property
    def has_lost_patience(self) -> bool:
        return self.patience is not None and self.progress.epochs_since_best >= self.patience

    @property
    def is_validation_due(self) -> bool:
        """Whether the plan validates at the end of this epoch."""
        return self.progress.epoch % self.plan.validate_every == 0

    def next_lr(self) -> float | None:
        """Learning rate of the next step, None where the budget is spent. It depends on this process's clock."""
        if not self.budget.allows_step(self.done):
            return None
        return self.lr * lr_factor(self.schedule, self.share, self.progress.scores)

    def next_side(self) -> int | None:
        """Crop side of the current epoch by the plan; an epoch that was interrupted keeps its crop side."""
        is_last = self.progress.epoch == self.budget.epochs  # trained at the size of prediction
        return self.progress.side or (self.plan.last_side if is_last else self.plan.side_at(self.share))

    def start(self) -> None:
        """Start the clock of the steps: the first step in this process comes next."""
        if self.progress.began is None:
            self.progress.began = time.monotonic() - self.budget.start
        self.budget.begin = self.budget.start + self.progress.began

    def begin_epoch(self, side: int | None, samples: int) -> None:
        """Begin an epoch with `samples` training samples of this crop side, None where the plan has none."""
        self.progress.side, self.samples = side, samples
        # A step's time grows with the pixels, so the estimate holds across a change of the crop side.
        self.budget.step_seconds *= (self.side / self._side_before) ** self.dimensions
        self._side_before = self.side
        self.budget.steps_per_epoch = -(-self._epoch_samples // self.step_samples)  # with a smaller last one

    def count_step(self, step: int, samples: int, loss: float) -> None:
        """Count the step of this number. loss: NaN where the step was skipped."""
        progress = self.progress
        progress.seen += samples
        if math.isnan(loss):
            progress.skipped, progress.bad_steps = progress.skipped + 1, progress.bad_steps + 1
        else:
            progress.bad_steps = 0
            progress.loss_sum += loss * samples
            progress.loss_images += samples
        self.step = step

    def time_step(self, seconds: float) -> None:
        """Update the running mean of a step's time, and estimate a validation's until one has been timed."""
        self._timed_steps += 1
        budget = self.budget
        is_warming_up = self._timed_steps <= 2  # the first step allocates memory and chooses algorithms
        budget.step_seconds = seconds if is_warming_up else 0.7 * budget.step_seconds + 0.3 * seconds
        if not self._has_timed_validation:
            # A step of samples of full size.
            full_step = budget.step_seconds * (self.size / self.side) ** self.dimensions
            forward_passes = self.val_samples + self.plan.statistics
            budget.validation_seconds = FORWARD * full_step * forward_passes / self.step_samples

    def time_validation(self, seconds: float) -> None:
        self.budget.validation_seconds, self._has_timed_validation = seconds, True

    def estimate(self) -> str:
        """A sentence on when the run will end, after the first few steps; else ''."""
        if self._timed_steps != STEPS_BEFORE_ESTIMATE:
            return ""
        budget = self.budget
        epoch = budget.steps_per_epoch * budget.step_seconds + budget.validation_seconds / self.plan.validate_every
        remaining = duration(budget.remaining(self.done))
        ends = f"in {remaining} at the latest" if self.plan.is_open else f"in about {remaining}"
        return f"One step takes {budget.step_seconds:.2g} s, an epoch {duration(epoch)}; the run ends {ends}."

    def end_epoch(self, lr: float, scores: dict[str, float] | None) -> EpochResult:
        """Close the epoch. lr: learning rate of its last step. scores: see `add_scores`, None without validation."""
        progress = self.progress
        progress.end_epoch(
            EpochResult(
                epoch=progress.epoch,
                step=self.step,
                seconds=time.monotonic() - self.budget.start,
                lr=lr,
                train_loss=progress.loss_sum / progress.loss_images if progress.loss_images else math.nan,
                skipped=progress.skipped,
            )
        )
        return progress.rows[-1] if scores is None else self.add_scores(scores)

    def add_scores(self, scores: dict[str, float]) -> EpochResult:
        """Add the scores of the averaged weights, see `validate`, to the row of the last epoch; empty without a
        validation part."""
        before, last = self.progress.best, self.progress.rows[-1]
        row = replace(
            last,
            val_loss=scores.get("loss"),
            val_dice=scores.get("dice"),
            val_set_dice=scores.get("set_dice"),
            val_iou=scores.get("iou"),
            val_mean_iou=scores.get("mean_iou"),
            val_foreground=scores.get("foreground"),
            averaged=True,
            val_classes={key.removeprefix("dice_"): value for key, value in scores.items() if key.startswith("dice_")},
            val_core_dice=scores.get("core_dice"),
        )
        # A network whose loss is not finite is never the best one: -1 is below every score.
        score = row.score if row.score is not None and math.isfinite(scores["loss"]) else -1.0
        self.progress.rows[-1] = replace(row, is_best=not scores or score > before)
        return self.progress.rows[-1]

    def cool_down_where_settled(self) -> int | None:
        """Begin the cool-down of an open run that has converged, or that would exceed the budget one epoch later.

        Returns the epochs of a cool-down that begins now, else None.
        """
        progress, limit = self.progress, self.budget.epochs
        if not self.plan.is_open or progress.cooling is not None or limit is None:
            return None
        done = progress.epoch - 1
        if not has_settled(progress.scores) and done + cooldown_epochs(done + 1) < limit:
            return None
        progress.cooling = done
        self.resume_from(progress)
        return cooldown_epochs(done)

    def resume_from(self, progress: Progress, step: int | None = None) -> None:
        """Restore the progress of an interrupted run. step: its last optimizer step, None to keep this one's."""
        self.progress = progress
        self.step = self.step if step is None else step
        if self.plan.is_open and progress.cooling is not None:
            self.budget.epochs = progress.cooling + cooldown_epochs(progress.cooling)

    @property
    def _epoch_samples(self) -> int:
        """Samples of the current epoch: a pass over the training data may be several epochs."""
        # Parts differ by one sample at most: the k-th ends at floor(samples * (k + 1) / parts).
        parts = min(self.plan.parts, self.samples)
        part = (self.progress.epoch - 1) % parts if parts else 0
        return self.samples * (part + 1) // parts - self.samples * part // parts if parts else 0
