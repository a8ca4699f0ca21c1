"""Numbers of objects, or classes: by how values recur from mask to mask, and whether anything tells them apart."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from unet_cli.data.labels.stats import FEW_VALUES, Shape, ValueStats

Verdict = Literal["objects", "classes", "doubtful"]

MANY_CLASSES = 40  # more than people draw
SEVERAL = 4  # values in a mask, each a single area, that classes seldom reach
DOZEN = 12  # classes of which each is a single connected area are seldom more
ONE_PART = 0.8  # share of the values of all masks that are a single connected area, from which they may be objects
COUNTING = 0.8  # share of the masks that count from 1 without gaps
RECURRING = 2  # masks that hold a value, on average, from which values recur
OFTEN = 8  # the same, from which even values that nothing tells apart may be classes
RARELY = 3  # times as many values in the set as in the fullest mask: values don't recur
# F ratios (variance between values over variance within, per degree of freedom); of interchangeable ones about 1.
ALIKE, APART = 2.5, 8.0
FIXED = 0.8  # share of the variance that is between values, from which a place is a value's own
EXPLAINED = 0.15  # share of the variance, below which many masks make a ratio of what is no difference
MIN_REPEATS = 24  # values beyond one of each, without which F ratios of about 1 say nothing
IN_ORDER = 0.8  # correlation of places with numbers, as where objects are numbered from the top


class Difference(NamedTuple):
    """Between values. ratio: the F ratio. explained: the share of the whole variance that is between them."""

    ratio: float
    explained: float


class Counting(NamedTuple):
    """Of the masks that hold anything but 0: the highest value of each, and how many count up to it without gaps."""

    highest: list[int]
    gapless: int


def are_objects(masks: Sequence[ValueStats], ignore: int | None) -> Verdict:
    """Of numbers in masks, 0 being background.

    'objects': they count far and differently from mask to mask, or don't recur, or nothing tells the values apart.
    'classes': they recur, as several areas, or each with a size, a brightness or a place of its own. 'doubtful': a few
    numbers that count from 1, each a single area, and not enough is there to tell.
    """
    counting = _counting(masks, ignore)
    if not counting.highest:
        return "classes"
    held = {value for stats in masks for value in stats.counts} - {0, ignore}
    several, most = len(set(counting.highest)), max(counting.highest)
    gapless = counting.gapless / len(counting.highest)
    if most > 255 and len(held) >= FEW_VALUES:
        beyond = sum(number > 255 for number in counting.highest)
        if 2 * max(several, beyond) >= len(counting.highest):
            return "objects"
    count_far = several >= max(2, min(4, len(counting.highest))) and most > DOZEN and gapless >= COUNTING
    if not count_far and _share_of_single_parts(masks, ignore) < ONE_PART:
        return "classes"
    ratios = _differences(masks, ignore)
    apart = {name for name, one in (ratios or {}).items() if one.ratio > APART and one.explained > EXPLAINED}
    if count_far:
        return "classes" if apart & {"size", "gray"} else "objects"
    if apart:
        return "classes"
    numbers = [len(stats.counts.keys() - {0, ignore}) for stats in masks]
    are_alike = ratios is not None and max(one.ratio for one in ratios.values()) < ALIKE
    if len(held) > DOZEN and len(held) >= RARELY * max(numbers) and len(counting.highest) > 1:
        recur = sum(numbers) >= RECURRING * len(held)
        if max(numbers) == 1:  # an animal of one of some species in each image, say
            return "classes" if recur else "doubtful"
        often = sum(numbers) >= OFTEN * len(held)
        if often and gapless < COUNTING:
            return "classes"
        # A small set shows most of its classes once or twice, but few of them in one image.
        are_many = len(held) > MANY_CLASSES or sum(numbers) >= SEVERAL * len(counting.highest)
        return "objects" if are_many and (not recur or (are_alike and not often)) else "doubtful"
    if len(held) < 3:
        return "classes"
    filled = sum(numbers) / sum(counting.highest)
    if are_alike and filled >= COUNTING and sum(numbers) > len(counting.highest):
        return "objects"
    return "doubtful" if several > 2 and gapless >= COUNTING else "classes"


def are_drawn_at_random(masks: Sequence[ValueStats]) -> bool:
    """Of colours: each object has one of its own, on black, which doesn't recur."""
    held = {value for stats in masks for value in stats.counts} - {0}
    fullest = max(len(stats.counts.keys() - {0}) for stats in masks)
    on_black = sum(0 in stats.counts for stats in masks) >= COUNTING * len(masks)
    do_not_recur = len(masks) > 1 and len(held) > DOZEN and len(held) >= RARELY * fullest
    return on_black and do_not_recur and _share_of_single_parts(masks, None) >= ONE_PART


