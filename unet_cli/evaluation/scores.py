"""What was measured of the images -> the scores of the set, with bootstrap intervals.

Every metric is computed from sums over images, each image counted as often as its weight says: once for the score
itself, as often as it was drawn in a resample. All resamples are computed at once.

The mean over images (dice, hd95, ...) is that of each class, and 'all' the mean over the foreground classes. Where a
class is in neither mask of an image, --empty says what the image counts: perfect, as 1, and as a distance of 0; skip,
not at all; worst, as 0, and as a distance of the image's diagonal. Where it is in just one of them, scores are 0 and
distances the diagonal. Scores over the pixels of all images together (pooled_dice, ...) and set_dice follow the same
rule. Of several classes, those that no mask of the truth holds have no scores.

Source of the intervals: Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentiles); images
are what is drawn, since pixels of one image are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unet_cli.evaluation.evaluate import Evaluation
from unet_cli.metrics.calibration import Reliability, calibration_error, reliability
from unet_cli.metrics.membranes import best_over_thresholds
from unet_cli.metrics.names import METRIC_NAMES
from unet_cli.metrics.objects import bowl_score, object_f1
from unet_cli.metrics.overlap import (
    accuracy,
    area_shares,
    counted_pixels,
    dice,
    iou,
    precision,
    present_classes,
    ratio,
    recall,
    shown_classes,
)
from unet_cli.metrics.ranking import average_precision, roc_auc

RESAMPLES = 2000
MAX_DRAWN = 10**8  # images in all resamples together: of a huge set there are fewer
FEW_IMAGES = 10  # of fewer, a bootstrap says little
MIN_COMPARED = 6  # images: of fewer, all may differ in one direction by luck
SURFACES = ("hd95", "assd", "surface_dice", "boundary_iou")
DISTANCES = ("hd95", "assd")
FROM_COUNTS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "dice": dice,
    "iou": iou,
    "precision": precision,
    "recall": recall,
}
EMPTY = {"perfect": 1.0, "skip": math.nan, "worst": 0.0}  # --empty, as a score; as a distance, 1 - it diagonals

Sampled = dict[str, np.ndarray]  # of each metric (1 + resamples, 1 + classes): the score itself first, 'all' first


@dataclass(frozen=True)
class Score:
    """One metric of a class, or over all of them.

    metric: such as 'dice'. name: of the class; 'all' for the mean over the foreground classes, and for what is of no
    class. low, high: its 95 % bootstrap interval over images. NaN where there is nothing to tell.
    """

    metric: str
    name: str
    value: float
    low: float
    high: float

    @property
    def interval(self) -> tuple[float, float] | None:
        """None where there is nothing to tell."""
        return None if math.isnan(self.low) else (self.low, self.high)


def sampled(found: Evaluation) -> Sampled:
    """Every metric, of all images and of resamples of them: the same ones whenever there are as many images."""
    weights = _drawn(len(found.images))
    per_image = {name: _mean(values, weights) for name, values in by_image(found).items()}
    pooled = {f"pooled_{name}": values for name, values in _pooled(found, weights).items()}
    shares = dice(
        _weighted(area_shares(found.counts)[:, found.labels.scored.start :], weights), EMPTY[found.scoring.empty]
    )
    tables = {**per_image, "set_dice": shares, **pooled, **_ranked(found, weights), **_calibration(found, weights)}
    for table in tables.values():
        table[:, ~present_classes(found.foreground)] = math.nan
    with_all = {name: np.column_stack([mean_of_classes(table), table]) for name, table in tables.items()}
    with_all["accuracy"][:, 0], with_all["pooled_accuracy"][:, 0] = _accuracy_of_all(found, weights)
    return with_all | _mean_iou(found, weights) | _membranes(found, weights)


def scores(table: Sampled, found: Evaluation) -> list[Score]:
    """All metrics of the set, each over all classes and of each. table: `sampled(found)`."""
    return _rows(table, found, least=2)


def overall(found: Evaluation, metric: str) -> Score:
    """A metric of each image, such as dice, over all classes: as in `scores`, without computing the others."""
    table = _mean(by_image(found)[metric], _drawn(len(found.images)))
    table[:, ~present_classes(found.foreground)] = math.nan
    return _rows({metric: mean_of_classes(table)[:, None]}, found, least=2)[0]


def differences(table: Sampled, other: Sampled, found: Evaluation) -> list[Score]:
    """How much higher the scores of one are than those of another, on the same images in the same order: both were
    drawn together (paired bootstrap). Without intervals for fewer than MIN_COMPARED images."""
    return _rows({name: values - other[name] for name, values in table.items() if name in other}, found, MIN_COMPARED)


def is_sure(difference: Score) -> bool:
    """Whether it is more than luck: its interval leaves out 0."""
    return difference.low > 0 or difference.high < 0


def by_image(found: Evaluation) -> dict[str, np.ndarray]:
    """(images, classes) of each metric of an image, as --empty says where a class is in neither mask; NaN for an image
    of which no pixel counts."""
    counts, empty, pixels = found.foreground, EMPTY[found.scoring.empty], _pixels(found)[:, None]
    table = {name: function(counts, empty) for name, function in FROM_COUNTS.items()}
    table["accuracy"] = accuracy(counts, pixels)
    surfaces = np.stack([one.surfaces for one in found.images])
    diagonals = np.array([found.scoring.diagonal(one.size) for one in found.images])[:, None]
    for place, name in enumerate(SURFACES):
        values, otherwise = surfaces[..., place], diagonals * (1 - empty) if name in DISTANCES else empty
        table[name] = np.where(np.isnan(values), otherwise, values)
    matches = np.stack([[match.counts for match in one.matches] for one in found.images])
    for name, score in (("bowl_score", bowl_score), ("object_f1", object_f1)):
        values = score(matches)
        table[name] = np.where(np.isnan(values), empty, values)
    return {name: np.where(pixels == 0, math.nan, values) for name, values in table.items()}


def reliabilities(found: Evaluation) -> tuple[Reliability, Reliability] | None:
    """Of all images together, without and with their temperatures; None where there are no probabilities."""
    if found.levels is None:
        return None
    everything = np.ones((1, len(found.images)))
    before, after = (_reliability(_weighted(_bins(found, calibrate), everything)[0]) for calibrate in (False, True))
    return before, after


def mean_of_classes(table: np.ndarray) -> np.ndarray:
    """(n, classes) -> (n), NaN being left out."""
    known = ~np.isnan(table)
    return ratio(np.where(known, table, 0.0).sum(1), known.sum(1), math.nan)


def _drawn(images: int) -> np.ndarray:
    """(1 + resamples, images) how often each image counts: once, then as often as it was drawn."""
    resamples = max(RESAMPLES // 10, min(RESAMPLES, MAX_DRAWN // images))
    draws = np.random.default_rng(0).multinomial(images, [1 / images] * images, resamples)
    return np.concatenate([np.ones((1, images)), draws])


def _pooled(found: Evaluation, weights: np.ndarray) -> Sampled:
    """(resamples, classes) of the pixels of all images together."""
    counts, pixels = _weighted(found.foreground, weights), _weighted(_pixels(found)[:, None], weights)
    table = {name: function(counts, EMPTY[found.scoring.empty]) for name, function in FROM_COUNTS.items()}
    return table | {"accuracy": accuracy(counts, pixels)}


def _accuracy_of_all(found: Evaluation, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(resamples) share of the pixels whose class is right: mean over images, and of all together."""
    right, pixels = found.counts[..., 0].sum(1)[:, None], _pixels(found)[:, None]
    pooled = ratio(_weighted(right, weights), _weighted(pixels, weights), math.nan)
    return _mean(ratio(right, pixels, math.nan), weights)[:, 0], pooled[:, 0]


