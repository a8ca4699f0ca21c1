"""The plan of a run: plain values that are decided once, before the first step, and stored with the run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from unet_cli.system.schema import Misfit, parsed

MAX_COUNT = 10**7  # upper bound of each count in a plan
FORWARD = 1 / 3  # share of the forward pass in a training step


@dataclass(frozen=True)
class Plan:
    """The plan of a run.

    sides: crop side in pixels of each training phase; empty: as the data set cuts its samples. until: share of the run,
    0 to 1, at which each phase ends. repeats: passes over the training images in an epoch; parts: epochs in a pass.
    validate_every: epochs between validations; the last epoch is always validated. val_images: validation images used,
    None: all. statistics: training images, or crops of as many pixels, from which batch norm's statistics are
    recomputed before a validation. is_open: the run ends when it has converged. threads: CPU threads, None: torch's
    default. channels_last: see Compute. reason: why the network has its width, in words.
    """

    sides: tuple[int, ...] = ()
    until: tuple[float, ...] = ()
    repeats: int = 1
    parts: int = 1
    validate_every: int = 1
    val_images: int | None = None
    statistics: int = 32
    is_open: bool = False
    threads: int | None = None
    channels_last: bool = True
    reason: str = ""

    def side_at(self, progress: float) -> int | None:
        """Crop side in pixels at this share of the run, 0 to 1; None without phases."""
        return next((side for side, end in zip(self.sides, self.until, strict=True) if progress < end), self.last_side)

    @property
    def last_side(self) -> int | None:
        return self.sides[-1] if self.sides else None

    def passes(self, epochs: float) -> float:
        """Passes over the training images in so many epochs."""
        return epochs * self.repeats / self.parts

    def epochs(self, passes: float) -> float:
        """Epochs of so many passes over the training images."""
        return passes * self.parts / self.repeats

    def plain(self) -> dict[str, Any]:
        """Plain values for the checkpoint."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Plan:
        """The plan from the values of `plain`. Raises Misfit."""
        plan = parsed(cls, values, "plan")
        counts = (plan.repeats, plan.parts, plan.validate_every, plan.statistics, *plan.sides)
        optional = [count for count in (plan.val_images, plan.threads) if count is not None]
        if len(plan.sides) != len(plan.until) or not all(0 < count < MAX_COUNT for count in (*counts, *optional)):
            raise Misfit(f"plan is {plan}")
        return plan
