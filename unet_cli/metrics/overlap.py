"""Overlap metrics from counts of pixels: true positives, false positives, false negatives and true negatives (TP, FP,
FN, TN) are summed first and divided once.

Per image and class; a class that is in neither mask scores 1 unless `empty` says otherwise. Ignored pixels are not
counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def confusion(pred: Tensor, target: Tensor, indices: int) -> Tensor:
    """Two (N, *spatial) arrays of class indices -> (N, indices, indices) int64 confusion matrix of each image, [target,
    pred].

    Pixels whose target is none of these indices, such as IGNORED, are not counted.
    """
    pred, target = pred.flatten(1).long(), target.flatten(1).long()
    ignored = indices**2  # an extra bin, dropped below
    pairs = torch.where(target < indices, indices * target + pred, ignored)
    matrix = torch.stack([torch.bincount(row, minlength=ignored + 1) for row in pairs])
    return matrix[:, :ignored].view(-1, indices, indices)


def counts_of(matrix: np.ndarray, members: np.ndarray) -> np.ndarray:
    """(..., indices, indices) confusion matrix [target, pred] -> (..., classes, 4) int64 TP, FP, FN, TN.

    members: (indices, classes) bool, the classes that an index is of; see LabelMap.members.
    """
    inside = members.astype(np.int64)
    true, pred = matrix.sum(-1) @ inside, matrix.sum(-2) @ inside
    hits = np.einsum("...ij,ic,jc->...c", matrix, inside, inside)
    pixels = matrix.sum((-2, -1))[..., None]
    return np.stack([hits, pred - hits, true - hits, pixels - true - pred + hits], axis=-1)


def dice(counts: np.ndarray, empty: float = 1.0) -> np.ndarray:
    """(..., 4) counts -> (...) 2 TP / (2 TP + FP + FN); `empty` where neither mask has a pixel of the class.

    Source: Dice, "Measures of the amount of ecologic association between species", Ecology 26 (1945). Over pixels it
    equals the F1 score.
    """
    tp, fp, fn = _parts(counts)
    return ratio(2 * tp, 2 * tp + fp + fn, empty)


def iou(counts: np.ndarray, empty: float = 1.0) -> np.ndarray:
    """(..., 4) counts -> (...) TP / (TP + FP + FN), intersection over union; `empty` where neither mask has a pixel of
    the class. Source: Jaccard, "The distribution of the flora in the alpine zone", New Phytologist 11 (1912)."""
    tp, fp, fn = _parts(counts)
    return ratio(tp, tp + fp + fn, empty)


def precision(counts: np.ndarray, empty: float = 1.0) -> np.ndarray:
    """(..., 4) counts -> (...) TP / (TP + FP); 0 where the class is in the ground truth but never predicted; `empty` as
    for Dice.

    Source of precision and recall: van Rijsbergen, "Information Retrieval", 2nd edition 1979, chapter 7.
    """
    tp, fp, fn = _parts(counts)
    return np.where(tp + fp + fn > 0, ratio(tp, tp + fp, 0.0), empty)


def recall(counts: np.ndarray, empty: float = 1.0) -> np.ndarray:
    """(..., 4) counts -> (...) TP / (TP + FN); 0 where all predictions of the class are false; `empty` as for Dice."""
    tp, fp, fn = _parts(counts)
    return np.where(tp + fp + fn > 0, ratio(tp, tp + fn, 0.0), empty)


def accuracy(counts: np.ndarray) -> np.ndarray:
    """(..., 4) counts of a class -> (...) (TP + TN) / pixels, the binary accuracy of the class; NaN without pixels."""
    pixels = np.asarray(counts, dtype=np.float64).sum(-1)
    _, fp, fn = _parts(counts)
    return ratio(pixels - fp - fn, pixels, np.nan)


def ratio(part: np.ndarray, whole: np.ndarray, otherwise: float) -> np.ndarray:
    """part / whole; `otherwise` where whole is 0."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), otherwise)


def present_classes(counts: np.ndarray) -> np.ndarray:
    """(images, classes, 4) counts -> (classes) bool, whether any ground truth mask has the class; all True where none
    has any. The score of a class that never occurs would say nothing about the network."""
    present = counts[..., [0, 2]].sum((0, 2)) > 0  # TP + FN, the pixels of the class in the ground truth
    return present if present.any() else np.ones_like(present)


def shown_classes(counts: np.ndarray, first: int) -> np.ndarray:
    """(images, classes, 4) counts of all classes -> (classes) bool, the classes that a mean over all classes includes:
    the background, if `first` is 1, and the foreground classes that `present_classes` finds."""
    return np.append([True] * first, present_classes(counts[:, first:])).astype(bool)


def counted_pixels(counts: np.ndarray) -> np.ndarray:
    """(images, classes, 4) counts -> (images) number of pixels that are not ignored."""
    return counts[:, 0].sum(-1)


def area_shares(counts: np.ndarray) -> np.ndarray:
    """(images, classes, 4) counts -> the same as fractions of the image's pixels, 0 where all are ignored."""
    return ratio(counts, counted_pixels(counts)[:, None, None], 0.0)


def set_dice(shares: np.ndarray) -> np.ndarray:
    """(images, ..., 4) counts as fractions of each image -> (...) Dice of their sums over the set.

    Every image has the same weight whatever its size, and one without foreground only adds its false positives:
    predicting nothing scores 0. Source: the pseudo Dice of nnU-Net, Isensee et al., Nature Methods 18 (2021), methods;
    it differs in summing fractions instead of pixels, since images may differ in size.
    """
    return dice(shares.sum(0))


def summarize(counts: np.ndarray, names: Sequence[str] = (), first: int = 1) -> dict[str, float]:
    """(images, classes, 4) counts -> the scores of a set, over the classes in its masks and the images that are not
    entirely ignored.

    first: index of the first foreground class, 0 where there is no background. Keys: dice, iou: mean over images and
    foreground classes. mean_iou: mean over images and all classes. set_dice: mean over foreground classes; the best
    weights are selected by it. pooled_dice: Dice of the counts summed over the set, mean over foreground classes.
    dice_NAME: mean over images of each class in `names`; only with several foreground classes.
    """
    is_counted = counted_pixels(counts) > 0
    counts = counts[is_counted] if is_counted.any() else counts
    present = shown_classes(counts, first)
    counts, shares = counts[:, present], area_shares(counts)[:, present]
    foreground = counts[:, first:]
    named = [name for name, is_present in zip(names, present, strict=False) if is_present] if len(names) > 2 else []
    return {
        "dice": float(dice(foreground).mean()),
        "iou": float(iou(foreground).mean()),
        "mean_iou": float(iou(counts).mean()),
        "set_dice": float(set_dice(shares[:, first:]).mean()),
        "pooled_dice": float(dice(foreground.sum(0)).mean()),
        **{f"dice_{name}": float(value) for name, value in zip(named, dice(counts).mean(0), strict=False)},
    }


def _parts(counts: np.ndarray) -> np.ndarray:
    """TP, FP and FN."""
    return np.moveaxis(np.asarray(counts, dtype=np.float64)[..., :3], -1, 0)
