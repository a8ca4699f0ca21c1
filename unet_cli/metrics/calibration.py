"""Calibration: temperature scaling of a network, reliability and the expected calibration error.

One temperature T, fitted on images that the network was not trained on, divides its logits. Networks are mostly
overconfident; then T is above 1. The predicted classes stay the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unet_cli.config.model import IGNORED, pixels_of

BINS = 15  # as in Guo et al. 2017, section 5
BOUNDS = (0.25, 10.0)  # range of the temperature: the optimum for a few perfectly predicted images would be 0
MIN_PROB = 2.0**-24  # spacing of float32 below 1: a sigmoid closer to 0 or 1 no longer determines its logit
TIE = 1 - 2.0**-22  # below 1 by more than the rounding error of a float32 division
MIN_GAIN = 1e-9  # improvement of the mean log likelihood; smaller ones are rounding errors
GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class PixelSample:
    """Sampled pixels with their ground truth.

    probs: (P, K) float32, not calibrated. target: (P) uint8 class indices without ignored ones; 0 or 1 for K = 1.
    overlapping: whether these are sets of K classes, which have probabilities by themselves.
    """

    probs: np.ndarray
    target: np.ndarray
    overlapping: bool = False

    def joined(self, others: Sequence[PixelSample]) -> PixelSample:
        """All samples as one."""
        every = [self, *others]
        probs, target = (np.concatenate([getattr(one, name) for one in every]) for name in ("probs", "target"))
        return PixelSample(probs, target, self.overlapping)

    def of_each(self) -> list[PixelSample]:
        """A sample of two classes for each of overlapping ones."""
        numbers = range(1, self.probs.shape[1] + 1)
        targets = [pixels_of(self.target, number, True).astype(np.uint8) for number in numbers]
        return [PixelSample(self.probs[:, [row]], target) for row, target in enumerate(targets)]


@dataclass(frozen=True)
class Reliability:
    """Predicted probability against observed frequency, for C foreground classes, in BINS bins of equal width.

    confidence, frequency: (C, BINS) float64, the mean probability and the fraction of pixels of the class in each bin;
    NaN in empty bins. count: (C, BINS) int64, the number of pixels in each bin.
    """

    confidence: np.ndarray
    frequency: np.ndarray
    count: np.ndarray


def calibrated(probs: Tensor, temperature: float, overlapping: bool = False) -> Tensor:
    """softmax(log(p) / T) over the first dimension, for K = 1, or overlapping, sigmoid(logit(p) / T): (K, ...) float32
    -> the same shape.

    0 and 1 are unchanged. The argmax is unchanged, and with sigmoids so is the side of 0.5, whatever the rounding of
    float32. Returns `probs` itself for T = 1.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2. log(p) stands for their
    logit; the two differ by a constant for each pixel, which softmax ignores.
    """
    if temperature == 1:
        return probs
    if len(probs) == 1 or overlapping:
        return torch.stack([calibrated(torch.stack([1 - one, one]), temperature)[1] for one in probs])
    # Dividing by the maximum first keeps p ** (1 / T) from underflowing in all classes at once.
    ratios = probs / probs.amax(0)
    powers = ratios.pow(1 / temperature)
    # Rounding may lift a power to exactly 1, which would tie with the largest class and change the argmax.
    powers = torch.where(ratios < 1, powers.clamp(max=TIE), powers)
    return powers / powers.sum(0)


def calibrated_number(probability: float, temperature: float) -> float:
    """sigmoid(logit(p) / T) of one probability. 0, 0.5 and 1 are exactly unchanged."""
    from scipy.special import expit, logit

    return probability if temperature == 1 else float(expit(logit(probability) / temperature))


def uncalibrated(probability: float, temperature: float) -> float:
    """Inverse of `calibrated_number`: the raw probability, such as the raw threshold for a calibrated one."""
    return calibrated_number(probability, 1 / temperature)


def sample_pixels(probs: Tensor, target: np.ndarray, most: int, overlapping: bool = False) -> PixelSample:
    """(K, *spatial) probabilities and uint8 class indices -> at most `most` of the pixels that are not IGNORED.

    Returns all pixels if there are no more than that; otherwise one from each of `most` equal row-major intervals, at
    offsets that follow the golden ratio. Deterministic.
    """
    positions = np.flatnonzero(target != IGNORED)
    if len(positions) > most:
        # A constant offset would sample the same columns in every row; multiples of the golden ratio are evenly
        # distributed and never periodic.
        starts = np.arange(most + 1) * len(positions) // most
        offsets = np.arange(most) * GOLDEN % 1
        positions = positions[starts[:-1] + (offsets * np.diff(starts)).astype(np.int64)]
    chosen = probs.flatten(1)[:, torch.from_numpy(positions)]
    return PixelSample(chosen.T.float().contiguous().numpy(), target.ravel()[positions], overlapping)


def fit_temperature(sample: PixelSample) -> float:
    """The temperature within BOUNDS that minimizes the mean negative log likelihood, searched on a scale of log T.

    1.0 where the sample has fewer than two classes, or where no temperature improves on it.

    Source: Guo et al. 2017, section 4.2. log(p) stands for their logits, with p clipped to MIN_PROB, so that a
    confidently wrong pixel costs no more than float32 resolves. The loss is convex in 1 / T, so the local minimum is
    the global one.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    if sample.overlapping:
        first, *others = sample.of_each()
        sample = first.joined(others)
    if len(np.unique(sample.target)) < 2:
        return 1.0
    probs = sample.probs.astype(np.float64)
    if probs.shape[1] == 1:
        probs = np.concatenate([1 - probs, probs], axis=1)
    logits = np.log(probs.clip(MIN_PROB))
    true = logits[np.arange(len(logits)), sample.target]

    def loss(log_temperature: float) -> float:
        scale = math.exp(-log_temperature)
        return float(np.mean(logsumexp(scale * logits, axis=1) - scale * true))

    best = minimize_scalar(loss, bounds=[math.log(bound) for bound in BOUNDS], method="bounded")
    return math.exp(best.x) if best.fun < loss(0.0) - MIN_GAIN else 1.0


