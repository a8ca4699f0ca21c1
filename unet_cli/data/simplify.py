"""Outlines with fewer corners that still draw the same objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from unet_cli.data.annotations.polygons import MAX_CROSSINGS, filled
from unet_cli.data.found import Window
from unet_cli.data.outline import Rings, joined

HALF_DIAGONAL = 0.36  # pixels; a little more than a line between the middles of two sides cuts off their corner
CLOSE, COARSE = 0.99, 0.5  # least agreement with the pixels: up to half a pixel of tolerance, and beyond
AREA = 0.02  # greatest difference from the area in pixels, likewise up to half a pixel
CROSSINGS_AT_ONCE = 2**22


def simplified(window: Window, rings: Rings, tolerance: float) -> Rings:
    """The rings of a window's objects (see outline.outlines) without corners that lie no farther than `tolerance`
    pixels from the rest (Douglas and Peucker 1973). 0 keeps every corner.

    An object whose polygon would no longer draw its pixels is simplified half as much, or not at all: small and thin
    ones.
    """
    done, waiting = [], rings
    for step in (tolerance, tolerance / 2):
        if step == 0 or not len(waiting):
            break
        fewer = thinned(_smoothed(waiting) if tolerance >= HALF_DIAGONAL else waiting, step)
        good = _faithful(window, fewer, tolerance)
        done.append(fewer.of(good))
        waiting = waiting.of(np.setdiff1d(waiting.owners, good))
    return joined([*done, waiting]) if done else rings


def _smoothed(rings: Rings) -> Rings:
    """Rings through the middles of the sides of pixels instead of their corners, but for corners between two longer
    straight lines: so stairs become slopes."""
    before, after = _neighbours(rings)
    ahead = rings.points[after] - rings.points
    length = np.abs(ahead).sum(1)
    is_real = (length > 1) & (length[before] > 1)
    step = np.sign(ahead)
    # Of each line its corner, or the middle of its first side; and that of its last one.
    points = np.stack([rings.points, rings.points + step / 2, rings.points[after] - step / 2], 1).reshape(-1, 2)
    kept = np.stack([is_real, ~is_real, ~is_real[after] & (length > 1)], 1).ravel()
    counts = np.add.reduceat(kept, 3 * rings.starts[:-1])
    return replace(rings, points=points[kept], starts=np.concatenate([[0], np.cumsum(counts)]))


def _neighbours(rings: Rings) -> tuple[np.ndarray, np.ndarray]:
    """For each point the one before and the one after it on its ring."""
    count = np.arange(len(rings.points))
    before, after = count - 1, count + 1
    before[rings.starts[:-1]] = rings.starts[1:] - 1
    after[rings.starts[1:] - 1] = rings.starts[:-1]
    return before, after


def thinned(rings: Rings, tolerance: float) -> Rings:
    """Of each ring only the points that are needed, all rings at a time: a round looks at every line once."""
    lengths = np.diff(rings.starts)
    ring = rings.ring_of_point
    middle = np.add.reduceat(rings.points, rings.starts[:-1]) / lengths[:, None]
    begin = _farthest(np.hypot(*(rings.points - middle[ring]).T), rings.starts[:-1])
    # Each ring as an open line from that point round to it again.
    long_starts = rings.starts[:-1] + np.arange(len(rings))
    place = np.arange(len(rings.points) + len(rings))
    ring = np.repeat(np.arange(len(rings)), lengths + 1)
    own = (place - long_starts[ring] + (begin - rings.starts[:-1])[ring]) % lengths[ring] + rings.starts[:-1][ring]
    points = rings.points[own]
    kept = np.zeros(len(points), bool)
    kept[long_starts] = kept[long_starts + lengths] = True
    while True:
        at = np.flatnonzero(kept)
        line = np.cumsum(kept) - 1
        ends = np.minimum(line + 1, len(at) - 1)
        distance = _distance(points, points[at[line]], points[at[ends]])
        distance[kept] = 0
        best = _farthest(distance, at)
        best = best[distance[best] > tolerance]
        if not len(best):
            break
        kept[best] = True
    kept[long_starts + lengths] = False
    counts = np.add.reduceat(kept, long_starts)
    return replace(rings, points=points[kept], starts=np.concatenate([[0], np.cumsum(counts)]))


def _farthest(distance: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """For each run of points that begins at `starts` the first one with the greatest distance."""
    lengths = np.diff(np.append(starts, len(distance)))
    is_top = np.flatnonzero(distance == np.repeat(np.maximum.reduceat(distance, starts), lengths))
    return is_top[np.searchsorted(is_top, starts)]


def _distance(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Of each point from its line of finite length."""
    along, to = end - start, points - start
    square = (along**2).sum(1)
    share = np.clip((to * along).sum(1) / np.where(square > 0, square, 1), 0, 1)
    return np.hypot(*(to - along * share[:, None]).T)


# --- what rings draw -------------------------------------------------------------------------------------------------


def _faithful(window: Window, rings: Rings, tolerance: float) -> np.ndarray:
    """The numbers of the objects whose rings draw them well enough."""
    pixels = np.bincount(window.numbers.ravel(), minlength=int(window.members[-1]) + 1)
    both, drawn = np.zeros((2, len(pixels)), np.int64)
    flat = np.ascontiguousarray(window.numbers.T).ravel()
    height, width = window.numbers.shape
    for some in _batches(rings):
        owners, groups = np.unique(some.owners, return_inverse=True)
        each = [some.ring(number) - window.origin[::-1] for number in range(len(some))]
        for places, group in filled(each, groups, (height, width)):
            drawn += np.bincount(owners[group], minlength=len(drawn))
            hit = owners[group[flat[places] == owners[group]]]
            both += np.bincount(hit, minlength=len(drawn))
    areas = np.zeros(len(drawn))
    np.add.at(areas, rings.owners, rings.areas())
    corners = np.full(len(drawn), 3)
    np.minimum.at(corners, rings.owners, np.diff(rings.starts))
    agreement = both / np.maximum(pixels + drawn - both, 1)
    good = agreement >= (CLOSE if tolerance <= 0.5 else COARSE)
    if tolerance <= 0.5:
        good &= np.abs(areas - pixels) <= AREA * pixels
    return np.flatnonzero(good & (corners >= 3) & (areas > 0))


def _batches(rings: Rings) -> Iterator[Rings]:
    """Whole objects whose rings cross not too many columns together. One that does so alone is left out."""
    _, after = _neighbours(rings)
    crossed = np.zeros(int(rings.owners.max(initial=0)) + 1, np.int64)
    steps = np.abs(rings.points[after, 0] - rings.points[:, 0]) + 1
    np.add.at(crossed, rings.owners[rings.ring_of_point], steps.astype(np.int64))
    owners = np.unique(rings.owners)
    owners = owners[crossed[owners] < MAX_CROSSINGS - CROSSINGS_AT_ONCE]
    batch = np.cumsum(crossed[owners]) // CROSSINGS_AT_ONCE
    for number in np.unique(batch):
        yield rings.of(owners[batch == number])
