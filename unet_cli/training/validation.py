"""Scores of the network on the validation part, at the size that it sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat

import numpy as np
import torch

from unet_cli.data.objects import CLASSES
from unet_cli.data.samples.dataset import Batch, SegmentationDataset
from unet_cli.data.samples.warp import center_crop
from unet_cli.metrics.overlap import count_pixels, summarize
from unet_cli.models.classes import to_classes
from unet_cli.system.signals import StopRequest
from unet_cli.training.loader import TrainLoader, to_device
from unet_cli.training.statistics import recompute_statistics
from unet_cli.training.step import Learner


def validate_averaged(
    learner: Learner, loader: TrainLoader, val_data: SegmentationDataset, stop: StopRequest
) -> dict[str, float] | None:
    """See `validate`, of the averaged weights with batch norm's statistics of their own, which they keep."""
    learner.world.average_buffers(learner.model)
    with learner.average.swapped_in(learner.model):
        batches = loader.statistics_batches(learner.at_once)
        recompute_statistics(learner.model, learner.forward, batches, learner.world)
        return validate(learner, val_data, loader.batch_size, stop)


def validate(
    learner: Learner, data: SegmentationDataset, batch_size: int, stop: StopRequest | None = None
) -> dict[str, float] | None:
    """Scores over the whole validation part at network size, of the weights that the network has: see
    metrics.overlap.summarize, and `loss` and `foreground` (share of the pixels that is predicted to be foreground).

    Nothing where there is no such part, None where a stop was asked for on the way. Several processes share the
    samples; the counts of all are added up, so the scores are those of one process.
    """
    if not len(data):
        return {}
    world, num_classes = learner.world, data.labels.num_classes
    batches = data.batches(range(world.rank, len(data), world.count), batch_size, learner.config.workers)
    rounds = -(-len(data) // (batch_size * world.count))  # in the last one some processes may have nothing
    counts = np.zeros((len(data.pairs), num_classes, 3), dtype=np.int64)
    loss_sum = 0.0
    padded: Iterator[Batch | None] = islice(chain(batches, repeat(None)), rounds)
    for batch in learner.console.progress(padded, rounds, "validating", "steps"):
        if world.any(stop is not None and stop.signum is not None):
            batches.close()
            return None
        if batch is None:
            continue
        image, mask = to_device(batch, data.preprocessing, learner.compute.device)
        mask = center_crop(mask, data.preprocessing.size)
        logits = learner.logits(image)
        # Of each image alone, so that the mean doesn't depend on which are in a batch together.
        losses = [learner.loss(one[None], target[None]) for one, target in zip(logits, mask, strict=True)]
        loss_sum += float(torch.stack(losses).sum())
        found = count_pixels(to_classes(logits), mask, num_classes).cpu().numpy()
        np.add.at(counts, [data.image_numbers[index] for index in batch.indices], found)
    everything = world.gathered((counts, loss_sum))
    counts = np.sum([part for part, _ in everything], axis=0)
    foreground = {"foreground": _foreground_share(counts)} if data.labels.background else {}
    return {
        "loss": sum(part for _, part in everything) / len(data),
        **foreground,
        **summarize(counts, data.labels.names, data.labels.scored.start),
    }


@dataclass(frozen=True)
class PredictedSample:
    """image (C, S, S) as in the file, mask and pred (S, S) class indices."""

    image: np.ndarray
    mask: np.ndarray
    pred: np.ndarray


@torch.inference_mode()
def predict_samples(learner: Learner, data: SegmentationDataset, count: int) -> list[PredictedSample]:
    """What the averaged weights predict of the first sample of each image, and where there are few images of the next
    ones. All three show the same pixels, without the context that the network needs beside them."""
    _, firsts = np.unique(data.image_numbers, return_index=True)
    of_images = dict.fromkeys(firsts.tolist())
    order = [*of_images, *(index for index in range(len(data)) if index not in of_images)]
    found = []
    for index in order[:count]:
        (batch,) = data.batches([index], 1, workers=1)
        image, mask = to_device(batch, data.preprocessing, learner.compute.device)
        with learner.average.swapped_in(learner.model):
            logits = learner.logits(center_crop(image, data.side + 2 * learner.context))
        found.append(
            PredictedSample(
                center_crop(batch.image[0], data.side).numpy(),
                center_crop(mask[0], data.side).cpu().numpy().astype(np.int32) % CLASSES,  # it may number its objects
                to_classes(logits)[0].cpu().numpy(),
            )
        )
    return found


def _foreground_share(counts: np.ndarray) -> float:
    """(images, classes, 3) counts -> of all pixels, those that are predicted to be foreground."""
    return float(counts[:, 1:, :2].sum() / max(1, counts[:, :, [0, 2]].sum()))
