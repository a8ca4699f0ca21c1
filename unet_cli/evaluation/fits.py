"""How objects may be grown from their cores, of which an evaluation finds the best way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np

from unet_cli.config.prediction import Cleaning
from unet_cli.data.cores import marked
from unet_cli.data.labels import LabelMap
from unet_cli.inference.numbering import objects_of

CORE_THRESHOLDS, SMALLEST = (0.3, 0.5, 0.7), (0, 10, 20, 40, 80)
# Probability of a core, whether cores are separated at their necks, and pixels of the smallest object.
CORE_FITS = tuple(product(CORE_THRESHOLDS, (False, True), SMALLEST))
LEVELS = len(CORE_THRESHOLDS) + 1


def core_levels(classes: np.ndarray, cores: np.ndarray) -> np.ndarray:
    """Uint8 class indices and the probabilities of cores -> uint16 that encodes the classes and how many of
    CORE_THRESHOLDS are reached. From these all of CORE_FITS can be grown."""
    reached = np.searchsorted(np.array(CORE_THRESHOLDS, cores.dtype), cores, side="right")
    return classes * np.uint16(LEVELS) + reached.astype(np.uint16)


def grown_by_fits(levels: np.ndarray, labels: LabelMap) -> Iterator[list[np.ndarray]]:
    """The object numbers of each class by each of CORE_FITS. levels: of `core_levels`; labels: of the truth."""
    for level, is_split in product(range(len(CORE_THRESHOLDS)), (False, True)):
        numbers = _grown(levels, level, is_split, labels)
        for smallest in SMALLEST:
            yield _of_classes(levels, numbers, smallest, labels)


def grown_by(fit: int, levels: np.ndarray, labels: LabelMap) -> list[np.ndarray]:
    """The object numbers of each class by one of CORE_FITS."""
    threshold, is_split, smallest = CORE_FITS[fit]
    numbers = _grown(levels, CORE_THRESHOLDS.index(threshold), is_split, labels)
    return _of_classes(levels, numbers, smallest, labels)


def _grown(levels: np.ndarray, level: int, is_split: bool, labels: LabelMap) -> np.ndarray:
    indices = marked((levels // LEVELS).astype(np.uint8), levels % LEVELS > level)
    return objects_of(indices, Cleaning(split_touching=is_split), replace(labels, cores=True))


def _of_classes(levels: np.ndarray, numbers: np.ndarray, smallest: int, labels: LabelMap) -> list[np.ndarray]:
    """Without objects of fewer than `smallest` pixels."""
    kept = np.where((np.bincount(numbers.ravel()) >= smallest)[numbers], numbers, 0)
    return [np.where(labels.region(levels // LEVELS, number), kept, 0) for number in labels.scored]