def reliability(sample: PixelSample, temperature: float = 1.0, first: int = 1) -> Reliability:
    """Reliability of each class from `first` on, one against the rest, of its calibrated probability in bins of width
    1/15.

    Source: the reliability diagram of Niculescu-Mizil, Caruana, "Predicting Good Probabilities with Supervised
    Learning", ICML 2005, section 4, with 15 bins instead of 10.
    """
    if sample.overlapping:
        classes = [reliability(one, temperature) for one in sample.of_each()]
        of_all = (
            np.concatenate([getattr(one, name) for one in classes]) for name in ("confidence", "frequency", "count")
        )
        return Reliability(*of_all)
    probs = calibrated(torch.from_numpy(sample.probs).T, temperature).double().numpy()
    foreground = probs if len(probs) == 1 else probs[first:]
    edges = np.linspace(0, 1, BINS + 1)
    count, confidence, frequency = (np.zeros((len(foreground), BINS), kind) for kind in (np.int64, float, float))
    for index, of_class in enumerate(foreground):
        bins = np.searchsorted(edges[1:-1], of_class)
        count[index] = np.bincount(bins, minlength=BINS)
        confidence[index] = np.bincount(bins, of_class, BINS)
        frequency[index] = np.bincount(bins, sample.target == index + first, BINS)
    filled = np.where(count > 0, count, np.nan)
    return Reliability(confidence / filled, frequency / filled, count)


def calibration_error(found: Reliability) -> np.ndarray:
    """Expected calibration error, sum over bins of n_b / N |frequency - confidence|: (C) float64, 0 to 1; NaN without
    pixels.

    Source: Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015, section 4, for
    one foreground class; class-wise as in Kull et al., "Beyond temperature scaling", NeurIPS 2019, section 2, for
    several, but reported for each class instead of averaged, and without the background.
    """
    gaps = np.abs(found.frequency - found.confidence)
    total = np.where(found.count.sum(-1) > 0, found.count.sum(-1), np.nan)
    return np.nansum(found.count * gaps, axis=-1) / total
