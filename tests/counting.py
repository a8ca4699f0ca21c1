"""Counts of pixels for tests of scores."""

import numpy as np
from torch import Tensor

from unet_cli.metrics.overlap import confusion, counts_of


def count_pixels(pred: Tensor, target: Tensor, classes: int) -> np.ndarray:
    """Two (N, *spatial) arrays of indices of classes that don't overlap -> (N, classes, 4) TP, FP, FN, TN."""
    return counts_of(confusion(pred, target, classes).numpy(), np.eye(classes, dtype=bool))
