"""Noise is no class: values that editors, resizing and JPEG leave, told from classes by their place.

A value is sure where a part of its pixels lies within areas of it. Noise has hardly any such pixel: it lies on the
borders between others or alone. How rare a value is says nothing, since a lesion may be smaller than the noise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from unet_cli.data.labels.stats import FEW_VALUES, FLAT, MIN_CORES, Held, Total
from unet_cli.data.maskfile import UNLABELLED

MIN_AREA = 16  # pixels within areas of a value that no class has, from which a mask is not noisy but wrong
MIN_PIXELS = 64  # of a level of JPEG, within areas of it
MIN_RANGE = 100  # from the lowest to the highest value; below, each number is meant
NEAR = 8  # between a value and the sure one that it is a slip of
SHADES = 4  # as many values without areas are shades, and not thin classes
ON_BORDERS, ALONE = 0.5, 0.4  # share of a value's pixels between others; parts a pixel
WINDOW = 4  # values beside a level of JPEG that most of its pixels have
FLATNESS, PEAK = 0.2, 0.4  # share of a level's pixels in areas; of the pixels near it that lie in WINDOW
FEW_MASKS, OF_MANY = 0.05, 20  # share of the masks that hold a slip, of at least so many
MAX_NOISE = 0.3  # share of the pixels that are noise, where JPEG made it
BESIDE = 2  # pixels from noise, within which a soft edge is part of it
MAIN, NEARLY_ALL = 0.05, 0.9  # share of the pixels without areas that each level of lines has, and all of them
NO_RAMPS = 0.3  # share of such pixels on ramps, below which lines cross, and are not soft
SNAP = 4  # from a level of JPEG to the end of the range that is meant


class Levels(NamedTuple):
    """The values that are meant. reach: how far JPEG leads from them. noise: values that are not meant. drawn: those
    that are meant though they cover no areas, for thin lines were drawn in them."""

    values: list[int]
    reach: int = 0
    noise: frozenset[int] = frozenset()
    drawn: frozenset[int] = frozenset()


def find_levels(held: Held, ignore: int | None) -> Levels:
    """Of gray levels or numbers, all of them where there is no noise."""
    totals = {value: total for value, total in held.totals.items() if value not in (ignore, UNLABELLED)}
    values = list(totals)
    if len(values) < 3:
        return Levels(values)
    sure = _sure(totals)
    thin = [value for value in values if value not in sure]
    noise = {value for value in thin if _is_slip(value, totals[value], sure, values, len(held.masks))}
    drawn = _drawn({value: totals[value] for value in thin if value not in noise}, sure)
    doubtful = [value for value in thin if value not in noise | drawn and _is_shade(totals[value])]
    if len(doubtful) + len(noise) >= SHADES and values[-1] - values[0] >= MIN_RANGE:
        noise |= set(doubtful)
    if len(values) > FEW_VALUES and values[-1] - values[0] >= MIN_RANGE:
        peaks = _peaks(totals)
        far = sum(totals[value].pixels for value in peaks.noise)
        if len(peaks.values) > 1 and far < MAX_NOISE * held.pixels and not sure & peaks.noise:
            return peaks
    return Levels([value for value in values if value not in noise], 0, frozenset(noise), frozenset(drawn))


def _sure(totals: dict[int, Total]) -> set[int]:
    """Those that cover areas; of thin structures alone the most frequent ones."""
    sure = {value for value, total in totals.items() if total.has_areas}
    for value in sorted(totals, key=lambda value: -totals[value].pixels):
        if len(sure) >= 2:
            break
        sure.add(value)
    return sure


def _drawn(thin: dict[int, Total], sure: set[int]) -> set[int]:
    """Of values without areas, far from those that have some, those that thin lines were drawn in: a few hold nearly
    all such pixels, and lie on no ramps, on which soft edges and resized lines have nearly all of theirs."""
    reach = FLAT if max(sure | set(thin)) < 256 else FLAT * 257
    far = {value: one for value, one in thin.items() if min(abs(value - other) for other in sure) > reach}
    pixels = sum(one.pixels for one in far.values())
    most = {value: one for value, one in far.items() if one.pixels >= MAIN * pixels}
    held = sum(one.pixels for one in most.values())
    ramps = sum(one.ramps for one in most.values())
    return set(most) if held >= max(MIN_PIXELS, NEARLY_ALL * pixels) and ramps < NO_RAMPS * held else set()


def _is_shade(total: Total) -> bool:
    return total.ramps >= ON_BORDERS * total.pixels or total.parts >= ALONE * total.pixels


def _is_slip(value: int, total: Total, sure: set[int], values: list[int], masks: int) -> bool:
    """Beside one sure value, on borders or alone; or alone in a few of many masks, or hardly there at all."""
    alone = total.parts >= ALONE * total.pixels
    if alone and masks >= OF_MANY and total.masks <= FEW_MASKS * masks:
        return True
    if values[-1] - values[0] < MIN_RANGE:
        return False
    if alone and total.pixels < MIN_CORES:
        return True
    near = [other for other in sure if abs(other - value) <= NEAR]
    return len(near) == 1 and (_is_shade(total) or min(value, *near) > FEW_VALUES)


def _peaks(totals: dict[int, Total]) -> Levels:
    """The levels that JPEG has blurred: where pixels in flat areas crowd around a value."""
    values = np.array(list(totals))
    scale = 1 if values[-1] < 256 else 257
    pixels = np.array([total.pixels for total in totals.values()])
    flats = np.array([total.flats for total in totals.values()])
    left = flats.copy()
    chosen: list[int] = []
    while left.any():
        ends = [np.searchsorted(values, values + side) for side in (-WINDOW * scale, WINDOW * scale + 1)]
        sums = np.concatenate([[0], np.cumsum(left)])
        masses = np.where(left > 0, sums[ends[1]] - sums[ends[0]], 0)
        best = values[masses.argmax()]
        window, around = np.abs(values - best) <= WINDOW * scale, np.abs(values - best) <= FLAT * scale
        if masses.max() < MIN_PIXELS:
            break
        level = int(values[window][left[window].argmax()])
        is_peak = flats[window].sum() >= max(FLATNESS * pixels[window].sum(), PEAK * flats[around].sum())
        if is_peak:
            chosen.append(level)
        left[np.abs(values - level) <= FLAT * scale] = 0
    top = 255 * scale
    for end in (0, top):  # which a mask holds beside what JPEG made of it
        if end in totals:
            chosen = [end if abs(level - end) <= SNAP * scale else level for level in chosen]
    chosen.sort()
    reach = min(FLAT * scale, int(np.diff(chosen).min() - 1) // 3) if len(chosen) > 1 else 0
    far = [value for value in totals if min((abs(value - level) for level in chosen), default=0) > reach]
    return Levels(chosen, reach, frozenset(far))


def nearest_sure(indices: np.ndarray, light: np.ndarray, step: int) -> np.ndarray:
    """(H, W) class indices, -1 where there is noise -> the same, noise taking the class of the nearest sure pixel.

    Not sure is also what lies beside noise on a ramp from darker to lighter by more than `step`, and not in or beside
    an area of its class: a soft edge from black to white goes through all grays. light: (H, W), for this comparison.
    """
    from scipy.ndimage import distance_transform_edt, maximum_filter, minimum_filter

    low, high = (extreme(indices, 3, mode="nearest") for extreme in (minimum_filter, maximum_filter))
    in_areas = maximum_filter(low == high, 3) & (indices >= 0)
    darkest, lightest = (extreme(light, 3, mode="nearest") for extreme in (minimum_filter, maximum_filter))
    beside_noise = maximum_filter(indices < 0, 2 * BESIDE + 1)
    on_ramp = (darkest < light - step) & (lightest > light + step) & ~in_areas & beside_noise
    sure = (indices >= 0) & ~on_ramp
    if not sure.any():
        return indices
    nearest = distance_transform_edt(~sure, return_distances=False, return_indices=True)
    return indices[tuple(nearest)]
