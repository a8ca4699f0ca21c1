"""How many objects were found, missed, invented, split and merged: the numbers, and what is said of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unet_cli.metrics.objects import Matches


@dataclass(frozen=True)
class Tally:
    """Numbers of objects of one or more images. found: true objects with a match at IoU 0.5; missed: those without one;
    false: predicted objects without one. splits, merges: see metrics.objects.compare_objects."""

    found: int
    missed: int
    false: int
    splits: int
    merges: int

    @property
    def true(self) -> int:
        return self.found + self.missed

    @property
    def predicted(self) -> int:
        return self.found + self.false

    def plain(self) -> dict[str, int]:
        """For JSON."""
        return {"true": self.true, "predicted": self.predicted, **asdict(self)}

    @property
    def sentence(self) -> str:
        """'989 of 1,355 objects found, 263 false; 41 split, 87 merged'."""
        return (
            f"{self.found:,} of {self.true:,} objects found, {self.false:,} false; "
            f"{self.splits:,} split, {self.merges:,} merged"
        )

    @property
    def counted(self) -> str:
        """'1,252 objects predicted where there are 1,355: 103 too few (7.6 %)'."""
        return f"{self.predicted:,} objects predicted where there are {self.true:,}: {self.surplus}"

    @property
    def surplus(self) -> str:
        """'103 too few (7.6 %)'."""
        surplus = self.predicted - self.true
        share = f" ({100 * abs(surplus) / self.true:.1f} %)" if self.true and surplus else ""
        return f"{abs(surplus):,} too {'many' if surplus > 0 else 'few'}{share}" if surplus else "as many"


def tally(matches: Iterable[Matches]) -> Tally:
    """The sum over images and classes."""
    parts = [(one.found.size, one.missed.size, one.false.size, one.splits, one.merges) for one in matches]
    return Tally(*(sum(part) for part in zip(*parts, strict=True))) if parts else Tally(0, 0, 0, 0, 0)
