"""Scores from counts: true positives, false positives and false negatives first, divided once.

Per image and class; empty against empty is 1 unless something else is asked for. Ignored pixels are left out of what is
counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def confusion(pred: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """(N, *spatial) class indices twice -> (N, num_classes, num_classes) int64: pixels of each image, [target, pred].

    Pixels whose target is no class, such as IGNORED, count nowhere.
    """
    pred, target = pred.flatten(1).long(), target.flatten(1).long()
    nowhere = num_classes**2
    pairs = torch.where(target < num_classes, num_classes * target + pred, nowhere)
    matrix = torch.stack([torch.bincount(row, minlength=nowhere + 1) for row in pairs])
    return matrix[:, :nowhere].view(-1, num_classes, num_classes)


def count_pixels(pred: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """(N, *spatial) class indices twice -> (N, num_classes, 3) int64: TP, FP, FN of each image and class."""
    matrix = confusion(pred, target, num_classes)
    hits = matrix.diagonal(dim1=1, dim2=2)
    return torch.stack([hits, matrix.sum(1) - hits, matrix.sum(2) - hits], dim=-1)


def counts_of(matrix: np.ndarray) -> np.ndarray:
    """(..., classes, classes) pixels [target, pred] -> (..., classes, 3) TP, FP, FN."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    return np.stack([hits, matrix.sum(-2) - hits, matrix.sum(-1) - hits], axis=-1)


def dice(counts: np.ndarray, empty: float = 1.0) -> np.ndarray:
    """(..., 3) counts -> (...) 2 TP / (2 TP + FP + FN); `empty` where there is nothing in either mask.

    Source: Dice, "Measures of the amount of ecologic association between species", Ecology 26 (1945). As a score of
    pixels it is their F1.
    """
    tp, fp, fn = _parts(counts)
    return ratio(2 * tp, 2 * tp + fp + fn, empty)


def iou(counts: np.ndarray, empty: float = 1.0) -> np.ndarray:
    """(..., 3) counts -> (...) TP / (TP + FP + FN), intersection over union; `empty` where there is nothing in either
    mask. Source: Jaccard, "The distribution of the flora in the alpine zone", New Phytologist 11 (1912)."""
    tp, fp, fn = _parts(counts)
    return ratio(tp, tp + fp + fn, empty)


def precision(counts: np.ndarray, empty: float = 1.0) -> np.ndarray:
    """(..., 3) counts -> (...) TP / (TP + FP); 0 where nothing is predicted of what is there; `empty` as for Dice.

    Source of precision and recall: van Rijsbergen, "Information Retrieval", 2nd edition 1979, chapter 7.
    """
    tp, fp, fn = _parts(counts)
    return np.where(tp + fp + fn > 0, ratio(tp, tp + fp, 0.0), empty)


def recall(counts: np.ndarray, empty: float = 1.0) -> np.ndarray:
    """(..., 3) counts -> (...) TP / (TP + FN); 0 where all that is predicted is false; `empty` as for Dice."""
    tp, fp, fn = _parts(counts)
    return np.where(tp + fp + fn > 0, ratio(tp, tp + fn, 0.0), empty)


def accuracy(counts: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """(..., 3) counts of a class and (...) all pixels that count -> (...) (TP + TN) / all: the share of the pixels for
    which it is right whether they are of the class; NaN where none counts."""
    _, fp, fn = _parts(counts)
    return ratio(pixels - fp - fn, pixels, np.nan)


def ratio(part: np.ndarray, whole: np.ndarray, otherwise: float) -> np.ndarray:
    """part / whole; `otherwise` where whole is 0."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), otherwise)


def held_classes(counts: np.ndarray) -> np.ndarray:
    """(images, classes, 3) counts -> (classes) bool, whether any mask of the truth holds the class; all where none
    holds any: what a class scores that isn't there would say nothing of the network."""
    held = counts[..., [0, 2]].sum((0, 2)) > 0
    return held if held.any() else np.ones_like(held)


def shown_classes(counts: np.ndarray, first: int) -> np.ndarray:
    """(images, classes, 3) counts of all classes -> (classes) bool, those that a mean over all of them is of: the
    background, if `first` is 1, and what `held_classes` says of the others."""
    return np.append([True] * first, held_classes(counts[:, first:])).astype(bool)


def counted_pixels(counts: np.ndarray) -> np.ndarray:
    """(images, classes, 3) counts of all classes -> (images) pixels that count."""
    return counts[..., [0, 2]].sum((1, 2))


def area_shares(counts: np.ndarray) -> np.ndarray:
    """(images, classes, 3) counts of all classes -> as shares of the image's pixels, 0 where none counts."""
    return ratio(counts, counted_pixels(counts)[:, None, None], 0.0)


def set_dice(shares: np.ndarray) -> np.ndarray:
    """(images, ..., 3) counts as shares of each image -> (...) Dice of their sums over the set.

    Images count alike whatever their size, and one without foreground adds nothing but its false alarms: predicting
    nothing scores 0. Source: the pseudo Dice of nnU-Net, Isensee et al., Nature Methods 18 (2021), methods; it differs
    in counting shares, since images may differ in size.
    """
    return dice(shares.sum(0))


def summarize(counts: np.ndarray, names: Sequence[str] = (), first: int = 1) -> dict[str, float]:
    """(images, classes, 3) counts -> the scores of a set, over the classes that its masks hold and the images of which
    some pixel counts.

    first: of the foreground classes, 0 where none is background. dice, iou: mean over images and foreground classes.
    mean_iou: mean over images and all classes. set_dice: mean over foreground classes; what weights are chosen by.
    pooled_dice: of the counts summed over the set, mean over foreground classes. dice_NAME: of each class in `names`,
    mean over images; only where there are several foreground classes.
    """
    counts_something = counted_pixels(counts) > 0
    counts = counts[counts_something] if counts_something.any() else counts
    held = shown_classes(counts, first)
    counts, shares = counts[:, held], area_shares(counts)[:, held]
    foreground = counts[:, first:]
    held_names = [name for name, is_held in zip(names, held, strict=False) if is_held] if len(names) > 2 else []
    return {
        "dice": float(dice(foreground).mean()),
        "iou": float(iou(foreground).mean()),
        "mean_iou": float(iou(counts).mean()),
        "set_dice": float(set_dice(shares[:, first:]).mean()),
        "pooled_dice": float(dice(foreground.sum(0)).mean()),
        **{f"dice_{name}": float(value) for name, value in zip(held_names, dice(counts).mean(0), strict=False)},
    }


def _parts(counts: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
