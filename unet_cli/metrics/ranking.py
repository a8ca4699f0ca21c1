"""How well probabilities rank pixels: average precision and area under the ROC curve, from additive histograms.

Pixels are counted at the 65,536 levels of 16-bit probability maps, so memory does not grow with the set. Probabilities
are uncalibrated. Calibration preserves their order with one foreground class; with several, maps saved as files may
rank pixels slightly differently.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from unet_cli.metrics.overlap import ratio

LEVELS = 65536  # of a 16-bit probability map
COARSE = 512  # bins of `coarse`


def sixteen_bit(probs: Tensor) -> np.ndarray:
    """Probabilities -> uint16 of the same shape, where 65535 is a probability of 1."""
    return (probs.numpy() * 65535 + 0.5).astype(np.uint16)


def count_levels(probs: Tensor, positive: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """float32 probabilities and two bool of one shape -> (2, LEVELS) int64: negatives and positives at each level.

    A level is round(65535 p), see `sixteen_bit`. counted: False for ignored pixels.
    """
    bins = sixteen_bit(probs) + LEVELS * positive.astype(np.int32)
    return np.bincount(bins[counted], minlength=2 * LEVELS).reshape(2, LEVELS)


def average_precision(counts: np.ndarray) -> np.ndarray:
    """sum over levels of (R_n - R_(n-1)) P_n, from the highest down: (..., 2, L) counts -> (...) float64, 0 to 1.

    R_n, P_n: recall and precision if a level and all above it are predicted positive. NaN without positives.

    Source: Zhu, "Recall, precision and average precision", University of Waterloo, 2004, as in scikit-learn: a step
    function, without interpolation.
    """
    negatives, positives = _downwards(counts)
    false, true = negatives.cumsum(-1), positives.cumsum(-1)
    precision = true / np.maximum(true + false, 1)
    return ratio((positives * precision).sum(-1), true[..., -1], np.nan)


def roc_auc(counts: np.ndarray) -> np.ndarray:
    """The fraction of (positive, negative) pairs in which the positive has the higher level, ties counting half.

    (..., 2, L) counts -> (...) float64, 0 to 1. NaN without positives or without negatives. It equals the area under
    the ROC curve by the trapezoidal rule.

    Source: Hanley, McNeil, "The Meaning and Use of the Area under a ROC Curve", Radiology 143 (1982), table II.
    """
    negatives, positives = _downwards(counts)
    above = positives.cumsum(-1) - positives / 2
    return ratio((negatives * above).sum(-1), negatives.sum(-1) * positives.sum(-1), np.nan)


def coarse(counts: np.ndarray) -> np.ndarray:
    """(..., LEVELS) int64 counts -> (..., COARSE), in bins that are evenly spaced in logit(level).

    Both scores change by less than 1e-3 for a network that is confident about most pixels, by a few 1e-3 for one that
    seldom is. A thousand images take 8 MB a class.
    """
    # Networks put most pixels near 0 and 1, where bins that are even in the logit are one level wide; the widest, at
    # 0.5, spans 0.012.
    reach = math.log(4 * LEVELS)  # the outermost borders are a quarter of a level from either end
    borders = np.rint(LEVELS / (1 + np.exp(-np.linspace(-reach, reach, COARSE + 1)))).astype(np.int64)
    below = np.zeros((*counts.shape[:-1], LEVELS + 1), dtype=np.int64)
    np.cumsum(counts, axis=-1, out=below[..., 1:])
    return np.diff(below[..., borders], axis=-1)


def _downwards(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(..., 2, L) -> negatives and positives, each (..., L) float64, the highest level first."""
    downwards = counts[..., ::-1].astype(np.float64)
    return downwards[..., 0, :], downwards[..., 1, :]
