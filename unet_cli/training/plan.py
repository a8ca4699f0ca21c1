"""How a run spends its time: plain values that are decided once, before the first step, and stored with the run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from unet_cli.system.schema import Misfit, parsed

MAX_COUNT = 10**7  # of whatever a plan counts
FORWARD = 1 / 3  # of a training step's work is its forward pass


@dataclass(frozen=True)
class Plan:
    """The course of a run.

    sides: of what the network sees in training, in pixels, one phase after the other; none: as the data set cuts it.
    until: the share of the run, 0 to 1, at which each of these phases ends. repeats: passes over the training images
    that an epoch is; parts: or epochs that a pass is. validate_every: epochs from one validation to the next; the last
    one is always validated. val_images: of the validation part that are looked at, None: all. statistics: training
    images, or crops as large as these together, that batch norm's statistics are found from before a validation.
    is_open: the run ends when it has stopped learning. threads: that compute on a CPU, None: as many as torch takes.
    channels_last: see Compute. reason: in words, why the network has its width.
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
        """What the network sees when so much of the run, 0 to 1, is behind it."""
        return next((side for side, end in zip(self.sides, self.until, strict=True) if progress < end), self.last_side)

    @property
    def last_side(self) -> int | None:
        return self.sides[-1] if self.sides else None

    def passes(self, epochs: float) -> float:
        """Over the training images, in so many epochs."""
        return epochs * self.repeats / self.parts

    def epochs(self, passes: float) -> float:
        """That so many passes over the training images are."""
        return passes * self.parts / self.repeats

    def plain(self) -> dict[str, Any]:
        """Plain values that a checkpoint holds."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Plan:
        """What `plain` gave. Raises Misfit."""
        found = parsed(cls, values, "plan")
        counts = (found.repeats, found.parts, found.validate_every, found.statistics, *found.sides)
        optional = [count for count in (found.val_images, found.threads) if count is not None]
        if len(found.sides) != len(found.until) or not all(0 < count < MAX_COUNT for count in (*counts, *optional)):
            raise Misfit(f"plan is {found}")
        return found
