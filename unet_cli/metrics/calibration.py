"""Probabilities that mean what they say: a temperature for a network, and how far off its probabilities are.

One number T, fitted on images that the network did not learn from, divides its logits. Networks are mostly too sure of
themselves; then T is above 1. Classes stay as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unet_cli.config.model import IGNORED

BINS = 15  # as in Guo et al. 2017, section 5
BOUNDS = (0.25, 10.0)  # of a temperature: a few images that came out perfect ask for 0, and prove little
REACH = 2.0**-24  # float32's step below 1: a sigmoid that is nearer to 0 or 1 tells no more about its logit
TIE = 1 - 2.0**-22  # below 1 by more than what a division in float32 may round away
GAIN = 1e-9  # of the mean log likelihood, below which a temperature changes nothing but rounding
GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class PixelSample:
    """Pixels with their truth. probs: (P, K) float32, not calibrated. target: (P) uint8 class indices, none ignored;
    0 or 1 for K = 1."""

    probs: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class Reliability:
    """What networks say, and how often it is so, for C foreground classes, in BINS equal bins of a probability.

    confidence, frequency: (C, BINS) float64, the mean probability and the share of pixels of the class in each bin; NaN
    in empty bins. count: (C, BINS) int64, the pixels in each bin.
    """

    confidence: np.ndarray
    frequency: np.ndarray
    count: np.ndarray


def calibrated(probs: Tensor, temperature: float) -> Tensor:
    """softmax(log(p) / T) over the first dimension, for K = 1 sigmoid(logit(p) / T): (K, ...) float32 -> the same.

    0 and 1 stay what they are. The largest class stays the largest, and with K = 1 what is below 0.5 stays below it and
    the rest does not fall below it, whatever float32 rounds. `probs` itself for T = 1.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2. Their logit is log(p) here,
    which differs from it by what is the same for all classes of a pixel.
    """
    if temperature == 1:
        return probs
    if len(probs) == 1:
        return calibrated(torch.cat([1 - probs, probs]), temperature)[1:]
    ratios = probs / probs.amax(0)
    powers = ratios.pow(1 / temperature)
    powers = torch.where(ratios < 1, powers.clamp(max=TIE), powers)
    return powers / powers.sum(0)


def calibrated_number(probability: float, temperature: float) -> float:
    """sigmoid(logit(p) / T) of one probability. 0, 0.5 and 1 stay exactly what they are."""
    from scipy.special import expit, logit

    return probability if temperature == 1 else float(expit(logit(probability) / temperature))


def uncalibrated(probability: float, temperature: float) -> float:
    """The probability that `calibrated_number` turns into this one, such as the raw threshold for a calibrated one."""
    return calibrated_number(probability, 1 / temperature)


def sample_pixels(probs: Tensor, target: np.ndarray, most: int) -> PixelSample:
    """(K, H, W) probabilities and (H, W) uint8 class indices -> at most `most` of the pixels that are not IGNORED.

    All where there are no more; else one from each of `most` equal stretches of them, row by row, at places that follow
    the golden ratio and so never fall into step with the columns. The same pixels whenever it is called.
    """
    places = np.flatnonzero(target != IGNORED)
    if len(places) > most:
        starts = np.arange(most + 1) * len(places) // most
        within = np.arange(most) * GOLDEN % 1
        places = places[starts[:-1] + (within * np.diff(starts)).astype(np.int64)]
    chosen = probs.flatten(1)[:, torch.from_numpy(places)]
    return PixelSample(chosen.T.float().contiguous().numpy(), target.ravel()[places])


def fit_temperature(sample: PixelSample) -> float:
    """The temperature in BOUNDS with the least mean negative log likelihood, on a scale of log T.

    1.0 where the sample holds fewer than two classes, or no other temperature does better.

    Source: Guo et al. 2017, section 4.2. Their logits are log(p) here, with p no less than REACH: a pixel that is sure
    and wrong costs no more than float32 can tell of it. Convex in 1 / T, so the minimum that is found is the least.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    if len(np.unique(sample.target)) < 2:
        return 1.0
    probs = sample.probs.astype(np.float64)
    if probs.shape[1] == 1:
        probs = np.concatenate([1 - probs, probs], axis=1)
    logits = np.log(probs.clip(REACH))
    true = logits[np.arange(len(logits)), sample.target]

    def loss(log_temperature: float) -> float:
        scale = math.exp(-log_temperature)
        return float(np.mean(logsumexp(scale * logits, axis=1) - scale * true))

    best = minimize_scalar(loss, bounds=[math.log(bound) for bound in BOUNDS], method="bounded")
    return math.exp(best.x) if best.fun < loss(0.0) - GAIN else 1.0


def reliability(sample: PixelSample, temperature: float = 1.0, first: int = 1) -> Reliability:
    """Of each class from `first` on, one against the rest: its calibrated probability in bins of width 1/15.

    Source: the reliability diagram of Niculescu-Mizil, Caruana, "Predicting Good Probabilities with Supervised
    Learning", ICML 2005, section 4, with 15 bins for their 10.
    """
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
    """sum over bins of n_b / N |frequency - confidence|: (C) float64, 0 to 1; NaN for a sample without pixels.

    Source: Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015, section 4, for
    one foreground class; class-wise as in Kull et al., "Beyond temperature scaling", NeurIPS 2019, section 2, for
    several, but not averaged over them and without the background.
    """
    gaps = np.abs(found.frequency - found.confidence)
    total = np.where(found.count.sum(-1) > 0, found.count.sum(-1), np.nan)
    return np.nansum(found.count * gaps, axis=-1) / total
