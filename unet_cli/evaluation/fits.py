"""How objects may be grown from their cores, of which an evaluation finds the best way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np

from unet_cli.config.prediction import Cleaning
from unet_cli.data.cores import as_sets
from unet_cli.data.labels import LabelMap
from unet_cli.inference.cleaning import objects_of

CORE_THRESHOLDS, SMALLEST = (0.3, 0.5, 0.7), (0, 10, 20, 40, 80)
# Probability of a core, whether cores are separated at their necks, and pixels of the smallest object.
CORE_FITS = tuple(product(CORE_THRESHOLDS, (False, True), SMALLEST))


def core_levels(inside: np.ndarray, cores: np.ndarray) -> np.ndarray:
    """Where objects are, bool, and the probabilities of cores -> uint8: 0 outside of objects, else 1 and the number of
    CORE_THRESHOLDS that are reached. From these all of CORE_FITS can be grown."""
    reached = np.searchsorted(np.array(CORE_THRESHOLDS, cores.dtype), cores, side="right")
    return np.where(inside, 1 + reached, 0).astype(np.uint8)


def grown_by_fits(levels: np.ndarray, labels: LabelMap) -> Iterator[np.ndarray]:
    """The object numbers by each of CORE_FITS. levels: of `core_levels`; labels: of the truth."""
    for level, is_split in product(range(len(CORE_THRESHOLDS)), (False, True)):
        numbers = _grown(levels, level, is_split, labels)
        for smallest in SMALLEST:
            yield _without_small(numbers, smallest)


def grown_by(fit: int, levels: np.ndarray, labels: LabelMap) -> np.ndarray:
    """The object numbers by one of CORE_FITS."""
    threshold, is_split, smallest = CORE_FITS[fit]
    return _without_small(_grown(levels, CORE_THRESHOLDS.index(threshold), is_split, labels), smallest)


def _grown(levels: np.ndarray, level: int, is_split: bool, labels: LabelMap) -> np.ndarray:
    sets = as_sets(levels > 0, levels > level + 1)
    return objects_of(sets, Cleaning(split_touching=is_split), replace(labels, cores=True))


def _without_small(numbers: np.ndarray, smallest: int) -> np.ndarray:
    return np.where((np.bincount(numbers.ravel()) >= smallest)[numbers], numbers, 0)
