"""Label error detection: training masks that a trained network confidently contradicts.

A network that was trained on hundreds of masks does not follow the few that contradict them, unless it has overfitted
so far that it memorized them. The result is a list for a person to review, not a verdict.

Source: the idea is that of Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels",
JAIR 70 (2021), section 3. It differs: a fixed threshold for calibrated probabilities instead of one for each class,
whole images instead of pixels, and pixels near borders are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from unet_cli.config.model import IGNORED
from unet_cli.data.labels import alone

CONFIDENCE = 0.95  # minimum probability that the mask's class is wrong
ZONE = 0.02  # fraction of the shorter side: closer than this to a border in the mask, annotators disagree
MIN_ZONE = 2  # pixels
DEVIATIONS = 10  # robust standard deviations above the median; the distribution is too skewed for the usual 3
MIN_SHARE = 0.005
MIN_PIXELS = 25
MAX_SUSPECTS = 50


@dataclass(frozen=True)
class Doubt:
    """The disagreement of a network with a mask: doubtful pixels, away from borders in the mask.

    share: their fraction of the pixels that are foreground in the mask or the prediction, 0 to 1. A fraction of the
    whole image would hide a missing object, and the foreground of an empty mask is empty. given, seen: the most
    frequent class index of these pixels in the mask and in the prediction; 0 where there are none.
    """

    share: float
    pixels: int
    given: int
    seen: int


def doubt(probs: Tensor | np.ndarray, target: np.ndarray, overlapping: bool = False) -> Doubt:
    """Compare (K, *spatial) float32 calibrated probabilities of a training image with its uint8 class indices.

    A pixel is doubtful if the mask's class has a probability below 1 - CONFIDENCE and the mask has no other class
    within ZONE, measured along the axes, since annotators draw borders differently. IGNORED pixels are never doubtful
    and count as a border. Of overlapping classes the most doubtful one counts.
    """
    probs = np.asarray(probs)
    if overlapping:
        doubts = []
        for number in range(1, len(probs) + 1):
            found = doubt(probs[[number - 1]], alone(target, number))
            doubts.append(replace(found, given=number * found.given, seen=number * found.seen))
        return max(doubts, key=lambda one: one.share)
    if len(probs) == 1:
        probs = np.concatenate([1 - probs, probs])
    seen = probs.argmax(0)
    kept = target != IGNORED
    given = np.where(kept, target, 0)
    of_given = np.take_along_axis(probs, given[None].astype(np.int64), axis=0)[0]
    doubtful = kept & (of_given < 1 - CONFIDENCE) & _far_from_borders(target)
    foreground = int((kept & ((given > 0) | (seen > 0))).sum())
    # One histogram over (given, seen) pairs gives both the count and the most frequent confusion.
    pairs = np.bincount(len(probs) * given[doubtful].astype(np.int64) + seen[doubtful], minlength=1)
    most_given, most_seen = divmod(int(pairs.argmax()), len(probs))
    pixels = int(pairs.sum())
    return Doubt(pixels / max(foreground, 1), pixels, most_given, most_seen)


def suspicious(doubts: Sequence[Doubt]) -> list[int]:
    """Indices of the outliers, worst first, at most MAX_SUSPECTS; empty if there are none.

    The share of an outlier is at least MIN_SHARE and more than DEVIATIONS robust standard deviations (1.4826 times the
    median absolute deviation) above the median, with at least MIN_PIXELS doubtful pixels. A network that is often wrong
    disagrees with many masks, so that few or none of them are outliers.
    """
    if not doubts:
        return []
    shares = np.array([found.share for found in doubts])
    median = np.median(shares)
    bar = median + DEVIATIONS * 1.4826 * np.median(np.abs(shares - median))
    found = [index for index in np.argsort(-shares, kind="stable").tolist() if shares[index] > bar]
    enough = [i for i in found if shares[i] >= MIN_SHARE and doubts[i].pixels >= MIN_PIXELS]
    return enough[:MAX_SUSPECTS]


def _far_from_borders(target: np.ndarray) -> np.ndarray:
    """bool: whether the square around a pixel, of volumes the cube, has a single value."""
    from scipy.ndimage import maximum_filter, minimum_filter

    width = 2 * max(MIN_ZONE, round(ZONE * min(target.shape))) + 1
    return maximum_filter(target, width) == minimum_filter(target, width)
