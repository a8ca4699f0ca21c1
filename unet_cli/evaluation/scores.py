"""Scores of the set from the measurements of its images, with bootstrap confidence intervals.

Every metric is computed from sums over images that are weighted by their multiplicity: one for the score itself, the
number of draws in a bootstrap resample. All resamples are computed at once.

Image metrics (dice, hd95, ...) are averaged over images for each class; 'all' is the mean over the foreground classes.
Where a class is in neither mask of an image, --empty decides: perfect scores 1 with a distance of 0; skip leaves the
image out; worst scores 0 with the image's diagonal as distance. Where it is in just one mask, scores are 0 and
distances the diagonal. Metrics of all pixels together (pooled_dice, ...) and set_dice follow the same rule. With
several classes, those that no ground truth mask contains have no scores.

Source of the intervals: Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13 (percentiles); images
are resampled, since pixels of one image are not independent.
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
from unet_cli.metrics.objects import bowl_score, object_f1, object_f1_75, surplus, true_objects
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
MAX_DRAWN = 10**8  # images in all resamples together: huge sets get fewer resamples
FEW_IMAGES = 10  # bootstrap intervals of fewer images are unreliable
MIN_COMPARED = 6  # images: with fewer, all may differ in one direction by chance at the 5 % level
SURFACES = ("hd95", "assd", "surface_dice", "boundary_iou")
DISTANCES = ("hd95", "assd")
FROM_COUNTS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "dice": dice,
    "iou": iou,
    "precision": precision,
    "recall": recall,
}
OF_OBJECTS = ("object_f1", "object_f1_75", "bowl_score", "count_error", "count_bias")  # in summaries
EMPTY = {"perfect": 1.0, "skip": math.nan, "worst": 0.0}  # --empty as a score; as a distance, (1 - score) diagonals

Sampled = dict[str, np.ndarray]  # metric -> (1 + resamples, 1 + classes); row 0 is the score, column 0 is 'all'


@dataclass(frozen=True)
class Score:
    """One metric of a class, or over all classes.

    metric: its key, such as 'dice'. name: the class; 'all' for the mean over the foreground classes, and for metrics
    without classes. low, high: the 95 % bootstrap confidence interval over images. NaN where undefined.
    """

    metric: str
    name: str
    value: float
    low: float
    high: float

    @property
    def interval(self) -> tuple[float, float] | None:
        """The confidence interval; None where undefined."""
        return None if math.isnan(self.low) else (self.low, self.high)


def sampled(found: Evaluation) -> Sampled:
    """Every metric, of all images and of the bootstrap resamples, which are the same for equal numbers of images."""
    weights = _drawn(len(found.images))
    per_image = {name: _mean(values, weights) for name, values in by_image(found).items()}
    pooled = {f"pooled_{name}": values for name, values in _pooled(found, weights).items()}
    shares = dice(
        _weighted(area_shares(found.counts)[:, found.labels.scored.start :], weights), EMPTY[found.scoring.empty]
    )
    tables = {**per_image, "set_dice": shares, **pooled, **_of_all_objects(found, weights)}
    tables |= {**_ranked(found, weights), **_calibration(found, weights)}
    for table in tables.values():
        table[:, ~present_classes(found.foreground)] = math.nan
    with_all = {name: np.column_stack([mean_of_classes(table), table]) for name, table in tables.items()}
    with_all["accuracy"][:, 0], with_all["pooled_accuracy"][:, 0] = _accuracy_of_all(found, weights)
    return with_all | _mean_iou(found, weights) | _membranes(found, weights)


def scores(table: Sampled, found: Evaluation) -> list[Score]:
    """All metrics of the set, over all classes and of each class. table: `sampled(found)`."""
    return _rows(table, found, least=2)


def overall(found: Evaluation, metric: str) -> Score:
    """An image metric, such as dice, over all classes: as in `scores`, without computing the others."""
    table = _mean(by_image(found)[metric], _drawn(len(found.images)))
    table[:, ~present_classes(found.foreground)] = math.nan
    return _rows({metric: mean_of_classes(table)[:, None]}, found, least=2)[0]


def differences(table: Sampled, other: Sampled, found: Evaluation) -> list[Score]:
    """The scores of `table` minus those of `other`, on the same images in the same order, by paired bootstrap: both use
    the same resamples. Without intervals for fewer than MIN_COMPARED images."""
    return _rows({name: values - other[name] for name, values in table.items() if name in other}, found, MIN_COMPARED)


def is_significant(difference: Score) -> bool:
    """Whether the difference is statistically significant at the 5 % level: its 95 % interval excludes 0."""
    return difference.low > 0 or difference.high < 0


def by_image(found: Evaluation) -> dict[str, np.ndarray]:
    """(images, classes) of each image metric; as --empty says where a class is in neither mask; NaN for an image whose
    pixels are all ignored."""
    counts, empty = found.foreground, EMPTY[found.scoring.empty]
    table = {name: function(counts, empty) for name, function in FROM_COUNTS.items()}
    table["accuracy"] = accuracy(counts)
    surfaces = np.stack([one.surfaces for one in found.images])
    diagonals = np.array([found.ruler.diagonal(one.name, one.size) for one in found.images])[:, None]
    for place, name in enumerate(SURFACES):
        values, otherwise = surfaces[..., place], diagonals * (1 - empty) if name in DISTANCES else empty
        table[name] = np.where(np.isnan(values), otherwise, values)
    matches = object_counts(found)
    for name, score in (("bowl_score", bowl_score), ("object_f1", object_f1), ("object_f1_75", object_f1_75)):
        values = score(matches)
        table[name] = np.where(np.isnan(values), empty, values)
    is_left_out = (matches[..., 0, :].sum(-1) == 0) & math.isnan(empty)
    table["count_bias"] = np.where(is_left_out, math.nan, surplus(matches))
    table["count_error"] = np.abs(table["count_bias"])
    is_ignored = _pixels(found)[:, None] == 0
    return {name: np.where(is_ignored, math.nan, values) for name, values in table.items()}


def summary(found: Evaluation) -> dict[str, float]:
    """The scores of a set, see metrics.summarize, after those of objects where these come first. NaN is left out."""
    own = {metric: overall(found, metric).value for metric in OF_OBJECTS} if found.is_of_objects else {}
    return {metric: value for metric, value in own.items() if not math.isnan(value)} | found.scores


def object_counts(found: Evaluation) -> np.ndarray:
    """(images, classes, 10, 3), see metrics.objects.Matches."""
    return np.stack([[match.counts for match in one.matches] for one in found.images])


def reliabilities(found: Evaluation) -> tuple[Reliability, Reliability] | None:
    """The reliability of all images together, without and with their temperatures; None without probabilities."""
    if found.levels is None:
        return None
    everything = np.ones((1, len(found.images)))
    before, after = (_reliability(_weighted(_bins(found, calibrate), everything)[0]) for calibrate in (False, True))
    return before, after


def mean_of_classes(table: np.ndarray) -> np.ndarray:
    """(n, classes) -> (n), the mean over classes without NaN."""
    known = ~np.isnan(table)
    return ratio(np.where(known, table, 0.0).sum(1), known.sum(1), math.nan)


def _drawn(images: int) -> np.ndarray:
    """(1 + resamples, images) multiplicity of each image: 1, then the number of its draws in each resample."""
    resamples = max(RESAMPLES // 10, min(RESAMPLES, MAX_DRAWN // images))
    # Drawing n images with replacement makes their multiplicities multinomial. The fixed seed makes comparisons paired.
    draws = np.random.default_rng(0).multinomial(images, [1 / images] * images, resamples)
    return np.concatenate([np.ones((1, images)), draws])


def _pooled(found: Evaluation, weights: np.ndarray) -> Sampled:
    """(resamples, classes) metrics of the pixels of all images together."""
    counts = _weighted(found.foreground, weights)
    table = {name: function(counts, EMPTY[found.scoring.empty]) for name, function in FROM_COUNTS.items()}
    return table | {"accuracy": accuracy(counts)}


def _accuracy_of_all(found: Evaluation, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(resamples) fraction of the pixels whose class, or set of classes, is correct: mean over images, and of all
    pixels together."""
    right = np.stack([np.trace(one.confusion) for one in found.images])[:, None]
    pixels = _pixels(found)[:, None]
    pooled = ratio(_weighted(right, weights), _weighted(pixels, weights), math.nan)
    return _mean(ratio(right, pixels, math.nan), weights)[:, 0], pooled[:, 0]


