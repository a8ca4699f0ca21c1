"""Distinguish object numbers from classes: by how values recur between masks, and whether they differ statistically."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from unet_cli.data.labels.stats import FEW_VALUES, Shape, ValueStats

Verdict = Literal["objects", "classes", "doubtful"]

MANY_CLASSES = 40  # more than people draw
SEVERAL = 4  # single-component values in a mask, a number that classes seldom reach
DOZEN = 12  # usual maximum number of classes that are a single component each
ONE_PART = 0.8  # minimum fraction of single components among the values of all masks, for objects
COUNTING = 0.8  # minimum fraction of masks that count from 1 without gaps
RECURRING = 2  # minimum mean number of masks with a value, if values recur
OFTEN = 8  # the same for values that may be classes though they don't differ statistically
RARELY = 3  # minimum ratio of distinct values in the set to those in one mask, if values don't recur
# F ratios of a one-way analysis of variance (between values over within values); about 1 for interchangeable values.
ALIKE, APART = 2.5, 8.0
FIXED = 0.8  # minimum explained variance of a position that is characteristic of its value
EXPLAINED = 0.15  # minimum explained variance (eta squared): with many masks, tiny differences have high F ratios
MIN_REPEATS = 24  # minimum degrees of freedom within values, if F ratios of about 1 are to be evidence
MIN_PARTIAL = 2  # minimum number of masks without some value, if counting from 1 is to be evidence
UNUSED = 0.75  # fraction of the distinct values expected from random numbers, below which values are codes
MIN_CODES = 8  # minimum repetitions of values, if few distinct ones are to be evidence
MIN_BACKGROUND = 0.05  # minimum fraction of 0 for objects numbered on a background
IN_ORDER = 0.8  # minimum correlation of position and number, as in objects numbered from the top


class Difference(NamedTuple):
    """The difference between values in one property. ratio: the F ratio. explained: fraction of the variance that is
    between values (eta squared)."""

    ratio: float
    explained: float


class Counting(NamedTuple):
    """The numbers in each mask with any value but 0. highest: the highest value of each mask. numbers: the count of
    values in each. gapless: whether these are all from 1 to the highest. held: the set of all values."""

    highest: list[int]
    numbers: list[int]
    gapless: list[bool]
    held: set[int]

    @property
    def share_gapless(self) -> float:
        return sum(self.gapless) / len(self.gapless)

    @property
    def goes_on_from_one(self) -> bool:
        """Whether masks without some value count from 1; masks with every value have no gaps in any case."""
        both = zip(self.gapless, self.numbers, strict=True)
        partial = [gapless for gapless, number in both if number < len(self.held)]
        return len(partial) >= MIN_PARTIAL and sum(partial) >= COUNTING * len(partial)


def are_objects(masks: Sequence[ValueStats], ignore: int | None) -> Verdict:
    """The verdict on numbers in masks with 0 as background.

    'objects': they count far and differently from mask to mask, or don't recur, or don't differ statistically.
    'classes': they recur, with several components, or with a characteristic size, brightness or position; or they are
    codes, which use few of the possible numbers; or planes, the same number in each mask. 'doubtful': a few numbers
    that count from 1, each a single component, with too little evidence.
    """
    planes = {stats.planes for stats in masks}
    if len(planes) == 1 and 0 not in planes:
        return "classes"
    verdict = _verdict_on_numbers(masks, ignore)
    return "doubtful" if verdict == "objects" and planes != {0} else verdict  # planes may be objects or classes


def _verdict_on_numbers(masks: Sequence[ValueStats], ignore: int | None) -> Verdict:
    counting = _counting(masks, ignore)
    if not counting.highest:
        return "classes"
    several, most = len(set(counting.highest)), max(counting.highest)
    are_codes = _are_codes(counting)
    if most > 255 and len(counting.held) >= FEW_VALUES and not are_codes:
        beyond = sum(number > 255 for number in counting.highest)
        if 2 * max(several, beyond) >= len(counting.highest):
            return "objects"
    count_far = several >= max(2, min(4, len(counting.highest))) and most > DOZEN and counting.share_gapless >= COUNTING
    if not count_far and _share_of_single_parts(masks, ignore) < ONE_PART:
        return "classes"
    ratios = _differences(masks, ignore)
    limit = 2 * APART if counting.goes_on_from_one else APART  # APART occurs by chance in 1 of 10 small sets
    apart = {name for name, one in (ratios or {}).items() if one.ratio > limit and one.explained > EXPLAINED}
    if count_far:
        return "classes" if apart & {"size", "gray"} else "objects"
    if apart:
        return "classes"
    if are_codes:
        return "classes" if len(counting.held) <= DOZEN or not _have_background(masks) else "doubtful"
    are_alike = ratios is not None and max(one.ratio for one in ratios.values()) < ALIKE
    is_long = len(counting.held) > DOZEN and len(counting.held) >= RARELY * max(counting.numbers)
    if is_long and len(counting.highest) > 1:
        return _verdict_on_many(counting, are_alike)
    return _verdict_on_a_few(counting, are_alike)


def _verdict_on_many(counting: Counting, are_alike: bool) -> Verdict:
    """The verdict on many values in the set and few in a mask, each a single component: by recurrence."""
    count, every = sum(counting.numbers), len(counting.held)
    recur, often = count >= RECURRING * every, count >= OFTEN * every
    if max(counting.numbers) == 1:  # for example, one animal of some species in each image
        return "classes" if recur else "doubtful"
    if often and counting.share_gapless < COUNTING:
        return "classes"
    # In a small set most classes occur once or twice, but few of them in one image.
    are_many = every > MANY_CLASSES or count >= SEVERAL * len(counting.highest)
    return "objects" if are_many and (not recur or (are_alike and not often)) else "doubtful"


def _verdict_on_a_few(counting: Counting, are_alike: bool) -> Verdict:
    """The verdict on few values, each a single component: object numbers count from 1 without gaps, up to varying
    numbers."""
    if len(counting.held) < 2:
        return "classes"
    filled = sum(counting.numbers) / sum(counting.highest)
    if are_alike and filled >= COUNTING and sum(counting.numbers) > len(counting.highest):
        return "objects" if len(counting.held) > 2 else "doubtful"
    counts_vary = len(set(counting.highest)) > 2 and counting.share_gapless >= COUNTING
    return "doubtful" if counts_vary or counting.goes_on_from_one else "classes"


def _are_codes(counting: Counting) -> bool:
    """Whether values recur more often than numbers drawn at random up to the highest: codes leave most numbers
    unused."""
    count, most = sum(counting.numbers), max(counting.held)
    expected = most * (1 - math.exp(-count / most))  # expected distinct values of `count` draws with replacement
    return len(counting.held) < UNUSED * expected and count - len(counting.held) >= MIN_CODES


def _have_background(masks: Sequence[ValueStats]) -> bool:
    whole = sum(sum(stats.counts.values()) + stats.rest for stats in masks)
    return sum(stats.counts.get(0, 0) for stats in masks) >= MIN_BACKGROUND * whole


def are_drawn_at_random(masks: Sequence[ValueStats]) -> bool:
    """Whether colours are random object colours: each object has its own, on black, and they don't recur."""
    held = {value for stats in masks for value in stats.counts} - {0}
    fullest = max(len(stats.counts.keys() - {0}) for stats in masks)
    on_black = sum(0 in stats.counts for stats in masks) >= COUNTING * len(masks)
    do_not_recur = len(masks) > 1 and len(held) > DOZEN and len(held) >= RARELY * fullest
    return on_black and do_not_recur and _share_of_single_parts(masks, None) >= ONE_PART