def _ranked(found: Evaluation, weights: np.ndarray) -> Sampled:
    """Average precision and area under the ROC curve of all pixels together. Their resamples come from coarse levels,
    and are moved by what these are off for the whole set."""
    if found.levels is None:
        return {}
    levels = np.stack([one.levels for one in found.images if one.levels is not None])
    table = {}
    for name, score in (("average_precision", average_precision), ("roc_auc", roc_auc)):
        by_class = [score(_weighted(levels[:, one], weights)) for one in range(levels.shape[1])]
        moved = [values + fine - values[0] for values, fine in zip(by_class, score(found.levels), strict=True)]
        table[name] = np.column_stack(moved).clip(0, 1)
    return table


def _calibration(found: Evaluation, weights: np.ndarray) -> Sampled:
    """The error of resamples is moved by what it is higher on average: chance alone makes gaps between bins."""
    if found.levels is None:
        return {}
    error = calibration_error(_reliability(_weighted(_bins(found, True), weights)))
    error[1:] = (error[1:] - error[1:].mean(0) + error[0]).clip(0)
    return {"calibration_error": error}


def _mean_iou(found: Evaluation, weights: np.ndarray) -> Sampled:
    """Of all classes that masks hold, the background too, mean over images; where there are several besides. Of no
    class."""
    if found.labels.num_classes == 2:
        return {}
    values = iou(found.counts, EMPTY[found.scoring.empty])[:, shown_classes(found.counts, found.labels.scored.start)]
    values = np.where(_pixels(found)[:, None] == 0, math.nan, values)
    return {"mean_iou": mean_of_classes(_mean(values, weights))[:, None]}


