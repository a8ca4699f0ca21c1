"""Pixels of several classes, which masks hold where classes have files or shapes of their own: see maskfile.SETS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from unet_cli.config.model import IGNORED, pixels_of
from unet_cli.data.labels.stats import ValueStats
from unet_cli.data.maskfile import SETS


def single(stats: ValueStats) -> ValueStats:
    """The statistics with the last class alone where pixels are of several."""
    if max(stats.counts, default=0) < SETS or stats.colour:
        return stats
    return replace(stats.renamed(last_of_sets), palette=stats.palette)


def last_of_sets(values: np.ndarray) -> np.ndarray:
    """Mask values with the last class alone where pixels are of several."""
    if values.dtype.kind != "i" or values.dtype.itemsize < 4:
        return values
    several = values >= SETS
    if not several.any():
        return values
    _, length = np.frexp(values & (SETS - 1))  # of a binary number
    return np.where(several, length.astype(values.dtype), values)


def alone(sets: np.ndarray, number: int) -> np.ndarray:
    """Sets of classes -> uint8, the mask of one class by itself: 1 where it is, IGNORED where ignored, else 0."""
    return np.where(sets == IGNORED, np.uint8(IGNORED), pixels_of(sets, number, True).astype(np.uint8))


def without_sets(values: np.ndarray) -> np.ndarray:
    """Mask values with 0 where pixels are of several classes."""
    return np.where(values < SETS, values, 0)


def sets_of(values: np.ndarray, classes: Sequence[int], indices: np.ndarray) -> np.ndarray:
    """Mask values of any shape -> sets of classes as int16, bit k - 1 for class k; -1 for values of no class.

    classes: the values of the foreground classes. indices: int16 class indices of the pixels that are of one class.
    """
    bits = np.left_shift(1, np.clip(indices - 1, 0, len(classes))).astype(np.int16)
    sets = np.where((indices > 0) & (indices != IGNORED), bits, indices)
    several = values >= SETS
    if several.any():
        held, rest = np.zeros(values.shape, np.int16), np.where(several, values & (SETS - 1), 0)
        for number, value in enumerate(classes):
            bit = 1 << value - 1
            held |= ((rest & bit) > 0).astype(np.int16) << number
            rest &= ~bit
        sets = np.where(several, np.where(rest > 0, np.int16(-1), held), sets)
    return sets
