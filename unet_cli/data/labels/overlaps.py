"""Classes that have files or shapes of their own: whether they overlap, or only touch, or are one class twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from unet_cli.config.model import MAX_OVERLAPPING
from unet_cli.data.labels.label_map import LabelMap
from unet_cli.data.labels.stats import ValueStats
from unet_cli.data.maskfile import SETS
from unet_cli.system.console import few

SLIVER_SHARE = 0.01  # of the smaller of two classes: below, only their borders overlap
MIN_CORES = 0.25  # share of an overlap's pixels that lie within it, not at its border: slivers have fewer,
NARROW_SHARE = 0.1  # and are this share of the smaller class at most
TWICE = 0.75  # IoU of two classes that are rather two versions of one mask


@dataclass(frozen=True)
class Overlap:
    """What two classes share, over all masks. numbers: of the classes, from 1. pixels: of both. smaller: pixels of the
    smaller class. union: pixels of either. cores: of `pixels`, those within areas of the same classes."""

    numbers: tuple[int, int]
    pixels: int
    smaller: int
    union: int
    cores: int

    @property
    def is_sliver(self) -> bool:
        """Whether it is what careless borders, or the pixels of a common outline, leave."""
        is_narrow = self.cores < MIN_CORES * self.pixels and self.pixels < NARROW_SHARE * self.smaller
        return is_narrow or self.pixels < SLIVER_SHARE * self.smaller

    @property
    def are_versions(self) -> bool:
        return self.pixels >= TWICE * self.union


def overlaps(masks: Sequence[ValueStats], count: int) -> list[Overlap]:
    """Of each pair of the classes 1 to `count` that share pixels."""
    of_set, cores = Counter[int](), Counter[int]()
    for stats in masks:
        for value, pixels in stats.counts.items():
            if value >= SETS and not stats.colour:
                of_set[value - SETS] += pixels
                cores[value - SETS] += stats.shapes[value].cores if value in stats.shapes else pixels
            elif 0 < value <= count:
                of_set[1 << value - 1] += pixels
    totals = [sum(pixels for held, pixels in of_set.items() if held >> number & 1) for number in range(count)]
    found = []
    for one, other in combinations(range(count), 2):
        shared = [held for held in of_set if held >> one & 1 and held >> other & 1]
        pixels = sum(of_set[held] for held in shared)
        if pixels:
            smaller, union = min(totals[one], totals[other]), totals[one] + totals[other] - pixels
            found.append(Overlap((one + 1, other + 1), pixels, smaller, union, sum(cores[held] for held in shared)))
    return found


def may_overlap(labels: LabelMap, found: Sequence[Overlap]) -> bool:
    """Whether classes are to be learned as such that overlap."""
    return 2 < labels.num_classes <= MAX_OVERLAPPING + 1 and any(not one.is_sliver for one in found)


def describe_overlaps(labels: LabelMap, found: Sequence[Overlap]) -> str:
    """A line on what is done with them; '' where no classes share a pixel."""
    if not found:
        return ""
    shared = sorted(found, key=lambda one: -one.pixels / max(one.smaller, 1))
    told = [
        f"{' and '.join(labels.names[number] for number in one.numbers)} "
        f"({one.pixels / max(one.smaller, 1):.1%} of the smaller one)"
        for one in shared
    ]
    if labels.overlapping:
        return f"classes overlap: {few(told)}; each is learned by itself, and predict writes a mask for each"
    why = "along borders alone"
    if any(not one.is_sliver for one in found):
        why = f"and only {MAX_OVERLAPPING} classes can be learned as such"
    return f"classes overlap, {why}: {few(told)}; the later class counts there"