def could_be_objects(masks: Sequence[ValueStats], ignore: int | None) -> bool:
    """Whether it makes sense to take them for numbers of objects, where two classes are expected: each is a single
    area."""
    if are_objects(masks, ignore) != "classes":
        return True
    return _share_of_single_parts(masks, ignore) >= ONE_PART


def _counting(masks: Sequence[ValueStats], ignore: int | None) -> Counting:
    highest, gapless = [], 0
    for stats in masks:
        held = [value for value in stats.counts if value not in (0, ignore)]
        if held:
            highest.append(max(held))
            gapless += stats.rest == 0 and len(held) == max(held)
    return Counting(highest, gapless)


def _share_of_single_parts(masks: Sequence[ValueStats], ignore: int | None) -> float:
    """Of all values in all masks, as far as their shapes are known."""
    parts = [
        shape.parts for stats in masks for value, shape in stats.shapes.items() if value not in (0, ignore)
    ]  # a hole counts as -1
    return sum(number <= 1 for number in parts) / max(len(parts), 1)


def _differences(masks: Sequence[ValueStats], ignore: int | None) -> dict[str, Difference] | None:
    """How values differ in size, brightness and place, without what only follows the numbers; None where values hardly
    recur, or nothing varies."""
    seen: dict[int, list[tuple[float, float, float, float]]] = defaultdict(list)
    for stats in masks:
        for value, shape in stats.shapes.items():
            if value not in (0, ignore) and shape.row >= 0:
                seen[value].append(_figures(stats.counts[value], shape))
    groups = {value: np.array(figures) for value, figures in seen.items() if len(figures) > 1}
    repeats = sum(len(group) for group in groups.values()) - len(groups)
    if len(groups) < 2 or repeats < len(groups):
        return None
    everything = np.concatenate(list(groups.values()))
    within = sum(((group - group.mean(0)) ** 2).sum(0) for group in groups.values()) / repeats
    middle = everything.mean(0)
    between = sum(len(group) * (group.mean(0) - middle) ** 2 for group in groups.values()) / (len(groups) - 1)
    found: dict[str, Difference] = {}
    for place, name in enumerate(("size", "gray", "row", "column")):
        if between[place] + within[place] < 1e-9:
            continue
        ratio = float(between[place] / max(within[place], 1e-9))
        whole = between[place] * (len(groups) - 1) + within[place] * repeats
        explained = float(between[place] * (len(groups) - 1) / whole)
        # Numbered from the top, or from the largest: what only follows the numbers says nothing, unless it is fixed.
        means = [group[:, place].mean() for group in groups.values()]
        moves = name != "gray" and len(groups) > 2 and np.ptp(means) > 0  # equal ones follow nothing
        follows = moves and abs(np.corrcoef(means, list(groups))[0, 1]) > IN_ORDER
        if not follows or explained > FIXED:
            found[name] = Difference(ratio, explained)
    if not found or (max(one.ratio for one in found.values()) < ALIKE and repeats < MIN_REPEATS):
        return None
    return found


def _figures(pixels: int, shape: Shape) -> tuple[float, float, float, float]:
    return math.log(pixels), shape.gray, shape.row, shape.column
