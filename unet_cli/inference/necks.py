"""Where an object has necks: objects that touch are separated there."""

from __future__ import annotations

import numpy as np

from unet_cli.data.objects import neighbours, steps_to_neighbours

# Chosen on outlines of cell nuclei, and so that bars, ellipses, rings and winding lines of constant width aren't split.
SMOOTHING = 0.7  # standard deviation in pixels, which removes the staircase of a drawn outline
NECK = 0.15  # minimum rise of a part above its neck in the distance map, as a share of its own height,
STEP = 0.75  # and in pixels
SMALLEST_PAIR = 24  # pixels; smaller objects can't have a neck by these measures


def parts_of(inside: np.ndarray) -> np.ndarray:
    """([d,] h, w) bool, an object with background around -> part number of each of its pixels, from 0, in reading
    order.

    The watershed of the distance map (Beucher and Lantuéjoul 1979): each pixel belongs to the maximum at the end of its
    steepest ascent (Meyer 1994). Basins are then merged over their highest saddles unless the lower maximum exceeds
    the saddle by NECK and STEP: its dynamics (Grimaud 1992), here relative to its own height, so that small and large
    objects are treated alike.
    """
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    distance = distance_transform_edt(inside).astype(np.float32)
    heights = gaussian_filter(distance, SMOOTHING, mode="nearest")[inside]
    order = np.argsort(heights, kind="stable")
    # Ranks in place of heights make every pixel's height unique, so that there are no plateaus.
    rank = np.empty(len(order), dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    ranks = np.full(inside.shape, -1, dtype=np.int32)
    ranks[inside] = rank
    summits, basins = _basins(ranks)
    if len(summits) == 1:
        return np.zeros_like(rank)
    owners = _merged(heights[order], summits, *_saddles(ranks, basins))
    return np.unique(owners[basins[rank]], return_inverse=True)[1]


def _basins(ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([d,] h, w) ranks of n pixels by height, -1 elsewhere -> ranks of the maxima, ascending; (n,) basin of each
    rank."""
    from scipy.ndimage import maximum_filter

    inside = ranks >= 0
    upward = np.empty(np.count_nonzero(inside), dtype=np.int32)
    upward[ranks[inside]] = maximum_filter(ranks, 3, mode="nearest")[inside]
    # Pointer jumping: every round doubles the length of the ascent that is followed.
    while not np.array_equal(upward, further := upward[upward]):
        upward = further
    return np.unique(upward, return_inverse=True)


def _saddles(ranks: np.ndarray, basins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of the highest saddle between each pair of adjacent basins, descending, and (saddles, 2) these basins."""
    saddles, pairs = [], []
    for step in steps_to_neighbours(ranks.ndim):
        one, other = (ranks[part] for part in neighbours(step))
        both = (one >= 0) & (other >= 0)
        one, other = one[both], other[both]
        meet = basins[one] != basins[other]
        saddles.append(np.minimum(one, other)[meet])
        pairs.append(np.sort(basins[np.stack([one[meet], other[meet]], axis=1)], axis=1))
    saddle, pair = np.concatenate(saddles), np.concatenate(pairs)
    descending = np.argsort(-saddle, kind="stable")
    saddle, pair = saddle[descending], pair[descending]
    highest = np.sort(np.unique(pair[:, 0] * len(basins) + pair[:, 1], return_index=True)[1])
    return saddle[highest], pair[highest]


def _merged(heights: np.ndarray, summits: np.ndarray, saddles: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(n,) heights by rank, ranks of maxima and saddles -> the basin into which each basin is merged, by union-find."""
    tops: list[float] = heights[summits].tolist()
    owners = list(range(len(tops)))

    def owner(basin: int) -> int:
        while owners[basin] != basin:
            owners[basin] = basin = owners[owners[basin]]
        return basin

    # From the highest saddle down, so that a basin is compared with the highest maximum that it is connected to.
    for saddle, pair in zip(heights[saddles].tolist(), pairs.tolist(), strict=True):
        low, high = sorted(map(owner, pair))
        if tops[low] - saddle < max(NECK * tops[low], STEP):
            owners[low] = high
    return np.array([owner(basin) for basin in owners])