def _of_all_objects(found: Evaluation, weights: np.ndarray) -> Sampled:
    """(resamples, classes) differences of counts, splits and merges of all images together, per true object; NaN
    without any."""
    counts = object_counts(found)
    true = _weighted(true_objects(counts), weights)
    parts = {
        "relative_count_error": np.abs(surplus(counts)),
        "split_rate": np.array([[match.splits for match in one.matches] for one in found.images]),
        "merge_rate": np.array([[match.merges for match in one.matches] for one in found.images]),
    }
    return {name: ratio(_weighted(values, weights), true, math.nan) for name, values in parts.items()}


def _ranked(found: Evaluation, weights: np.ndarray) -> Sampled:
    """Average precision and area under the ROC curve of all pixels together."""
    if found.levels is None:
        return {}
    # A histogram of 65,536 levels for each image would not fit the memory: resamples use coarse histograms, shifted by
    # their deviation from the fine one on the whole set.
    levels = np.stack([one.levels for one in found.images if one.levels is not None])
    table = {}
    for name, score in (("average_precision", average_precision), ("roc_auc", roc_auc)):
        by_class = [score(_weighted(levels[:, one], weights)) for one in range(levels.shape[1])]
        moved = [values + fine - values[0] for values, fine in zip(by_class, score(found.levels), strict=True)]
        table[name] = np.column_stack(moved).clip(0, 1)
    return table


