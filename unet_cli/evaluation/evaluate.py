"""Evaluate predictions against the ground truth of a data set, at the images' original size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from unet_cli.config.evaluation import Scoring
from unet_cli.config.prediction import Cleaning
from unet_cli.data.colours import colours_of
from unet_cli.data.labels import LabelMap
from unet_cli.data.source import Pair, spread
from unet_cli.data.truth import numbers_objects
from unet_cli.evaluation.answers import Answer, at_once, of_network
from unet_cli.evaluation.fits import grown_by
from unet_cli.evaluation.measure import THRESHOLDS, Measured, Wanted, measure
from unet_cli.evaluation.object_panels import Packed
from unet_cli.evaluation.ruler import Ruler, ruler_of
from unet_cli.evaluation.tally import Tally, tally
from unet_cli.inference.predictor import Predictor
from unet_cli.metrics.calibration import PixelSample, calibrated_number, fit_temperature
from unet_cli.metrics.objects import bowl_score
from unet_cli.metrics.overlap import counted_pixels, counts_of, present_classes, ratio, set_dice, summarize
from unet_cli.metrics.ranking import coarse
from unet_cli.system.console import Console
from unet_cli.system.prefetch import prefetch

SAMPLED_PIXELS = 2**19  # for calibration, of all images together
MIN_SAMPLED = 256  # for calibration, of each image
MASKS_LOOKED_AT = 16  # to see whether they number objects


@dataclass(frozen=True)
class Evaluation:
    """The measurements of all images.

    images: their `levels` are coarse histograms, see ranking.coarse. levels: the fine ones of all images together, (C,
    2, 65536), None without probabilities. scoring: the settings of the measurement; ruler: of its distances. numbered:
    whether the masks of the truth tell objects apart.
    """

    labels: LabelMap
    scoring: Scoring
    ruler: Ruler
    images: list[Measured]
    levels: np.ndarray | None
    numbered: bool = False

    @property
    def is_of_objects(self) -> bool:
        """Whether scores of objects come first: masks number them, or the network learned to tell them apart."""
        return self.numbered or any(one.has_cores for one in self.images)

    @cached_property
    def tally(self) -> Tally:
        """The objects of all images and classes."""
        return tally(match for one in self.images for match in one.matches)

    def tallies(self) -> dict[str, Tally]:
        """The objects of each class."""
        columns = zip(*(one.matches for one in self.images), strict=True)
        return {name: tally(of_class) for name, of_class in zip(self.labels.scored_names, columns, strict=True)}

    @property
    def noun(self) -> str:
        """What the images are called: 'images' or 'volumes'."""
        return "images" if len(self.images[0].size) == 2 else "volumes"

    @cached_property
    def counts(self) -> np.ndarray:
        """(images, K, 4) TP, FP, FN, TN of each class."""
        return counts_of(np.stack([one.confusion for one in self.images]), self.labels.members)

    @property
    def foreground(self) -> np.ndarray:
        """(images, C, 4) counts of the scored classes."""
        return self.counts[:, self.labels.scored.start :]

    @cached_property
    def scores(self) -> dict[str, float]:
        """See metrics.summarize."""
        return summarize(self.counts, self.labels.names, self.labels.scored.start)

    def calibrated(self) -> Evaluation:
        """The same with the temperature fitted to these images, which should be a validation part."""
        temperature = fit_temperature(self.sample)
        return replace(self, images=[replace(one, temperature=temperature) for one in self.images])

    @property
    def sample(self) -> PixelSample:
        """The pixel samples of all images together."""
        samples = [one.sample for one in self.images if one.sample is not None]
        return samples[0].joined(samples[1:])

    @property
    def temperature(self) -> float:
        """The temperature of the first image; images of one network's validation part all have the same."""
        return self.images[0].temperature

    @cached_property
    def best_fit(self) -> int | None:
        """Which of CORE_FITS gives the highest mean of the images' `bowl_score`, the first of equals; None where
        objects have no cores."""
        if not self.images[0].fits:
            return None
        counts = [[np.sum([match.counts for match in fit], axis=0) for fit in one.fits] for one in self.images]
        scores = bowl_score(np.stack(counts))
        return int(np.where(np.isnan(scores), 0, scores).mean(0).argmax())

    def fitted(self) -> Evaluation:
        """The same with the objects that the best fit gives."""
        best = self.best_fit
        if best is None:
            return self
        return replace(self, images=[self._fitted(one, best) for one in self.images])

    def _fitted(self, one: Measured, fit: int) -> Measured:
        pictured, levels = one.pictured, one.core_levels
        if pictured is not None and levels is not None:
            of_classes = map(Packed.of, grown_by(fit, levels.values, self.labels))
            trues = (true for true, _ in pictured.layers)
            pictured = replace(pictured, layers=tuple(zip(trues, of_classes, strict=True)))
        return replace(one, matches=one.fits[fit], fits=(), core_levels=None, pictured=pictured)

    @cached_property
    def best_threshold(self) -> tuple[float, float] | None:
        """The threshold of THRESHOLDS with the highest set Dice, as a calibrated probability, and that set Dice; the
        middle one of several that tie. None with several foreground
        classes, unless they overlap: then the mean of their set Dice decides."""
        sweeps = [one.sweep for one in self.images if one.sweep is not None]
        if not sweeps:
            return None
        pixels = counted_pixels(self.counts)[:, None, None, None]
        present = present_classes(self.foreground)
        by_threshold = set_dice(ratio(np.stack(sweeps)[:, present], pixels, 0.0)).mean(0)
        # Ties are common on a plateau: its middle is the most robust threshold.
        best = np.flatnonzero(by_threshold >= by_threshold.max() - 1e-9)
        middle = best[len(best) // 2]
        threshold = calibrated_number(float(THRESHOLDS[middle]), self.temperature)
        return threshold, float(by_threshold[middle])


def evaluate(
    answers: Iterable[Answer],
    labels: LabelMap,
    pairs: Sequence[Pair],
    scoring: Scoring,
    workers: int | None = None,
    panels: bool = False,
    keep_alpha: bool = False,
    doubts: bool = False,
    fits: bool = False,
) -> Evaluation:
    """Measure the predictions in threads, as they arrive.

    pairs: in the order of the evaluation's images. panels: draw panels, reading images with keep_alpha. doubts: compute
    label doubts. fits: try how objects are best grown from their cores. Raises UserError where a prediction is not
    available, and where --spacing doesn't fit.
    """
    ruler = ruler_of(scoring, pairs)
    pixels = max(MIN_SAMPLED, SAMPLED_PIXELS // len(pairs))
    masks = [pair.mask for pair in pairs if not pair.mask.is_blank]
    numbered = any(numbers_objects(mask, labels) for mask in spread(masks, MASKS_LOOKED_AT))
    colours = colours_of(labels) if panels else None
    wanted = Wanted(ruler, scoring.isbi, pixels, colours, keep_alpha, doubts, fits, numbered)
    workers = at_once(pairs, workers)
    measured: list[Measured] = []
    levels: np.ndarray | None = None
    for one in prefetch(partial(measure, labels=labels, wanted=wanted), answers, workers, depth=workers):
        if one.levels is not None:
            levels = one.levels if levels is None else levels + one.levels
            # The fine histogram of each image would take 1 MB a class; only their sum stays fine.
            one = replace(one, levels=coarse(one.levels))
        measured.append(one)
    place = {pair.name: number for number, pair in enumerate(pairs)}
    return Evaluation(labels, scoring, ruler, sorted(measured, key=lambda one: place[one.name]), levels, numbered)


def evaluate_network(
    predictor: Predictor,
    pairs: Sequence[Pair],
    workers: int | None,
    console: Console,
    panels: bool = False,
    fits: bool = False,
) -> Evaluation:
    """Evaluate one network as `unet evaluate` does with its default options."""
    labels = replace(predictor.labels, cores=False)  # of the truth
    answers = of_network(predictor, pairs, labels, Cleaning(), workers, console)
    keep_alpha = predictor.preprocessing.keep_alpha
    scoring = Scoring(spacing=predictor.settings.spacing)
    return evaluate(answers, labels, pairs, scoring, workers, panels, keep_alpha, fits=fits)
