"""Predictions against truth, at the images' original size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from unet_cli.ahead import ahead
from unet_cli.console import Console
from unet_cli.data.imagefile import read_mask
from unet_cli.data.labels import IGNORED
from unet_cli.data.source import Pair
from unet_cli.errors import UserError
from unet_cli.inference.flow import Task, whole_images
from unet_cli.inference.picture import Picture
from unet_cli.inference.predictor import Predictor, to_classes
from unet_cli.metrics import count_pixels, dice, summarize
from unet_cli.pace import Pace

THRESHOLDS = np.round(np.arange(0.05, 0.96, 0.05), 2)


@dataclass(frozen=True)
class Evaluation:
    """Scores at the threshold that is used by default, and the threshold that would have scored best.

    best_threshold: of THRESHOLDS, the one with the highest mean Dice; the middle one where several are; None for more
    than one foreground class. best_dice: the mean Dice there.
    """

    scores: dict[str, float]
    best_threshold: float | None
    best_dice: float | None


class _Sample(Task):
    """An image on its way, and its truth: (H, W) uint8 class indices."""

    def __init__(self, picture: Picture, target: np.ndarray) -> None:
        super().__init__(picture)
        self.target = target


def evaluate(predictor: Predictor, pairs: Sequence[Pair], workers: int | None, console: Console) -> Evaluation:
    """Predict the pairs' images and compare with their masks, at original size. Raises UserError at a bad file."""
    labels = predictor.labels
    counts, sweeps = [], []
    samples = ahead(partial(_read, predictor), pairs, workers)
    predicted = whole_images(predictor, samples, Pace("scoring"))
    for sample, probs in console.progress(predicted, len(pairs), "scoring at original size", "images"):
        pred, target = torch.from_numpy(to_classes(probs, predictor.threshold)), torch.from_numpy(sample.target)
        counts.append(count_pixels(pred[None], target[None], labels.num_classes).numpy())
        if labels.num_classes == 2:
            sweeps.append(_sweep(probs[0].numpy(), sample.target))
    scores = summarize(np.concatenate(counts), labels.names)
    if not sweeps:
        return Evaluation(scores, None, None)
    by_threshold = dice(np.stack(sweeps)).mean(0)
    best = np.flatnonzero(by_threshold >= by_threshold.max() - 1e-9)
    middle = best[len(best) // 2]
    return Evaluation(scores, float(THRESHOLDS[middle]), float(by_threshold[middle]))


def _read(predictor: Predictor, pair: Pair) -> _Sample:
    picture = predictor.read(pair.image)
    try:
        return _Sample(picture, predictor.labels.encode(read_mask(pair.mask))[0])
    except UserError as error:
        raise pair.mask.named(error) from error


def _sweep(probs: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(H, W) probabilities and truth -> (thresholds, 3) counts TP, FP, FN of the foreground at each threshold.

    Ignored pixels count nowhere.
    """
    probs, target = probs.ravel()[target.ravel() != IGNORED], target[target != IGNORED]
    passed = np.searchsorted(
        THRESHOLDS.astype(np.float32), probs.ravel(), side="right"
    )  # thresholds that a pixel reaches
    truth = target.ravel() > 0
    bins = len(THRESHOLDS) + 1
    reached_true, reached_false = (
        np.bincount(passed[part], minlength=bins)[::-1].cumsum()[::-1][1:] for part in (truth, ~truth)
    )
    return np.stack([reached_true, reached_false, truth.sum() - reached_true], axis=-1)
