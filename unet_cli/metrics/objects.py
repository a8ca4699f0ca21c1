"""Instance matching in one image and class: predicted and true objects match if their IoU is high enough.

A mask of objects holds their numbers: 0 for background, any positive integers for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unet_cli.metrics.overlap import dice, iou

PERCENTS = np.arange(50, 100, 5)
OBJECT_IOUS = PERCENTS / 100


@dataclass(frozen=True)
class Matches:
    """The matches between the predicted and the true objects of an image.

    counts: (10, 3) int64 TP, FP, FN at each of OBJECT_IOUS. found, missed, false: (n,) int64 areas in pixels, in the
    order of the objects' numbers: true objects with and without a match at 0.5, and predicted objects without one.
    """

    counts: np.ndarray
    found: np.ndarray
    missed: np.ndarray
    false: np.ndarray


def match_objects(pred: np.ndarray, target: np.ndarray, ignored: np.ndarray | None = None) -> Matches:
    """Match two masks of object numbers, integers of up to 32 bits; ignored: bool of the same shape.

    A match is a pair with IoU = intersection / union > threshold. No threshold is below 0.5, so an object has one match
    at most. An IoU that equals the threshold is no match; the comparison is exact, in integers. Ignored pixels belong
    to no object; an object that is entirely ignored does not count. Any number of dimensions.

    Source: the evaluation of the 2018 Data Science Bowl (Caicedo et al., "Nucleus segmentation across imaging
    experiments", Nature Methods 2019).
    """
    if ignored is not None:
        pred, target = np.where(ignored, 0, pred), np.where(ignored, 0, target)
    true, predicted, shared = overlaps(target, pred)
    true_areas, area_of_true = _areas(true, shared)
    pred_areas, area_of_pred = _areas(predicted, shared)
    union = area_of_true + area_of_pred - shared
    hits = (100 * shared[:, None] > PERCENTS * union[:, None]) & ((true > 0) & (predicted > 0))[:, None]
    tp = hits.sum(0)
    counts = np.stack([tp, len(pred_areas) - tp, len(true_areas) - tp], axis=-1)
    is_found = np.isin(_numbers(true), true[hits[:, 0]])
    is_matched = np.isin(_numbers(predicted), predicted[hits[:, 0]])
    return Matches(counts, true_areas[is_found], true_areas[~is_found], pred_areas[~is_matched])


def overlaps(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two arrays of one shape, integers from 0 up to 32 bits -> (n,) int64 each: the pairs of numbers that overlap, in
    ascending order, and the pixels in their intersection."""
    assert first.shape == second.shape
    first, second = first.ravel(), second.ravel()
    width = int(second.max(initial=0)) + 1
    # Run-length encoding first: sorting the few runs is much faster than sorting all pixels.
    starts = np.flatnonzero(np.append(first.size > 0, (first[1:] != first[:-1]) | (second[1:] != second[:-1])))
    pairs, indices = np.unique(first[starts].astype(np.int64) * width + second[starts], return_inverse=True)
    shared = np.bincount(indices, np.diff(starts, append=first.size), minlength=len(pairs))
    return pairs // width, pairs % width, shared.astype(np.int64)


def bowl_score(counts: np.ndarray) -> np.ndarray:
    """(..., 10, 3) counts -> (...) mean over OBJECT_IOUS of TP / (TP + FP + FN), 0 to 1; NaN without any object.

    The challenge averages it over images. Source: see `match_objects`.
    """
    return iou(counts, np.nan).mean(-1)


def object_f1(counts: np.ndarray) -> np.ndarray:
    """(..., 10, 3) counts -> (...) 2 TP / (2 TP + FP + FN) at IoU 0.5, 0 to 1; NaN without any object.

    Source: Caicedo et al. 2019, see `match_objects`, where it is the F1 score at one threshold.
    """
    return dice(np.asarray(counts)[..., 0, :], np.nan)


def object_f1_75(counts: np.ndarray) -> np.ndarray:
    """The same at IoU 0.75."""
    return dice(np.asarray(counts)[..., PERCENTS.tolist().index(75), :], np.nan)


def _numbers(paired: np.ndarray) -> np.ndarray:
    return np.unique(paired[paired > 0])


def _areas(paired: np.ndarray, shared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One side of the pairs and their intersections -> areas of its objects, in ascending order of number; and for each
    pair the area of its object."""
    numbers, indices = np.unique(paired, return_inverse=True)
    areas = np.bincount(indices, shared, minlength=len(numbers)).astype(np.int64)
    return areas[numbers > 0], areas[indices]
