"""Separate noise from classes: values caused by editors, resizing and JPEG, recognized by their position.

A value is intended ("sure") if a part of its pixels lies within areas of it. Noise has hardly any such pixel: it is at
the borders between other values, or isolated. Rarity is no criterion, since a lesion may be smaller than the noise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from unet_cli.data.labels.stats import FEW_VALUES, FLAT, MIN_CORES, Held, Total
from unet_cli.data.maskfile import UNLABELLED

MIN_AREA = 16  # pixels within areas of an unknown value, from which a mask is wrong instead of noisy
MIN_PIXELS = 64  # minimum pixels within areas of a level blurred by JPEG
MIN_RANGE = 100  # minimum range of values that may contain noise; below, each number is intended
NEAR = 8  # maximum distance of a drawing error from its intended value
SHADES = 4  # minimum number of values without areas that are shades and no thin classes
ON_BORDERS, ALONE = 0.5, 0.4  # minimum fraction of pixels between other values; minimum components per pixel
WINDOW = 4  # half width of the peak around a level blurred by JPEG
FLATNESS, PEAK = 0.2, 0.4  # minimum fraction of a level's pixels in areas; of those near it within WINDOW
FEW_MASKS, OF_MANY = 0.05, 20  # maximum fraction of masks with a drawing error; minimum number of masks
MAX_NOISE = 0.3  # maximum fraction of noise pixels after JPEG
BESIDE = 2  # distance from noise, in pixels, within which a soft edge is noise too
MAIN, NEARLY_ALL = 0.05, 0.9  # minimum fraction of the pixels without areas: of each line level, of all together
NO_RAMPS = 0.3  # maximum fraction of these on ramps; lines that merely cross have less, soft ones more
SNAP = 4  # maximum distance of a level from an end of the range that is intended instead


class Levels(NamedTuple):
    """The intended values. reach: maximum deviation from them that JPEG causes. noise: values that are not intended.
    drawn: intended values without areas, of thin lines."""

    values: list[int]
    reach: int = 0
    noise: frozenset[int] = frozenset()
    drawn: frozenset[int] = frozenset()


def find_levels(held: Held, ignore: int | None) -> Levels:
    """The intended gray levels or numbers; all of them if there is no noise."""
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
    """The values that cover areas; if all structures are thin, the most frequent ones."""
    sure = {value for value, total in totals.items() if total.has_areas}
    for value in sorted(totals, key=lambda value: -totals[value].pixels):
        if len(sure) >= 2:
            break
        sure.add(value)
    return sure


def _drawn(thin: dict[int, Total], sure: set[int]) -> set[int]:
    """Values without areas, far from those with areas, in which thin lines were drawn: a few values have nearly all
    such pixels, and few of these are on ramps, unlike those of soft edges and resized lines."""
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
    """Whether a value is a drawing error: near one intended value, on borders or isolated; or isolated in a few of many
    masks, or of very few pixels."""
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
    """The levels before JPEG blurred them: peaks in the histogram of pixels in flat areas."""
    values = np.array(list(totals))
    scale = 1 if values[-1] < 256 else 257
    pixels = np.array([total.pixels for total in totals.values()])
    flats = np.array([total.flats for total in totals.values()])
    # Greedy: take the window with most pixels in flat areas, remove its surroundings, repeat.
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
    for end in (0, top):  # JPEG keeps some pixels at the ends of the range exact
        if end in totals:
            chosen = [end if abs(level - end) <= SNAP * scale else level for level in chosen]
    chosen.sort()
    reach = min(FLAT * scale, int(np.diff(chosen).min() - 1) // 3) if len(chosen) > 1 else 0
    far = [value for value in totals if min((abs(value - level) for level in chosen), default=0) > reach]
    return Levels(chosen, reach, frozenset(far))


def nearest_sure(indices: np.ndarray, light: np.ndarray, step: int) -> np.ndarray:
    """(H, W) class indices, -1 for noise -> the same with noise replaced by the class of the nearest intended pixel.

    Pixels near noise are replaced too if they are on a ramp of more than `step` and not in or beside an area of their
    class: a soft edge from black to white passes through all grays. light: (H, W), the brightness for ramps.
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
