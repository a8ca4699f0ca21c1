"""Pairs of ground truth and prediction, of each image: from a network, or from masks of another tool."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from torch import Tensor

from unet_cli.config.model import IGNORED
from unet_cli.config.prediction import Cleaning
from unet_cli.data.imagefile import missing_pixels
from unet_cli.data.labels import LabelMap
from unet_cli.data.source import Pair, Source
from unet_cli.data.truth import Mask, read_truth
from unet_cli.errors import UserError
from unet_cli.inference.batching import Task, whole_images
from unet_cli.inference.cleaning import clean
from unet_cli.inference.numbering import objects_of
from unet_cli.inference.predictor import Predictor
from unet_cli.inference.views import Picture
from unet_cli.system.console import Console
from unet_cli.system.prefetch import default_workers, prefetch
from unet_cli.system.stage_times import StageTimes

VOLUMES_AT_ONCE = 2  # that are read ahead or measured, as measuring takes up to 50 bytes a voxel


@dataclass(frozen=True)
class Answer:
    """One image's ground truth and prediction. probs: (K, *spatial) float32, uncalibrated; None for masks of another
    tool. temperature: calibrates them. cores: (*spatial) probabilities of objects' cores, where they are predicted."""

    pair: Pair
    target: Mask
    pred: Mask
    probs: Tensor | None = None
    temperature: float = 1.0
    cores: np.ndarray | None = None

    @cached_property
    def ignored(self) -> np.ndarray | None:
        """bool, the ignored pixels; None where there are none."""
        ignored = self.target.classes == IGNORED
        return ignored if ignored.any() else None


class _Sample(Task):
    """An image that passes through the network, with its pair and ground truth."""

    def __init__(self, picture: Picture, pair: Pair, target: Mask) -> None:
        super().__init__(picture, pair.image)
        self.pair, self.target = pair, target


def of_network(
    predictor: Predictor,
    pairs: Sequence[Pair],
    labels: LabelMap,
    cleaning: Cleaning,
    workers: int | None,
    console: Console,
) -> Iterator[Answer]:
    """The network's predictions at the images' original size, in the order of the pairs; labels: the label map of the
    ground truth.

    Raises UserError at a file that can't be read.
    """
    threads, own = at_once(pairs, workers), predictor.labels
    cleaning = predictor.cleaning(cleaning)
    samples = prefetch(partial(_read, predictor, labels), pairs, threads, _depth(pairs, threads))
    predicted = whole_images(predictor, samples, StageTimes("scoring"))
    for sample, rows in console.progress(predicted, len(pairs), "scoring at original size", kind_of(pairs)):
        probs = rows.reshape(len(rows), *sample.target.classes.shape)  # slices come one below the other
        pred = clean(predictor.classes(probs), cleaning, own)
        mask = Mask(own.without_cores(pred), objects_of(pred, cleaning, own))
        cores = probs[predictor.planes].numpy() if own.cores else None
        yield Answer(sample.pair, sample.target, mask, probs[: predictor.planes], predictor.temperature, cores)


def of_masks(
    masks: Mapping[Pair, Source],
    labels: LabelMap,
    their_labels: LabelMap,
    cleaning: Cleaning,
    workers: int | None,
    console: Console,
    lacking: Container[Pair] = (),
) -> Iterator[Answer]:
    """Predictions from mask files of another tool. lacking: pairs whose image has missing pixels; no other images are
    read. Raises UserError at a file that can't be read or differs in size from the ground truth."""
    threads, read = at_once(masks, workers), partial(_read_both, labels, their_labels, cleaning, lacking)
    answers = prefetch(read, masks.items(), threads, _depth(masks, threads))
    yield from console.progress(answers, len(masks), "reading masks", kind_of(masks))


def kind_of(pairs: Iterable[Pair]) -> str:
    """What the images are called."""
    return "volumes" if any(pair.image.is_volume for pair in pairs) else "images"


def at_once(pairs: Iterable[Pair], workers: int | None) -> int:
    """The number of threads that read or measure: by default fewer for volumes, since each holds one in memory."""
    return workers or min(default_workers(), VOLUMES_AT_ONCE if kind_of(pairs) == "volumes" else default_workers())


def _depth(pairs: Iterable[Pair], threads: int) -> int:
    """The number of images that are read ahead."""
    return threads if kind_of(pairs) == "volumes" else 2 * threads


def size_text(sides: Sequence[int]) -> str:
    """(H, W) -> 'WxH'; (D, H, W) -> 'WxHxD'."""
    return "x".join(str(side) for side in reversed(sides))


def _read(predictor: Predictor, labels: LabelMap, pair: Pair) -> _Sample:
    is_float = any(member.preprocessing.dtype == "float32" for member in predictor.members)
    missing = _missing(pair.image) if is_float else None
    sample = _Sample(predictor.read(pair.image), pair, read_truth(pair.mask, labels, missing))
    if sample.picture.shape != sample.target.classes.shape:  # a file was replaced after the check of the data
        sizes = [size_text(shape) for shape in (sample.target.classes.shape, sample.picture.shape)]
        raise UserError(f"{pair.mask} is {sizes[0]} but its image {pair.image} is {sizes[1]}: was one replaced?")
    return sample


def _missing(image: Source) -> np.ndarray | None:
    try:
        return missing_pixels(image)
    except UserError as error:
        raise image.named(error) from error


def _read_both(
    labels: LabelMap, their_labels: LabelMap, cleaning: Cleaning, lacking: Container[Pair], both: tuple[Pair, Source]
) -> Answer:
    pair, source = both
    target = read_truth(pair.mask, labels, _missing(pair.image) if pair in lacking else None)
    pred = read_truth(source, their_labels)
    # Another tool's ignored pixels are no class: as predictions they count as background.
    pred = replace(pred, classes=np.where(pred.classes == IGNORED, np.uint8(0), pred.classes))
    if pred.classes.shape != target.classes.shape:
        sizes = [size_text(mask.classes.shape) for mask in (pred, target)]
        raise UserError(f"{source} is {sizes[0]} but its truth {pair.mask} is {sizes[1]}: give masks of the same size")
    if cleaning.changes_masks or cleaning.split_touching:
        classes = clean(pred.classes, cleaning, their_labels)
        pred = Mask(classes, objects_of(classes, cleaning, their_labels))
    return Answer(pair, target, pred)
