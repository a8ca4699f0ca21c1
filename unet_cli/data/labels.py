"""Mask values and class indices: found from the masks of a data set, replayed when masks are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from unet_cli.errors import UserError

MAX_CLASSES = 256
SMALL_INTEGERS = 15  # values up to here are invisible as gray: masks are then written with a palette

# Paul Tol's 'bright' and 'light' schemes: told apart by colour-blind people. Background is black.
CLASS_COLOURS = (
    (0, 0, 0), (102, 204, 238), (238, 102, 119), (34, 136, 51), (204, 187, 68), (68, 119, 170), (170, 51, 119),
    (187, 187, 187), (119, 170, 221), (238, 136, 102), (238, 221, 136), (255, 170, 187), (153, 221, 255),
    (68, 187, 153), (187, 204, 51), (170, 170, 0),
)  # fmt: skip


@dataclass(frozen=True)
class ValueStats:
    """What was seen in one mask: counts of its values, and of values surrounded by the same value ('plateaus')."""

    counts: dict[int, int]
    plateaus: dict[int, int]


@dataclass(frozen=True)
class LabelMap:
    """Class index <-> mask value.

    values: for each class index the value that masks hold, background first. soft: the masks are binary with
    intermediate values at the borders (anti-aliased, JPEG); from the middle on, a value is foreground.
    palette: (r, g, b, r, g, ...) where the masks have one.
    """

    values: tuple[int, ...]
    soft: bool = False
    palette: tuple[int, ...] | None = None

    @property
    def num_classes(self) -> int:
        return len(self.values)

    def encode(self, mask: np.ndarray) -> np.ndarray:
        """(H, W) mask values -> (H, W) uint8 class indices. Raises UserError at a value that no class has."""
        if self.soft:
            return (mask >= (self.values[0] + self.values[1]) / 2).astype(np.uint8)
        known = np.asarray(self.values)
        indices = np.searchsorted(known, mask).clip(max=len(known) - 1)
        strangers = known[indices] != mask
        if strangers.any():
            raise UserError(f"holds the value {mask[strangers][0]}, but the classes are {self._values()}")
        return indices.astype(np.uint8)

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """(H, W) class indices -> (H, W) mask values, uint8 or uint16."""
        return np.asarray(self.values, dtype=np.uint8 if self.values[-1] < 256 else np.uint16)[indices]

    @property
    def written_palette(self) -> list[int] | None:
        """The palette to write masks with: the user's own, or visible colours for small integers, or none."""
        if self.palette is not None:
            return list(self.palette)
        if self.values[-1] > SMALL_INTEGERS:
            return None
        if self.num_classes == 2:
            return [0, 0, 0] * self.values[1] + [255, 255, 255]
        return [part for colour in CLASS_COLOURS[: self.values[-1] + 1] for part in colour]

    def describe(self) -> str:
        """The map in words, for the log."""
        if self.num_classes == 2:
            low, high = self.values
            rule = (
                f"values from {(low + high) / 2:g} on are foreground"
                if self.soft
                else f"{low} is background, {high} foreground"
            )
            return f"2 classes ({rule})"
        return f"{self.num_classes} classes (values {self._values()})"

    def plain(self) -> dict[str, Any]:
        palette = None if self.palette is None else list(self.palette)
        return {"values": list(self.values), "soft": self.soft, "palette": palette}

    @classmethod
    def from_plain(cls, value: dict[str, Any]) -> LabelMap:
        palette = value["palette"]
        return cls(tuple(value["values"]), value["soft"], None if palette is None else tuple(palette))

    def _values(self) -> str:
        shown = [str(value) for value in self.values]
        return ", ".join(shown if len(shown) <= 12 else [*shown[:11], "...", shown[-1]])


def value_stats(mask: np.ndarray) -> ValueStats:
    """Count the values of an (H, W) mask, and those whose four neighbours all have the same value."""
    counts = np.bincount(mask.ravel())
    inner = mask[1:-1, 1:-1]
    same = (
        (inner == mask[:-2, 1:-1]) & (inner == mask[2:, 1:-1]) & (inner == mask[1:-1, :-2]) & (inner == mask[1:-1, 2:])
    )
    plateaus = np.bincount(inner[same])
    return ValueStats(_as_dict(counts), _as_dict(plateaus))


def find_labels(masks: list[ValueStats], palette: list[int] | None = None) -> LabelMap:
    """The label map that all masks of a data set agree with.

    Two values are background and foreground, the smaller one first; one value alone is all background (or, if it isn't
    0, all foreground). More values are classes, unless they look like a binary mask that was smoothed: see `_kind`.
    Raises UserError where there are more values than classes can be.
    """
    counts = _sum(stats.counts for stats in masks)
    values = sorted(counts)
    fixed = None if palette is None else tuple(palette)
    if len(values) == 1:
        only = values[0]
        return LabelMap((0, only) if only else (0, 255 if palette is None else 1), palette=fixed)
    if palette is None and _kind(counts, _sum(stats.plateaus for stats in masks)) == "soft":
        return LabelMap((values[0], values[-1]), soft=True)
    if len(values) > MAX_CLASSES:
        raise UserError(
            f"the masks hold {len(values):,} different values up to {values[-1]:,}: these look like object numbers, "
            "not classes. Save masks with one value for each class, such as 0 for background and 255 for objects"
        )
    return LabelMap(tuple(values), palette=fixed)


def _kind(counts: dict[int, int], plateaus: dict[int, int]) -> Literal["classes", "soft"]:
    """Classes, or a binary mask with soft borders.

    A binary mask that was smoothed, resized or saved as JPEG has two values that most pixels hold, one in the lower and
    one in the upper half of the range. The other values are rare and stand on ramps and in noise: few such pixels have
    four neighbours of their own value. Classes cover areas of their own.
    """
    low, high = min(counts), max(counts)
    if high - low < 100 or len(counts) < 4:
        return "classes"
    middle = (low + high) / 2
    dominant = {
        max((value for value in counts if (value < middle) == below), key=lambda value: counts[value])
        for below in (True, False)
    }
    others = [value for value in counts if value not in dominant]
    pixels = sum(counts[value] for value in others)
    flat = sum(plateaus.get(value, 0) for value in others)
    is_binary = pixels < 0.3 * sum(counts.values()) and flat < 0.3 * pixels
    return "soft" if is_binary else "classes"


def _as_dict(counts: np.ndarray) -> dict[int, int]:
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def _sum(parts: Any) -> dict[int, int]:
    total: dict[int, int] = {}
    for part in parts:
        for value, count in part.items():
            total[value] = total.get(value, 0) + count
    return total
