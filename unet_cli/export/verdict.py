"""Whether an exported file predicts what we predict, on real images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unet_cli.config.model import IGNORED
from unet_cli.data.labels import LabelMap
from unet_cli.data.preprocess import own_intensities
from unet_cli.export.files import Run
from unet_cli.export.graph import Graph
from unet_cli.export.images import Sample
from unet_cli.inference.views import Picture, View
from unet_cli.metrics.calibration import calibrated
from unet_cli.metrics.overlap import confusion, counts_of, summarize

MAX_TILES = 200  # after which no further image is begun


@dataclass(frozen=True)
class Verdict:
    """images: that were compared; pixels: of theirs, equal: of these, those of the same class. difference: the largest
    of any calibrated probability; NaN where a file gives one. dice: of both against the masks, None without any."""

    images: int
    pixels: int
    equal: int
    difference: float
    dice: float | None = None
    exported_dice: float | None = None

    def describe(self) -> list[str]:
        share = 100 * self.equal / self.pixels
        shown = "all" if self.equal == self.pixels else f"{min(share, 99.9999):.4f} %"
        lines = [
            f"  masks          {shown} of {self.pixels:,} pixels equal",
            f"  probabilities  differ by at most {self.difference:.2g}",
        ]
        if self.dice is not None:
            lines.append(f"  Dice           {self.exported_dice:.4f} in the file, {self.dice:.4f} here")
        return lines

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def verdict(graph: Graph, run: Run, samples: Iterable[Sample]) -> Verdict:
    """Predict the images by both, and compare. Raises UserError as reading and prediction do."""
    labels = graph.checkpoint.labels
    images = pixels = equal = tiles = 0
    differences = [0.0]
    scores: list[np.ndarray] = []
    for sample in samples:
        ours, our_probs = _ours(graph, sample)
        theirs, their_probs = _in_tiles(graph, run, sample) if graph.is_tile else _whole(graph, run, sample)
        images, pixels, equal = images + 1, pixels + ours.size, equal + int((ours == theirs).sum())
        differences.append(float(np.abs(our_probs - their_probs).max()))
        if sample.target is not None:
            scores.append(np.stack([_counts(one, sample.target, labels) for one in (ours, theirs)]))
        tiles += _picture(graph, sample).view_count
        if tiles > MAX_TILES:
            break
    found = Verdict(images, pixels, equal, float(np.max(differences)))  # NaN stays
    if not scores:
        return found
    first = int(labels.background)
    dice, theirs_dice = (summarize(part, first=first)["dice"] for part in np.stack(scores, axis=1))
    return replace(found, dice=dice, exported_dice=theirs_dice)


def _ours(graph: Graph, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Class indices (H, W), of objects without cores, and calibrated probabilities (K, H, W)."""
    bands = [graph.predictor.finished(band) for band in graph.predictor.bands(_picture(graph, sample))]
    return _classes_and_probs(graph, torch.cat(bands, dim=1))


def _picture(graph: Graph, sample: Sample) -> Picture:
    return graph.predictor.picture(sample.pixels) if sample.source is None else graph.predictor.read(sample.source)


def _whole(graph: Graph, run: Run, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    view = next(_picture(graph, sample).views())
    mask, probs = run(_as_decoded(graph, sample.pixels), _statistics(graph, view))
    return indices_of(mask, graph.checkpoint.labels), probs


def _in_tiles(graph: Graph, run: Run, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """The file's tiles, merged as ours are."""
    predictor, picture = graph.predictor, _picture(graph, sample)
    bands = []
    for view in picture.views():
        _, probs = run(_as_decoded(graph, view.inputs[0].numpy()), _statistics(graph, view))
        band = picture.add(view, [_uncalibrated(graph, torch.from_numpy(probs))])
        if band is not None:
            bands.append(predictor.finished(band))
    return _classes_and_probs(graph, torch.cat(bands, dim=1))


def _classes_and_probs(graph: Graph, probs: Tensor) -> tuple[np.ndarray, np.ndarray]:
    predictor = graph.predictor
    classes = predictor.labels.without_cores(predictor.classes(probs))
    planes = predictor.planes
    return classes, torch.cat([predictor.calibrated(probs[:planes]), probs[planes:]]).numpy()


def _uncalibrated(graph: Graph, probs: Tensor) -> Tensor:
    predictor = graph.predictor
    own = calibrated(probs[: predictor.planes], 1 / predictor.temperature, predictor.labels.overlapping)
    return torch.cat([own, probs[predictor.planes :]])


def _as_decoded(graph: Graph, pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels.transpose(1, 2, 0).astype(graph.input_type))


def _statistics(graph: Graph, view: View) -> np.ndarray | None:
    """Of the image that the view is a part of; of the view itself where it is of none. None where it takes none."""
    if not graph.takes_statistics:
        return None
    known = view.intensities[0]
    if known is None:
        known = own_intensities(view.inputs[0][None].float(), graph.checkpoint.preprocessing)[0]
    return known.numpy()


def indices_of(mask: np.ndarray, labels: LabelMap) -> np.ndarray:
    """A mask in the values or colours of the training masks -> (H, W) uint8 class indices; IGNORED for other values."""
    if labels.overlapping:
        return np.bitwise_or.reduce([(plane > 0).astype(np.uint8) << bit for bit, plane in enumerate(mask)])
    indices = np.full(mask.shape[:2], IGNORED, np.uint8)
    for number, value in enumerate(labels.decode(np.arange(labels.num_classes, dtype=np.uint8)[None])[0]):
        indices[(mask == value).reshape(*indices.shape, -1).all(-1)] = number
    return indices


def _counts(pred: np.ndarray, target: np.ndarray, labels: LabelMap) -> np.ndarray:
    """(classes, 4) counts of one image. Values of no class count as the first one."""
    members = replace(labels, cores=False).members
    known = np.where(pred == IGNORED, np.uint8(0), pred)
    matrix = confusion(torch.from_numpy(known)[None], torch.from_numpy(target)[None], len(members))
    return counts_of(matrix.numpy(), members)[0]
