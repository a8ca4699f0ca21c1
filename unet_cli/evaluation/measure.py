"""Measurements of one image: its prediction against its ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from unet_cli.config.model import IGNORED
from unet_cli.data.colours import Colours
from unet_cli.data.imagefile import read_image
from unet_cli.data.labels import LabelMap
from unet_cli.evaluation.answers import Answer
from unet_cli.evaluation.fits import core_levels, grown_by_fits
from unet_cli.evaluation.object_panels import Packed, Pictured
from unet_cli.evaluation.panels import Panels, draw_panels
from unet_cli.evaluation.planes import draw_planes
from unet_cli.evaluation.ruler import Ruler
from unet_cli.evaluation.suspects import Doubt, doubt
from unet_cli.metrics.calibration import PixelSample, calibrated, sample_pixels
from unet_cli.metrics.membranes import membrane_scores
from unet_cli.metrics.objects import Matches, match_objects
from unet_cli.metrics.overlap import confusion
from unet_cli.metrics.ranking import count_levels
from unet_cli.metrics.surface import compare_surfaces

THRESHOLDS = np.round(np.arange(0.05, 0.96, 0.05), 2)


@dataclass(frozen=True)
class Wanted:
    """The optional measurements.

    isbi: the membrane scores. pixels: maximum number of pixels in the calibration sample. colours: colours of the
    panels, None for no panels; keep_alpha: how images are read for them. doubts: whether to look for label errors.
    fits: whether to try how objects are best grown from their cores. objects: whether the masks number objects, so that
    they are pictured.
    """

    ruler: Ruler
    isbi: bool
    pixels: int
    colours: Colours | None = None
    keep_alpha: bool = False
    doubts: bool = False
    fits: bool = False
    objects: bool = False


@dataclass(frozen=True)
class Measured:
    """The measurements of one image or volume; K classes, C of them scored: all but the background.

    size: (H, W) or (D, H, W). confusion: int64 pixels, [target, pred], for each class index, which is a set where
    classes overlap. surfaces: (C, 4) 95th percentile
    Hausdorff distance, average symmetric surface distance, surface Dice, boundary IoU, NaN where the class is in
    neither mask. matches: one for each foreground class. membranes: (11, 2), see membrane_scores. With probabilities:
    levels (C, 2, 65536), see count_levels; sweep (C, thresholds, 3) TP, FP, FN of the only foreground class, or of each
    that may overlap, at each of THRESHOLDS; sample, and the temperature that calibrates it. fits: matches at each of
    fits.CORE_FITS, and levels from which they are grown. pictured: what draws the objects; None where they are not
    pictured. has_cores: whether the prediction tells objects apart by their cores.
    """

    name: str
    size: tuple[int, ...]
    confusion: np.ndarray
    surfaces: np.ndarray
    matches: list[Matches]
    membranes: np.ndarray | None = None
    levels: np.ndarray | None = None
    sweep: np.ndarray | None = None
    sample: PixelSample | None = None
    temperature: float = 1.0
    panels: Panels | None = None
    doubt: Doubt | None = None
    fits: tuple[list[Matches], ...] = ()
    core_levels: Packed | None = None
    pictured: Pictured | None = None
    has_cores: bool = False


def measure(answer: Answer, labels: LabelMap, wanted: Wanted) -> Measured:
    """Measure one image. Raises UserError where the image can't be read again for its panels."""
    target, pred, classes = answer.target.classes, answer.pred.classes, labels.scored
    numbers = [_numbers(answer, labels, one) for one in classes]
    levels = None
    if wanted.fits and answer.cores is not None:
        levels = core_levels(pred, answer.cores)
    is_pictured = wanted.colours is not None and (wanted.objects or answer.cores is not None)
    found = Measured(
        name=answer.pair.name,
        size=target.shape,
        confusion=_confusion(pred, target, len(labels.members)),
        surfaces=np.array([_surface(answer, labels, one, wanted.ruler) for one in classes]),
        matches=[match_objects(found, true, answer.ignored) for true, found in numbers],
        membranes=_membranes(answer, labels) if wanted.isbi else None,
        temperature=answer.temperature,
        panels=_panels(answer, wanted) if wanted.colours else None,
        fits=() if levels is None else _fits(levels, numbers, answer, labels),
        core_levels=None if levels is None else Packed.of(levels),
        pictured=_pictured(answer, numbers, wanted) if is_pictured else None,
        has_cores=answer.cores is not None,
    )
    if answer.probs is None:
        return found
    foreground = answer.probs[-len(classes) :]
    counted = target != IGNORED
    truth = [labels.region(target, one) for one in classes]
    calibrate = partial(calibrated, temperature=answer.temperature, overlapping=labels.overlapping)
    return replace(
        found,
        levels=np.stack(
            [count_levels(probs, inside, counted) for inside, probs in zip(truth, foreground, strict=True)]
        ),
        sweep=_sweeps(foreground.numpy(), truth, counted) if labels.has_threshold else None,
        sample=sample_pixels(answer.probs, target, wanted.pixels, labels.overlapping),
        doubt=doubt(calibrate(answer.probs), target, labels.overlapping) if wanted.doubts else None,
    )