def _calibration(found: Evaluation, weights: np.ndarray) -> Sampled:
    """Expected calibration error, bias-corrected."""
    if found.levels is None:
        return {}
    # Sampling noise alone makes gaps between bins, so resamples have a higher error on average: this bias is
    # subtracted.
    error = calibration_error(_reliability(_weighted(_bins(found, True), weights)))
    error[1:] = (error[1:] - error[1:].mean(0) + error[0]).clip(0)
    return {"calibration_error": error}


def _mean_iou(found: Evaluation, weights: np.ndarray) -> Sampled:
    """Mean IoU over all present classes, background included, averaged over images; only with several foreground
    classes. One column, since it has no value for a class."""
    if found.labels.num_classes == 2:
        return {}
    values = iou(found.counts, EMPTY[found.scoring.empty])[:, shown_classes(found.counts, found.labels.scored.start)]
    values = np.where(_pixels(found)[:, None] == 0, math.nan, values)
    return {"mean_iou": mean_of_classes(_mean(values, weights))[:, None]}


def _membranes(found: Evaluation, weights: np.ndarray) -> Sampled:
    """V_rand and V_info, one column each."""
    of_images = [one.membranes for one in found.images if one.membranes is not None]
    if not of_images:
        return {}
    best = best_over_thresholds(np.stack(of_images), weights)
    return {"v_rand": best[:, :1], "v_info": best[:, 1:]}


def _bins(found: Evaluation, calibrate: bool) -> np.ndarray:
    """(images, 3, classes, bins) sums over pixels, extrapolated from the pixel samples: of probabilities, positives and
    counts."""
    parts = []
    for one, pixels in zip(found.images, _pixels(found), strict=True):
        assert one.sample is not None
        of_image = reliability(one.sample, one.temperature if calibrate else 1.0, found.labels.scored.start)
        count = of_image.count * (pixels / max(1, len(one.sample.target)))
        means = np.nan_to_num(np.stack([of_image.confidence, of_image.frequency]))
        parts.append(np.stack([*(means * count), count]))
    return np.stack(parts)


def _reliability(sums: np.ndarray) -> Reliability:
    """Reliability from (..., 3, classes, bins) sums of `_bins`."""
    confidence, hits, count = np.moveaxis(sums, -3, 0)
    return Reliability(ratio(confidence, count, math.nan), ratio(hits, count, math.nan), count)


def _weighted(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(images, ...) and (resamples, images) -> (resamples, ...) weighted sums."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    return (weights @ flat).reshape(len(weights), *values.shape[1:])


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(images, ...) and (resamples, images) -> (resamples, ...) weighted means over images without NaN."""
    known = ~np.isnan(values)
    return ratio(_weighted(np.where(known, values, 0.0), weights), _weighted(known, weights), math.nan)


def _pixels(found: Evaluation) -> np.ndarray:
    """(images) number of pixels that are not ignored."""
    return counted_pixels(found.counts).astype(np.float64)


def _rows(tables: Sampled, found: Evaluation, least: int) -> list[Score]:
    """Scores with confidence intervals from the resamples, if there are at least `least` images. A class named 'all'
    gets a trailing space to distinguish it from the mean over all."""
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
