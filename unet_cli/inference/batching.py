"""Batched inference: batches are filled across images."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from unet_cli.data.source import Source
from unet_cli.errors import TOO_LARGE, UserError, is_out_of_memory
from unet_cli.inference.jobs import Outcome
from unet_cli.inference.predictor import Predictor
from unet_cli.inference.views import Band, Picture, View
from unet_cli.system.device import free_memory
from unet_cli.system.prefetch import buffered
from unet_cli.system.stage_times import StageTimes


class Task:
    """An image that is being predicted; subclasses add their own data. source: its file. has_failed: it ran out of
    memory."""

    def __init__(self, picture: Picture, source: Source) -> None:
        self.picture, self.source, self.has_failed = picture, source, False

    def views(self) -> Generator[View]:
        """The network inputs of the image. Raises UserError."""
        return self.picture.views()


SomeTask = TypeVar("SomeTask", bound=Task)
Result = TypeVar("Result")


def through_network(
    predictor: Predictor, items: Iterable[SomeTask | Outcome], times: StageTimes
) -> Iterator[tuple[SomeTask, Band | UserError] | Outcome]:
    """Predict the tasks in their order: each with its finished rows, from top to bottom, or with an error where the
    rest of it failed.

    An Outcome among the items is passed through at once. times: records the time of each stage.
    """
    # Views wait across images, so that small images fill a batch together.
    waiting: list[tuple[SomeTask, View]] = []
    for item in times.waiting("reading", items):
        if isinstance(item, Outcome):
            yield item
            continue
        task = item
        views = task.views()
        if task.picture.view_count > 1:
            # Tiles are cut in a thread of their own, two batches ahead of the network.
            views = buffered(views, 2 * predictor.batch_size)
        try:
            for view in times.waiting("reading", views):
                waiting.append((task, view))
                several = task.picture.view_count > 1
                times.place = f"{task.picture.views_are} {view.number:,} of {task.picture.view_count:,}" * several
                if len(waiting) >= predictor.batch_size:
                    yield from _compute(predictor, waiting, times)
                    waiting = []
                if task.has_failed:
                    break
        except UserError as error:
            yield task, error
        finally:  # ends the thread of `buffered`, and releases what it has read ahead
            views.close()
    times.place = ""
    yield from _compute(predictor, waiting, times)


def whole_images(
    predictor: Predictor, tasks: Iterable[SomeTask], times: StageTimes
) -> Iterator[tuple[SomeTask, Tensor]]:
    """Each task with its probabilities, (K, H, W) float32. Raises UserError where an image can't be read completely."""
    bands: list[Tensor] = []
    for item in through_network(predictor, tasks, times):
        assert not isinstance(item, Outcome)
        task, band = item
        if isinstance(band, UserError):
            raise task.source.named(band) from band
        try:
            bands.append(predictor.finished(band))
        except UserError as error:
            raise task.source.named(error) from error
        if band.top + band.size[0] == task.picture.size[0]:
            yield task, torch.cat(bands, dim=1)
            bands = []


def _compute(
    predictor: Predictor, waiting: list[tuple[SomeTask, View]], times: StageTimes
) -> Iterator[tuple[SomeTask, Band | UserError]]:
    """Predict the waiting views. Out of memory halves the predictor's batch size for good."""
    while waiting := [(task, view) for task, view in waiting if not task.has_failed]:
        part, rest = waiting[: predictor.batch_size], waiting[predictor.batch_size :]
        with times.during("the network"):
            probs = _within_memory(predictor, partial(predictor.probabilities, [view for _, view in part]))
        if probs is not None:
            waiting = rest
            for (task, view), view_probs in zip(part, probs, strict=True):
                yield from _added(predictor, task, view, view_probs)
        elif predictor.batch_size > 1:
            predictor.batch_size = -(-predictor.batch_size // 2)
        else:
            yield _out_of_memory(part[0][0])


def _added(
    predictor: Predictor, task: SomeTask, view: View, probs: list[Tensor]
) -> Iterator[tuple[SomeTask, Band | UserError]]:
    """The rows that are completed by the probabilities of a view, if any."""
    if task.has_failed:
        return
    # Adding a view changes the picture's state, so unlike the network it can't be retried after out of memory.
    bands = _within_memory(predictor, lambda: [task.picture.add(view, probs)])
    if bands is None:
        yield _out_of_memory(task)
    else:
        yield from ((task, band) for band in bands if band is not None)


def _out_of_memory(task: SomeTask) -> tuple[SomeTask, UserError]:
    task.has_failed = True
    return task, UserError(TOO_LARGE)


def _within_memory(predictor: Predictor, compute: Callable[[], Result]) -> Result | None:
    """The result of `compute`, None on out of memory."""
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    free_memory(predictor.compute.device)  # outside the handler, whose traceback keeps the activations alive
    return None
