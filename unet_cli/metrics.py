"""Scores from counts: true positives, false positives and false negatives first, divided once.

Dice = 2 TP / (2 TP + FP + FN), IoU = TP / (TP + FP + FN), per image and class; empty against empty is 1. Ignored pixels
are left out of what is counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def count_pixels(pred: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """(N, *spatial) class indices twice -> (N, num_classes, 3) int64: TP, FP, FN of each image and class.

    Pixels whose target is no class, such as IGNORED, count nowhere.
    """
    pred, target = pred.flatten(1).long(), target.flatten(1).long()
    nowhere = num_classes**2
    pairs = torch.where(target < num_classes, num_classes * target + pred, nowhere)
    matrix = torch.stack([torch.bincount(row, minlength=nowhere + 1) for row in pairs])
    matrix = matrix[:, :nowhere].view(-1, num_classes, num_classes)  # [image, target, pred]
    hits = matrix.diagonal(dim1=1, dim2=2)
    return torch.stack([hits, matrix.sum(1) - hits, matrix.sum(2) - hits], dim=-1)


def dice(counts: np.ndarray) -> np.ndarray:
    """(..., 3) counts -> (...) Dice."""
    tp, fp, fn = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    return _ratio(2 * tp, 2 * tp + fp + fn)


def iou(counts: np.ndarray) -> np.ndarray:
    """(..., 3) counts -> (...) intersection over union."""
    tp, fp, fn = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    return _ratio(tp, tp + fp + fn)


def summarize(counts: np.ndarray, names: Sequence[str] = ()) -> dict[str, float]:
    """(images, classes, 3) counts, background first, -> the scores of a set.

    dice, iou: mean over images and foreground classes. mean_iou: mean over images and all classes. pooled_dice: of the
    counts summed over the set, mean over foreground classes. dice_NAME: of each class in `names`, mean
    over images; only where there are several foreground classes.
    """
    foreground = counts[:, 1:]
    by_class = {f"dice_{name}": float(value) for name, value in zip(names, dice(counts).mean(0), strict=False)}
    return {
        "dice": float(dice(foreground).mean()),
        "iou": float(iou(foreground).mean()),
        "mean_iou": float(iou(counts).mean()),
        "pooled_dice": float(dice(foreground.sum(0)).mean()),
        **(by_class if len(by_class) > 2 else {}),
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), 1.0)
