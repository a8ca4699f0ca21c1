"""Measurements of one image: its prediction against its ground truth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from unet_cli.config.model import IGNORED
from unet_cli.data.colours import Colours
from unet_cli.data.imagefile import read_image
from unet_cli.evaluation.answers import Answer
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
    """

    ruler: Ruler
    isbi: bool
    pixels: int
    colours: Colours | None = None
    keep_alpha: bool = False
    doubts: bool = False


@dataclass(frozen=True)
class Measured:
    """The measurements of one image or volume; K classes, C of them scored: all but the background.

    size: (H, W) or (D, H, W). confusion: (K, K) int64 pixels, [target, pred]. surfaces: (C, 4) 95th percentile
    Hausdorff distance, average symmetric surface distance, surface Dice, boundary IoU, NaN where the class is in
    neither mask. matches: one for each foreground class. membranes: (11, 2), see membrane_scores. With probabilities:
    levels (C, 2, 65536), see count_levels; sweep (thresholds, 3) TP, FP, FN of the only foreground class at each of
    THRESHOLDS; sample, and the temperature that calibrates it.
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


def measure(answer: Answer, classes: range, wanted: Wanted) -> Measured:
    """Measure one image; classes: the scored ones. Raises UserError where the image can't be read again for its
    panels."""
    target, pred, num_classes = answer.target.classes, answer.pred.classes, classes.stop
    found = Measured(
        name=answer.pair.name,
        size=target.shape,
        confusion=_confusion(pred, target, num_classes),
        surfaces=np.array([_surface(answer, one, wanted.ruler) for one in classes]),
        matches=[_matches(answer, one) for one in classes],
        membranes=_membranes(answer, num_classes) if wanted.isbi else None,
        temperature=answer.temperature,
        panels=_panels(answer, wanted) if wanted.colours else None,
    )
    if answer.probs is None:
        return found
    foreground = answer.probs[-len(classes) :]
    counted = target != IGNORED
    return replace(
        found,
        levels=np.stack(
            [count_levels(probs, target == one, counted) for one, probs in zip(classes, foreground, strict=True)]
        ),
        sweep=_sweep(foreground[0].numpy(), target) if num_classes == 2 else None,
        sample=sample_pixels(answer.probs, target, wanted.pixels),
        doubt=doubt(calibrated(answer.probs, answer.temperature), target) if wanted.doubts else None,
    )


def _confusion(pred: np.ndarray, target: np.ndarray, num_classes: int) -> np.ndarray:
    """(K, K) pixels, [target, pred]; of volumes slice by slice, since counting takes 24 bytes a voxel."""
    if target.ndim > 2:
        return np.sum([_confusion(*both, num_classes) for both in zip(pred, target, strict=True)], axis=0)
    return confusion(torch.from_numpy(pred)[None], torch.from_numpy(target)[None], num_classes)[0].numpy()


def _surface(answer: Answer, one: int, ruler: Ruler) -> tuple[float, float, float, float]:
    """Surface metrics in the ruler's unit."""
    pred, target, name = answer.pred.classes == one, answer.target.classes == one, answer.pair.name
    band = ruler.band_of(name, target.shape)
    found = compare_surfaces(pred, target, ruler.step_of(name), ruler.tolerance, band, answer.ignored)
    return found.hd95, found.assd, found.surface_dice, found.boundary_iou


def _matches(answer: Answer, one: int) -> Matches:
    pred, target = (np.where(mask.classes == one, mask.numbers, 0) for mask in (answer.pred, answer.target))
    return match_objects(pred, target, answer.ignored)


def _membranes(answer: Answer, num_classes: int) -> np.ndarray:
    """Membrane metrics of cells against the rest: foreground and background, whatever the class."""
    target = answer.target.classes
    if answer.probs is None:
        cells = (answer.pred.classes > 0).astype(np.float32)
    else:
        cells = answer.probs[0].numpy() if num_classes == 2 else 1 - answer.probs[0].numpy()
    return membrane_scores(cells, (target > 0) & (target != IGNORED), answer.ignored)


def _panels(answer: Answer, wanted: Wanted) -> Panels:
    assert wanted.colours is not None
    pixels = read_image(answer.pair.image, wanted.keep_alpha)
    target, pred, colours = answer.target.classes, answer.pred.classes, wanted.colours
    if target.ndim == 2:
        return draw_panels(pixels, target, pred, colours)
    return draw_planes(pixels, target, pred, colours, wanted.ruler.step_of(answer.pair.name))


def _sweep(probs: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Probabilities and ground truth of one shape -> (thresholds, 3) TP, FP, FN of the foreground at each threshold.

    Ignored pixels are not counted.
    """
    probs, target = probs[target != IGNORED], target[target != IGNORED]
    passed = np.searchsorted(THRESHOLDS.astype(np.float32), probs, side="right")  # number of thresholds passed
    truth = target > 0
    bins = len(THRESHOLDS) + 1
    # One histogram and its reversed cumulative sum replace a pass over the image for each threshold.
    reached_true, reached_false = (
        np.bincount(passed[part], minlength=bins)[::-1].cumsum()[::-1][1:] for part in (truth, ~truth)
    )
    return np.stack([reached_true, reached_false, truth.sum() - reached_true], axis=-1)