def _confusion(pred: np.ndarray, target: np.ndarray, indices: int) -> np.ndarray:
    """(indices, indices) pixels, [target, pred]; of volumes slice by slice, since counting takes 24 bytes a voxel."""
    if target.ndim > 2:
        return np.sum([_confusion(*both, indices) for both in zip(pred, target, strict=True)], axis=0)
    return confusion(torch.from_numpy(pred)[None], torch.from_numpy(target)[None], indices)[0].numpy()


def _surface(answer: Answer, labels: LabelMap, one: int, ruler: Ruler) -> tuple[float, float, float, float]:
    """Surface metrics in the ruler's unit."""
    pred, target = (labels.region(mask.classes, one) for mask in (answer.pred, answer.target))
    name = answer.pair.name
    band = ruler.band_of(name, target.shape)
    found = compare_surfaces(pred, target, ruler.step_of(name), ruler.tolerance, band, answer.ignored)
    return found.hd95, found.assd, found.surface_dice, found.boundary_iou


def _numbers(answer: Answer, labels: LabelMap, one: int) -> tuple[np.ndarray, np.ndarray]:
    """The object numbers of one class in the truth and in the prediction."""
    return answer.target.numbers_of(labels, one), answer.pred.numbers_of(labels, one)


def _fits(
    levels: np.ndarray, numbers: Sequence[tuple[np.ndarray, np.ndarray]], answer: Answer, labels: LabelMap
) -> tuple[list[Matches], ...]:
    """The objects of each class grown from cores, for each of CORE_FITS."""
    return tuple(
        [match_objects(one, true, answer.ignored) for one, (true, _) in zip(found, numbers, strict=True)]
        for found in grown_by_fits(levels, labels)
    )


def _pictured(answer: Answer, numbers: Sequence[tuple[np.ndarray, np.ndarray]], wanted: Wanted) -> Pictured:
    layers = tuple((Packed.of(true), Packed.of(pred)) for true, pred in numbers)
    ignored = None if answer.ignored is None else Packed.of(answer.ignored)
    return Pictured(answer.pair.image, wanted.keep_alpha, layers, ignored)


def _membranes(answer: Answer, labels: LabelMap) -> np.ndarray:
    """Membrane metrics of cells against the rest: foreground and background, whatever the class."""
    target = answer.target.classes
    if answer.probs is None:
        cells = (answer.pred.classes > 0).astype(np.float32)
    else:
        foreground = answer.probs.numpy()
        cells = foreground.max(0) if labels.has_threshold else 1 - foreground[0]
    return membrane_scores(cells, (target > 0) & (target != IGNORED), answer.ignored)


def _panels(answer: Answer, wanted: Wanted) -> Panels:
    assert wanted.colours is not None
    pixels = read_image(answer.pair.image, wanted.keep_alpha)
    target, pred, colours = answer.target.classes, answer.pred.classes, wanted.colours
    if target.ndim == 2:
        return draw_panels(pixels, target, pred, colours)
    return draw_planes(pixels, target, pred, colours, wanted.ruler.step_of(answer.pair.name))


def _sweeps(probs: np.ndarray, truth: Sequence[np.ndarray], counted: np.ndarray) -> np.ndarray:
    """Probabilities of each foreground class (C, *spatial) and where it is -> (C, thresholds, 3), see `_sweep`.
    counted: bool, pixels that are not ignored."""
    return np.stack([_sweep(one[counted], inside[counted]) for one, inside in zip(probs, truth, strict=True)])


def _sweep(probs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(P) probabilities and bool -> (thresholds, 3) TP, FP, FN at each threshold."""
    passed = np.searchsorted(THRESHOLDS.astype(np.float32), probs, side="right")  # number of thresholds passed
    bins = len(THRESHOLDS) + 1
    # One histogram and its reversed cumulative sum replace a pass over the image for each threshold.
    reached_true, reached_false = (
        np.bincount(passed[part], minlength=bins)[::-1].cumsum()[::-1][1:] for part in (truth, ~truth)
    )
    return np.stack([reached_true, reached_false, truth.sum() - reached_true], axis=-1)