def could_be_objects(masks: Sequence[ValueStats], ignore: int | None) -> bool:
    """Whether values can be read as object numbers, if two classes are expected: each is a single component."""
    if are_objects(masks, ignore) != "classes":
        return True
    return _share_of_single_parts(masks, ignore) >= ONE_PART


def _counting(masks: Sequence[ValueStats], ignore: int | None) -> Counting:
    counting = Counting([], [], [], set())
    for stats in masks:
        held = stats.counts.keys() - {0, ignore}
        if held:
            counting.highest.append(max(held))
            counting.numbers.append(len(held))
            counting.gapless.append(stats.rest == 0 and len(held) == max(held))
            counting.held.update(held)
    return counting


def _share_of_single_parts(masks: Sequence[ValueStats], ignore: int | None) -> float:
    """The fraction of single components among all values of all masks with known shapes."""
    parts = [
        shape.parts for stats in masks for value, shape in stats.shapes.items() if value not in (0, ignore)
    ]  # Euler number: a hole counts as -1
    return sum(number <= 1 for number in parts) / max(len(parts), 1)


def _differences(masks: Sequence[ValueStats], ignore: int | None) -> dict[str, Difference] | None:
    """Differences of values in size, brightness and position, without those that merely follow the numbering; None if
    values hardly recur, or nothing varies."""
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
        # Objects may be numbered from the top, or from the largest: a trend with the number is no evidence of classes,
        # unless positions are fixed.
        means = [group[:, place].mean() for group in groups.values()]
        moves = name != "gray" and len(groups) > 2 and np.ptp(means) > 0  # a correlation needs variation
        follows = moves and abs(np.corrcoef(means, list(groups))[0, 1]) > IN_ORDER
        if not follows or explained > FIXED:
            found[name] = Difference(ratio, explained)
    if not found or (max(one.ratio for one in found.values()) < ALIKE and repeats < MIN_REPEATS):
        return None
    return found


def _figures(pixels: int, shape: Shape) -> tuple[float, float, float, float]:
    return math.log(pixels), shape.gray, shape.row, shape.column
