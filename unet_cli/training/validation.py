"""Validation: scores of the network on the validation part, at network size."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat

import numpy as np
import torch
from torch import Tensor

from unet_cli.data.objects import CLASSES
from unet_cli.data.pictures import shown_slice
from unet_cli.data.preprocess import middle_slice
from unet_cli.data.samples.dataset import Batch, SegmentationDataset
from unet_cli.data.samples.warp import center_crop
from unet_cli.metrics.overlap import confusion, counts_of, summarize
from unet_cli.models.classes import decided, parts_of, to_classes
from unet_cli.system.signals import StopRequest
from unet_cli.training.loader import to_device
from unet_cli.training.run import Run
from unet_cli.training.statistics import recompute_statistics
from unet_cli.training.step import Learner


def validate_averaged(run: Run, stop: StopRequest) -> dict[str, float] | None:
    """`validate` with the averaged weights, whose batch norm statistics are recomputed before and kept."""
    learner, start = run.learner, time.monotonic()
    # Each process has running statistics of its own samples; these are averaged while all have the same weights.
    learner.world.average_buffers(learner.model)
    # The average's own batch norm statistics are averages of averages, see recompute_statistics.
    with learner.average.swapped_in(learner.model):
        batches = run.loader.statistics_batches(learner.micro_batch)
        recompute_statistics(learner.model, learner.forward, batches, learner.world)
        scores = validate(learner, run.val_data, run.loader.batch_size, stop)
    run.course.time_validation(time.monotonic() - start)
    return scores


def validate(
    learner: Learner, data: SegmentationDataset, batch_size: int, stop: StopRequest | None = None
) -> dict[str, float] | None:
    """Scores of the network's current weights over the validation part at network size: those of
    metrics.overlap.summarize, `loss`, `foreground` (share of the pixels that are predicted as foreground), and with
    cores `core_dice`, their set Dice.

    Empty without a validation part, None where a stop was requested meanwhile. Several processes share the samples;
    their counts are summed, so the scores equal those of one process.
    """
    if not len(data):
        return {}
    world, labels = learner.world, data.labels
    members = labels.members
    batches = data.batches(range(world.rank, len(data), world.count), batch_size, learner.config.workers)
    # All processes take part in as many rounds, since each has a collective; in the last, some have no batch.
    rounds = -(-len(data) // (batch_size * world.count))
    counts = np.zeros((len(data.pairs), labels.num_classes, 4), dtype=np.int64)
    of_cores = np.zeros((len(data.pairs), 2, 4), dtype=np.int64)
    loss_sum = 0.0
    padded: Iterator[Batch | None] = islice(chain(batches, repeat(None)), rounds)
    for batch in learner.console.progress(padded, rounds, "validating", "steps"):
        if world.any(stop is not None and stop.is_requested):
            batches.close()
            return None
        if batch is None:
            continue
        image, mask = to_device(batch, data.preprocessing, learner.compute.device)
        mask = center_crop(mask, data.preprocessing.sides)
        logits = learner.logits(image)
        # The loss is per image, so that the mean doesn't depend on how images are batched.
        losses = [learner.loss(one[None], target[None]) for one, target in zip(logits, mask, strict=True)]
        loss_sum += float(torch.stack(losses).sum())
        rows = [data.image_numbers[index] for index in batch.indices]
        if labels.cores:
            mask, cores = parts_of(mask)
            # add.at, since several tiles of one image may be in a batch: += would count only one of them.
            np.add.at(of_cores, rows, _counts(logits[:, -1:], cores, np.eye(2, dtype=bool)))
            logits = logits[:, :-1]
        np.add.at(counts, rows, _counts(logits, mask, members, labels.overlapping))
    gathered = world.gathered((counts, of_cores, loss_sum))
    counts = np.sum([part for part, *_ in gathered], axis=0)
    of_cores = np.sum([part for _, part, _ in gathered], axis=0)
    foreground = {"foreground": _foreground_share(counts)} if labels.background else {}
    return {
        "loss": sum(loss for *_, loss in gathered) / len(data),
        **foreground,
        **summarize(counts, labels.names, labels.scored.start),
        **({"core_dice": summarize(of_cores)["set_dice"]} if labels.cores else {}),
    }


def _counts(logits: Tensor, target: Tensor, members: np.ndarray, overlapping: bool = False) -> np.ndarray:
    """(images, classes, 4) counts of a batch, see counts_of."""
    matrix = confusion(to_classes(logits, overlapping=overlapping), target, len(members))
    return counts_of(matrix.cpu().numpy(), members)


@dataclass(frozen=True)
class PredictedSample:
    """A sample and its prediction, or a slice of a volume's. image: (C, S, S), values of the file; mask, pred: (S, S)
    class indices."""

    image: np.ndarray
    mask: np.ndarray
    pred: np.ndarray


@torch.inference_mode()
def predict_samples(learner: Learner, data: SegmentationDataset, count: int) -> list[PredictedSample]:
    """Predictions of the averaged weights for `count` samples: the first of each image, then the others. Image, mask
    and prediction cover the same pixels, without the network's context."""
    _, firsts = np.unique(data.image_numbers, return_index=True)
    first_of_images = dict.fromkeys(firsts.tolist())
    order = [*first_of_images, *(index for index in range(len(data)) if index not in first_of_images)]
    predicted = []
    for index in order[:count]:
        (batch,) = data.batches([index], 1, workers=1)
        image, mask = to_device(batch, data.preprocessing, learner.compute.device)
        with learner.average.swapped_in(learner.model):
            logits = learner.logits(center_crop(image, [side + 2 * learner.context for side in data.sides]))
        # The modulus removes object numbers, which a mask may hold above the class indices.
        classes = center_crop(mask[0], data.sides).cpu().numpy().astype(np.int32) % CLASSES
        pixels = middle_slice(batch.image[0], data.preprocessing.slices)
        pred = decided(logits, data.labels.overlapping, data.labels.cores)[0].cpu().numpy()
        shown = center_crop(pixels, data.sides).numpy(), *map(data.labels.as_pictured, (classes.astype(np.uint8), pred))
        predicted.append(PredictedSample(*shown_slice(*shown)))
    return predicted


def _foreground_share(counts: np.ndarray) -> float:
    """(images, classes, 4) counts -> share of all pixels that are predicted as foreground: not as background."""
    background = counts[:, 0]
    return float(background[:, 2:].sum() / max(1, background.sum()))
