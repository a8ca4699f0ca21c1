"""Time per stage of a pipeline, to report the bottleneck."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class StageTimes:
    """Seconds that one thread, which drives a pipeline, spends in each stage or waiting for it.

    rest: name of the stage that all other time belongs to. place: current position in a large item, such as 'tile 3 of
    12'.
    """

    place = ""

    def __init__(self, rest: str) -> None:
        self._start = time.perf_counter()
        self._rest = rest
        self._stages: dict[str, float] = defaultdict(float)

    @property
    def seconds(self) -> float:
        """Seconds since the creation."""
        return time.perf_counter() - self._start

    def spent(self, stage: str) -> float:
        """Seconds spent in a stage, or waiting for it."""
        return self._stages[stage]

    @contextmanager
    def during(self, stage: str) -> Iterator[None]:
        """The time in the block counts for the stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._stages[stage] += time.perf_counter() - start

    def waiting(self, stage: str, items: Iterable[Item]) -> Iterator[Item]:
        """Pass the items on; the time spent waiting for them counts for the stage."""
        iterator = iter(items)
        while True:
            with self.during(stage):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def describe(self) -> str:
        """'tile 3 of 12, limited by reading (71% of the time)'."""
        total = self.seconds
        stages = dict(self._stages)
        stages[self._rest] = total - sum(stages.values())
        stage = max(stages, key=lambda name: stages[name])
        limit = f"limited by {stage} ({stages[stage] / total:.0%} of the time)"
        return f"{self.place}, {limit}" if self.place else limit
