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
    splits, merges: the number of true objects that are split, and of predicted ones that merge several; see
    `compare_objects`.
    """

    counts: np.ndarray
    found: np.ndarray
    missed: np.ndarray
    false: np.ndarray
    splits: int
    merges: int


@dataclass(frozen=True)
class Side:
    """The true or the predicted objects of an image, in ascending order of their numbers, (n,) each.

    numbers, areas: int64. is_matched: with a match at IoU 0.5. is_shared: whether two or more objects of the other side
    share it: a split if it is true, a merge if it is predicted. shares: whether an object of the other side that is
    shared in this sense is among its partners: a true object that was merged with others, or a part of a split one.
    """

    numbers: np.ndarray
    areas: np.ndarray
    is_matched: np.ndarray
    is_shared: np.ndarray
    shares: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """The objects of an image and what became of each. counts: see Matches."""

    true: Side
    pred: Side
    counts: np.ndarray

    @property
    def matches(self) -> Matches:
        true, pred = self.true, self.pred
        return Matches(
            self.counts,
            true.areas[true.is_matched],
            true.areas[~true.is_matched],
            pred.areas[~pred.is_matched],
            int(true.is_shared.sum()),
            int(pred.is_shared.sum()),
        )


def match_objects(pred: np.ndarray, target: np.ndarray, ignored: np.ndarray | None = None) -> Matches:
    """The matches of two masks of object numbers, see `compare_objects`."""
    return compare_objects(pred, target, ignored).matches


def compare_objects(pred: np.ndarray, target: np.ndarray, ignored: np.ndarray | None = None) -> Comparison:
    """Compare two masks of object numbers, integers of up to 32 bits; ignored: bool of the same shape.

    A match is a pair with IoU = intersection / union > threshold. No threshold is below 0.5, so an object has one match
    at most. An IoU that equals the threshold is no match; the comparison is exact, in integers. Ignored pixels belong
    to no object; an object that is entirely ignored does not count. Any number of dimensions.

    A true and a predicted object are partners if they share more than half of the smaller one. A split is a true object
    with two or more partners, a merge a predicted one.

    Source: matches are those of the 2018 Data Science Bowl (Caicedo et al., "Nucleus segmentation across imaging
    experiments", Nature Methods 2019). Splits and merges are counted as in the code of Caicedo et al., "Evaluation of
    Deep Learning Strategies for Nucleus Segmentation in Fluorescence Images", Cytometry A 2019, which takes an IoU
    above 0.1 for partners. Here it is half of an object, as in the Cell Tracking Challenge (Matula et al., PLoS ONE
    2015): by IoU, an object that covers ten equal ones or more would be no merge.
    """
    if ignored is not None:
        pred, target = np.where(ignored, 0, pred), np.where(ignored, 0, target)
    true, predicted, shared = overlaps(target, pred)
    trues, of_true, true_areas = _objects(true, shared)
    preds, of_pred, pred_areas = _objects(predicted, shared)
    area_of_true, area_of_pred = true_areas[of_true], pred_areas[of_pred]
    both = (true > 0) & (predicted > 0)
    hits = (100 * shared[:, None] > PERCENTS * (area_of_true + area_of_pred - shared)[:, None]) & both[:, None]
    tp = hits.sum(0)
    counts = np.stack([tp, (preds > 0).sum() - tp, (trues > 0).sum() - tp], axis=-1)
    are_partners = both & (2 * shared > np.minimum(area_of_true, area_of_pred))
    splits, merges = (
        np.bincount(of[are_partners], minlength=len(numbers)) > 1
        for of, numbers in ((of_true, trues), (of_pred, preds))
    )

    def side(numbers: np.ndarray, of: np.ndarray, areas: np.ndarray, is_shared: np.ndarray, other: np.ndarray) -> Side:
        is_matched, shares = (np.bincount(of[pairs], minlength=len(numbers)) > 0 for pairs in (hits[:, 0], other))
        kept = numbers > 0
        return Side(numbers[kept], areas[kept], is_matched[kept], is_shared[kept], shares[kept])

    return Comparison(
        side(trues, of_true, true_areas, splits, are_partners & merges[of_pred]),
        side(preds, of_pred, pred_areas, merges, are_partners & splits[of_true]),
        counts,
    )


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


def surplus(counts: np.ndarray) -> np.ndarray:
    """(..., 10, 3) counts -> (...) the number of predicted objects minus that of true ones."""
    _, false, missed = np.moveaxis(np.asarray(counts)[..., 0, :], -1, 0)
    return false - missed


def true_objects(counts: np.ndarray) -> np.ndarray:
    """(..., 10, 3) counts -> (...) the number of true objects."""
    found, _, missed = np.moveaxis(np.asarray(counts)[..., 0, :], -1, 0)
    return found + missed


def _objects(paired: np.ndarray, shared: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One side of the pairs and their intersections -> the numbers of its objects, ascending, 0 for background; for
    each pair which of them it is of; and their areas."""
    numbers, indices = np.unique(paired, return_inverse=True)
    return numbers, indices, np.bincount(indices, shared, minlength=len(numbers)).astype(np.int64)
