"""Many images through the network: a batch at a time, filled across images."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from unet_cli.ahead import prefetched
from unet_cli.data.source import Source
from unet_cli.device import free_memory
from unet_cli.errors import TOO_LARGE, UserError, is_out_of_memory
from unet_cli.inference.jobs import Outcome
from unet_cli.inference.picture import Band, Picture, View
from unet_cli.inference.predictor import Predictor
from unet_cli.pace import Pace


class Task:
    """An image that is on its way through the network, and what its user keeps with it. source: where it is from.
    given_up: the memory doesn't suffice for it."""

    def __init__(self, picture: Picture, source: Source) -> None:
        self.picture, self.source, self.given_up = picture, source, False

    def views(self) -> Generator[View]:
        """What the networks have to see of it. Raises UserError."""
        return self.picture.views()


SomeTask = TypeVar("SomeTask", bound=Task)


def through_network(
    predictor: Predictor, items: Iterable[SomeTask | Outcome], pace: Pace
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
            views = prefetched(views, 2 * predictor.batch_size)
        try:
            for view in pace.waiting("reading", views):
                waiting.append((task, view))
                pace.place = (
                    f"tile {view.number:,} of {task.picture.view_count:,}" if task.picture.view_count > 1 else ""
                )
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


def whole_images(predictor: Predictor, tasks: Iterable[SomeTask], pace: Pace) -> Iterator[tuple[SomeTask, Tensor]]:
    """Each task with its probabilities, (K, H, W) float32. Raises UserError where an image can't be read to its end."""
    bands: list[Tensor] = []
    for item in through_network(predictor, tasks, pace):
        assert not isinstance(item, Outcome)
        task, band = item
        if isinstance(band, UserError):
            raise band
        try:
            bands.append(band.finished())
        except UserError as error:
            raise task.source.named(error) from error
        if band.top + band.size[0] == task.picture.size[0]:
            yield task, torch.cat(bands, dim=1)
            bands = []


def _compute(
    predictor: Predictor, waiting: list[tuple[SomeTask, View]], pace: Pace
) -> Iterator[tuple[SomeTask, Band | UserError]]:
    """Where the memory doesn't suffice, half of the views at a time, now and from now on."""
    waiting = [(task, view) for task, view in waiting if not task.given_up]
    if not waiting:
        return
    try:
        with pace.during("the network"):
            probs = predictor.probabilities([view for _, view in waiting])
            bands = [(task, task.picture.add(view, part)) for (task, view), part in zip(waiting, probs, strict=True)]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    else:
        yield from ((task, band) for task, band in bands if band is not None)
        return
    free_memory(predictor.compute.device)  # outside the handler, whose traceback holds on to activations
    task, _ = waiting[0]
    if half := len(waiting) // 2:
        predictor.batch_size = half
        yield from _compute(predictor, waiting[:half], pace)
        yield from _compute(predictor, waiting[half:], pace)
    else:
        task.given_up = True
        yield task, UserError(TOO_LARGE)
