"""Predictions against truth, at the images' original size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from unet_cli.ahead import ahead
from unet_cli.console import Console
from unet_cli.data.imagefile import read_image, read_mask
from unet_cli.data.labels import IGNORED
from unet_cli.data.source import Pair
from unet_cli.errors import UserError
from unet_cli.inference.predictor import Predictor, at_size, to_classes
from unet_cli.metrics import count_pixels, dice, summarize

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


def evaluate(
    predictor: Predictor, pairs: Sequence[Pair], batch_size: int, workers: int | None, console: Console
) -> Evaluation:
    """Predict the pairs' images and compare with their masks, at original size. Raises UserError at a bad file."""
    labels = predictor.checkpoint.labels
    counts, sweeps = [], []
    samples = ahead(partial(_read, predictor), pairs, workers)
    batch = []
    for number, sample in enumerate(console.progress(samples, len(pairs), "scoring at original size", "images"), 1):
        batch.append(sample)
        if len(batch) < batch_size and number < len(pairs):
            continue
        all_probs = predictor.probabilities([prepared for prepared, _ in batch], batch_size)
        for probs, (_, target) in zip(all_probs, batch, strict=True):
            probs = at_size(probs, target.shape)
            pred = torch.from_numpy(to_classes(probs, predictor.checkpoint.threshold))
            counts.append(count_pixels(pred[None], torch.from_numpy(target)[None], labels.num_classes).numpy())
            if labels.num_classes == 2:
                sweeps.append(_sweep(probs[0].numpy(), target))
        batch = []
    scores = summarize(np.concatenate(counts), labels.names)
    if not sweeps:
        return Evaluation(scores, None, None)
    by_threshold = dice(np.stack(sweeps)).mean(0)
    best = np.flatnonzero(by_threshold >= by_threshold.max() - 1e-9)
    middle = best[len(best) // 2]
    return Evaluation(scores, float(THRESHOLDS[middle]), float(by_threshold[middle]))


def _read(predictor: Predictor, pair: Pair) -> tuple[torch.Tensor, np.ndarray]:
    try:
        prepared, _ = predictor.prepare(read_image(pair.image, predictor.checkpoint.preprocessing.keep_alpha))
    except UserError as error:
        raise pair.image.named(error) from error
    try:
        return prepared, predictor.checkpoint.labels.encode(read_mask(pair.mask))[0]
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
