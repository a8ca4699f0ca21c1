"""Objects of one class of one image, found and missed: a pair counts where the two overlap enough.

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
    """What a prediction found of an image's objects.

    counts: (10, 3) int64 TP, FP, FN at each of OBJECT_IOUS. found, missed, false: (n,) int64 areas in pixels, in the
    order of the objects' numbers: of the truth's objects with and without a match at 0.5, and of the prediction's
    objects without one.
    """

    counts: np.ndarray
    found: np.ndarray
    missed: np.ndarray
    false: np.ndarray


def match_objects(pred: np.ndarray, target: np.ndarray, ignored: np.ndarray | None = None) -> Matches:
    """(H, W) numbers of objects twice, integers of up to 32 bits, and (H, W) bool pixels to leave out.

    A match is a pair with IoU = shared / union > threshold. None of the thresholds is below 0.5, so an object is in one
    match at most. An IoU that is a threshold exactly is no match, which is told in integers. Ignored pixels belong to
    no object; an object of nothing else is none. Any number of dimensions.

    Source: the evaluation of the 2018 Data Science Bowl (Caicedo et al., "Nucleus segmentation across imaging
    experiments", Nature Methods 2019).
    """
    if ignored is not None:
        pred, target = np.where(ignored, 0, pred), np.where(ignored, 0, target)
    true, seen, shared = overlaps(target, pred)
    true_areas, of_true = _areas(true, shared)
    seen_areas, of_seen = _areas(seen, shared)
    union = of_true + of_seen - shared
    hits = (100 * shared[:, None] > PERCENTS * union[:, None]) & ((true > 0) & (seen > 0))[:, None]
    tp = hits.sum(0)
    counts = np.stack([tp, len(seen_areas) - tp, len(true_areas) - tp], axis=-1)
    is_found, is_matched = np.isin(_numbers(true), true[hits[:, 0]]), np.isin(_numbers(seen), seen[hits[:, 0]])
    return Matches(counts, true_areas[is_found], true_areas[~is_found], seen_areas[~is_matched])


def overlaps(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two arrays of one shape, integers from 0 up to 32 bits -> (n,) int64 each: the pairs of numbers that share
    pixels, in ascending order, and how many they share.

    Runs of a pair are counted as one: the pairs of a mask are few, its pixels are many.
    """
    assert first.shape == second.shape
    first, second = first.ravel(), second.ravel()
    width = int(second.max(initial=0)) + 1
    starts = np.flatnonzero(np.append(first.size > 0, (first[1:] != first[:-1]) | (second[1:] != second[:-1])))
    pairs, places = np.unique(first[starts].astype(np.int64) * width + second[starts], return_inverse=True)
    shared = np.bincount(places, np.diff(starts, append=first.size), minlength=len(pairs))
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


def _numbers(paired: np.ndarray) -> np.ndarray:
    return np.unique(paired[paired > 0])


def _areas(paired: np.ndarray, shared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One side of the pairs and what they share -> areas of its objects, in their order; and for each pair its area."""
    numbers, places = np.unique(paired, return_inverse=True)
    areas = np.bincount(places, shared, minlength=len(numbers)).astype(np.int64)
    return areas[numbers > 0], areas[places]
