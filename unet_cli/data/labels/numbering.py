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
MIN_PARTIAL = 2  # masks that don't show every value, without which counting from 1 says nothing
UNUSED = 0.75  # of as many different values as numbers drawn at random would give, below which they are codes
MIN_CODES = 8  # repeats of values, without which it says nothing that few are used
MIN_BACKGROUND = 0.05  # of the pixels are 0 where objects are numbered on a background
IN_ORDER = 0.8  # correlation of places with numbers, as where objects are numbered from the top


class Difference(NamedTuple):
    """Between values. ratio: the F ratio. explained: the share of the whole variance that is between them."""

    ratio: float
    explained: float


class Counting(NamedTuple):
    """Of the masks that hold anything but 0. highest: value of each. numbers: values in each. gapless: whether these
    are all from 1 to the highest. held: the values of all of them."""

    highest: list[int]
    numbers: list[int]
    gapless: list[bool]
    held: set[int]

    @property
    def share_gapless(self) -> float:
        return sum(self.gapless) / len(self.gapless)

    @property
    def goes_on_from_one(self) -> bool:
        """Whether masks that don't show every value, which have no gaps whatever these are, count from 1."""
        both = zip(self.gapless, self.numbers, strict=True)
        partial = [gapless for gapless, number in both if number < len(self.held)]
        return len(partial) >= MIN_PARTIAL and sum(partial) >= COUNTING * len(partial)


def are_objects(masks: Sequence[ValueStats], ignore: int | None) -> Verdict:
    """Of numbers in masks, 0 being background.

    'objects': they count far and differently from mask to mask, or don't recur, or nothing tells the values apart.
    'classes': they recur, as several areas, or each with a size, a brightness or a place of its own; or are codes, of
    which few of the numbers that could be are used; or planes, as many in each mask. 'doubtful': a few numbers that
    count from 1, each a single area, and not enough is there to tell.
    """
    planes = {stats.planes for stats in masks}
    if len(planes) == 1 and 0 not in planes:
        return "classes"
    verdict = _verdict_on_numbers(masks, ignore)
    return "doubtful" if verdict == "objects" and planes != {0} else verdict  # a plane an object, or a class


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
    limit = 2 * APART if counting.goes_on_from_one else APART  # luck makes the lower one, once in ten small sets
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
    """Of many values in the set and few in a mask, each a single area: whether they recur."""
    count, every = sum(counting.numbers), len(counting.held)
    recur, often = count >= RECURRING * every, count >= OFTEN * every
    if max(counting.numbers) == 1:  # an animal of one of some species in each image, say
        return "classes" if recur else "doubtful"
    if often and counting.share_gapless < COUNTING:
        return "classes"
    # A small set shows most of its classes once or twice, but few of them in one image.
    are_many = every > MANY_CLASSES or count >= SEVERAL * len(counting.highest)
    return "objects" if are_many and (not recur or (are_alike and not often)) else "doubtful"


def _verdict_on_a_few(counting: Counting, are_alike: bool) -> Verdict:
    """Of few values, each a single area: numbers of objects go on from 1 without gaps, and how far differs."""
    if len(counting.held) < 2:
        return "classes"
    filled = sum(counting.numbers) / sum(counting.highest)
    if are_alike and filled >= COUNTING and sum(counting.numbers) > len(counting.highest):
        return "objects" if len(counting.held) > 2 else "doubtful"
    counts_vary = len(set(counting.highest)) > 2 and counting.share_gapless >= COUNTING
    return "doubtful" if counts_vary or counting.goes_on_from_one else "classes"


def _are_codes(counting: Counting) -> bool:
    """Whether values recur more than numbers that are drawn from as many: codes leave most of the numbers unused."""
    count, most = sum(counting.numbers), max(counting.held)
    expected = most * (1 - math.exp(-count / most))  # different ones
    return len(counting.held) < UNUSED * expected and count - len(counting.held) >= MIN_CODES


def _have_background(masks: Sequence[ValueStats]) -> bool:
    whole = sum(sum(stats.counts.values()) + stats.rest for stats in masks)
    return sum(stats.counts.get(0, 0) for stats in masks) >= MIN_BACKGROUND * whole


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
