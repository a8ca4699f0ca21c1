"""Many images through the network: a batch at a time, filled across images."""

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
    """An image that is on its way through the network, and what its user keeps with it. source: where it is from.
    given_up: the memory doesn't suffice for it."""

    def __init__(self, picture: Picture, source: Source) -> None:
        self.picture, self.source, self.given_up = picture, source, False

    def views(self) -> Generator[View]:
        """What the networks have to see of it. Raises UserError."""
        return self.picture.views()


SomeTask = TypeVar("SomeTask", bound=Task)
Result = TypeVar("Result")


def through_network(
    predictor: Predictor, items: Iterable[SomeTask | Outcome], pace: StageTimes
) -> Iterator[tuple[SomeTask, Band | UserError] | Outcome]:
    """Each task with its finished rows, from top to bottom, and an error where the rest of it can't be had.

    Tasks come in their order. An outcome passes at once. pace: is told where the time goes.
    """
    waiting: list[tuple[SomeTask, View]] = []
    for item in pace.waiting("reading", items):
        if isinstance(item, Outcome):
            yield item
            continue
        task = item
        views = task.views()
        if task.picture.view_count > 1:
            views = buffered(views, 2 * predictor.batch_size)
        try:
            for view in pace.waiting("reading", views):
                waiting.append((task, view))
                several = task.picture.view_count > 1
                pace.place = f"{task.picture.views_are} {view.number:,} of {task.picture.view_count:,}" * several
                if len(waiting) >= predictor.batch_size:
                    yield from _compute(predictor, waiting, pace)
                    waiting = []
                if task.given_up:
                    break
        except UserError as error:
            yield task, error
        finally:
            views.close()
    pace.place = ""
    yield from _compute(predictor, waiting, pace)


def whole_images(
    predictor: Predictor, tasks: Iterable[SomeTask], pace: StageTimes
) -> Iterator[tuple[SomeTask, Tensor]]:
    """Each task with its probabilities, (K, H, W) float32. Raises UserError where an image can't be read to its end."""
    bands: list[Tensor] = []
    for item in through_network(predictor, tasks, pace):
        assert not isinstance(item, Outcome)
        task, band = item
        if isinstance(band, UserError):
            raise task.source.named(band) from band
        try:
            bands.append(band.finished())
        except UserError as error:
            raise task.source.named(error) from error
        if band.top + band.size[0] == task.picture.size[0]:
            yield task, torch.cat(bands, dim=1)
            bands = []


def _compute(
    predictor: Predictor, waiting: list[tuple[SomeTask, View]], pace: StageTimes
) -> Iterator[tuple[SomeTask, Band | UserError]]:
    """Where the memory doesn't suffice, with batches of half as many views, now and from now on."""
    while waiting := [(task, view) for task, view in waiting if not task.given_up]:
        part, rest = waiting[: predictor.batch_size], waiting[predictor.batch_size :]
        with pace.during("the network"):
            probs = _within_memory(predictor, partial(predictor.probabilities, [view for _, view in part]))
        if probs is not None:
            waiting = rest
            for (task, view), found in zip(part, probs, strict=True):
                yield from _added(predictor, task, view, found)
        elif predictor.batch_size > 1:
            predictor.batch_size = -(-predictor.batch_size // 2)
        else:
            yield _given_up(part[0][0])


def _added(
    predictor: Predictor, task: SomeTask, view: View, probs: list[Tensor]
) -> Iterator[tuple[SomeTask, Band | UserError]]:
    """The rows that are finished by what the networks made of a view, if any. That can't be tried a second time."""
    if task.given_up:
        return
    bands = _within_memory(predictor, lambda: [task.picture.add(view, probs)])
    if bands is None:
        yield _given_up(task)
    else:
        yield from ((task, band) for band in bands if band is not None)


def _given_up(task: SomeTask) -> tuple[SomeTask, UserError]:
    task.given_up = True
    return task, UserError(TOO_LARGE)


def _within_memory(predictor: Predictor, compute: Callable[[], Result]) -> Result | None:
    """None where the memory doesn't suffice."""
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    free_memory(predictor.compute.device)  # outside the handler, whose traceback holds on to activations
    return None
