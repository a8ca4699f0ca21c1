"""Which training masks look wrong: where a trained network is sure of another class than the mask says.

A network that has seen hundreds of masks doesn't follow the few that contradict them, unless it trained for so long
that it knows them by heart. What stands out is a list for a person to look through, not a verdict.

Source: the idea is that of Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels",
JAIR 70 (2021), section 3. It differs: a fixed bar for calibrated probabilities in place of one for each class, whole
images in place of pixels, and borders are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from unet_cli.config.model import IGNORED

SURE = 0.95  # from this probability on that the mask's class is wrong
ZONE = 0.02  # of the shorter side: this near to a border in the mask, annotators differ
MIN_ZONE = 2  # pixels
DEVIATIONS = 10  # above the median; shares are skewed, so 3 would not do
MIN_SHARE = 0.005
MIN_PIXELS = 25
MAX_SUSPECTS = 50


@dataclass(frozen=True)
class Doubt:
    """What speaks against a mask: doubtful pixels, away from borders in the mask.

    share: of what the mask or the network takes for foreground, 0 to 1. It is not that of the whole image, in which a
    missing object would be lost, nor of the mask's foreground, of which an empty mask has none. given, seen: the
    class indices that most of the pixels have in the mask and for the network; 0 where there are none.
    """

    share: float
    pixels: int
    given: int
    seen: int


def doubt(probs: Tensor | np.ndarray, target: np.ndarray) -> Doubt:
    """(K, H, W) float32 calibrated probabilities of a training image and its (H, W) uint8 class indices.

    A pixel is doubtful where the mask's class has less than 1 - SURE, and the mask holds nothing else nearer than ZONE,
    measured along the axes: everybody draws borders differently. IGNORED pixels are no doubt, and a border.
    """
    probs = np.asarray(probs)
    if len(probs) == 1:
        probs = np.concatenate([1 - probs, probs])
    seen = probs.argmax(0)
    kept = target != IGNORED
    given = np.where(kept, target, 0)
    of_given = np.take_along_axis(probs, given[None].astype(np.int64), axis=0)[0]
    doubtful = kept & (of_given < 1 - SURE) & _far_from_borders(target)
    foreground = int((kept & ((given > 0) | (seen > 0))).sum())
    pairs = np.bincount(len(probs) * given[doubtful].astype(np.int64) + seen[doubtful], minlength=1)
    most_given, most_seen = divmod(int(pairs.argmax()), len(probs))
    pixels = int(pairs.sum())
    return Doubt(pixels / max(foreground, 1), pixels, most_given, most_seen)


def suspicious(doubts: Sequence[Doubt]) -> list[int]:
    """Indices of those that stand out, worst first, MAX_SUSPECTS of them at most; none where nothing does.

    Their share is at least MIN_SHARE and more than DEVIATIONS robust standard deviations (1.4826 times the median
    absolute deviation) above the median, and there are at least MIN_PIXELS. A network that is often wrong, and so
    with many images, thus points at few or none.
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
    """(H, W) bool: the square around a pixel holds one value only."""
    from scipy.ndimage import maximum_filter, minimum_filter

    width = 2 * max(MIN_ZONE, round(ZONE * min(target.shape))) + 1
    return maximum_filter(target, width) == minimum_filter(target, width)