def _membranes(found: Evaluation, weights: np.ndarray) -> Sampled:
    """Of no class."""
    of_images = [one.membranes for one in found.images if one.membranes is not None]
    if not of_images:
        return {}
    best = best_over_thresholds(np.stack(of_images), weights)
    return {"v_rand": best[:, :1], "v_info": best[:, 1:]}


def _bins(found: Evaluation, calibrate: bool) -> np.ndarray:
    """(images, 3, classes, bins) sums over pixels, as the sampled ones tell: of probabilities, of hits, of ones."""
    parts = []
    for one, pixels in zip(found.images, _pixels(found), strict=True):
        assert one.sample is not None
        of_image = reliability(one.sample, one.temperature if calibrate else 1.0, found.labels.scored.start)
        count = of_image.count * (pixels / max(1, len(one.sample.target)))
        means = np.nan_to_num(np.stack([of_image.confidence, of_image.frequency]))
        parts.append(np.stack([*(means * count), count]))
    return np.stack(parts)


def _reliability(sums: np.ndarray) -> Reliability:
    """(..., 3, classes, bins) sums as of `_bins`."""
    confidence, hits, count = np.moveaxis(sums, -3, 0)
    return Reliability(ratio(confidence, count, math.nan), ratio(hits, count, math.nan), count)


def _weighted(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(images, ...) and (resamples, images) -> (resamples, ...) sums."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    return (weights @ flat).reshape(len(weights), *values.shape[1:])


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(images, ...) and (resamples, images) -> (resamples, ...) means over images, NaN being left out."""
    known = ~np.isnan(values)
    return ratio(_weighted(np.where(known, values, 0.0), weights), _weighted(known, weights), math.nan)


def _pixels(found: Evaluation) -> np.ndarray:
    """(images) that count."""
    return counted_pixels(found.counts).astype(np.float64)


def _rows(tables: Sampled, found: Evaluation, least: int) -> list[Score]:
    """With the intervals of the resamples, if there are at least so many images. A class that is called 'all' is told
    from the mean over all."""
    names = ["all"]
    if found.labels.num_classes > 2:
        names += [f"{name} " if name == "all" else name for name in found.labels.scored_names]
    rows = []
    for metric in filter(tables.__contains__, METRIC_NAMES):
        for name, values in zip(names, tables[metric].T, strict=False):
            drawn = values[1:][~np.isnan(values[1:])]
            known = len(drawn) and len(found.images) >= least
            low, high = np.percentile(drawn, [2.5, 97.5]) if known else (math.nan, math.nan)
            rows.append(Score(metric, name, float(values[0]), float(low), float(high)))
    return rows
