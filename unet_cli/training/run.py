"""A training run as the loop sees it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from unet_cli.data.samples.dataset import SegmentationDataset
from unet_cli.training.course import Course
from unet_cli.training.loader import TrainLoader
from unet_cli.training.step import Learner


@dataclass(frozen=True)
class Run:
    """The objects of the training loop: the learner (network and optimizer), the training loader, the validation data,
    and the course (progress, budget, schedule)."""

    learner: Learner
    loader: TrainLoader
    val_data: SegmentationDataset
    course: Course

    @property
    def is_consistent(self) -> bool:
        """Whether weights, optimizer and progress are of the same step, so that they can be saved. They are, except at
        the very end of a step and while the averaged weights are swapped in."""
        return self.course.step == self.learner.step and not self.learner.average.is_swapped

    def next_lr(self) -> float | None:
        """Learning rate of the next step, None where the budget allows none."""
        # Clocks differ between processes: the first one decides for all, or a collective would wait for ever.
        return self.learner.world.first(self.course.next_lr())

    def may_continue(self) -> bool:
        """Whether the budget allows another step and --patience another epoch; the same answer in all processes."""
        return self.next_lr() is not None and not self.course.has_lost_patience

    def weights(self, averaged: bool = False) -> dict[str, Tensor]:
        """A copy of the weights on the CPU, independent of further training."""
        state = self.learner.average.state_dict() if averaged else self.learner.model.state_dict()
        return {key: value.detach().to("cpu", copy=True) for key, value in state.items()}

    def state(self) -> dict[str, Any]:
        """State for resuming, beside the weights."""
        return {
            "learner": self.learner.state(),
            "progress": self.course.progress.plain(),
            "seconds": time.monotonic() - self.course.budget.start,
            "batch_size": self.loader.batch_size,
            "plan": self.course.plan.plain(),
        }
