"""One epoch of training."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from unet_cli.config.model import IGNORED
from unet_cli.data.samples.dataset import Batch
from unet_cli.errors import UserError
from unet_cli.system.signals import StopRequest
from unet_cli.system.stage_times import StageTimes
from unet_cli.training.course import Course
from unet_cli.training.diagnostics import BadStep, slow_loader
from unet_cli.training.loader import TrainLoader
from unet_cli.training.step import Learner

MAX_BAD_STEPS = 10  # in a row, before the run is given up
LONG_EPOCH = 120.0  # seconds


def train_one_epoch(
    learner: Learner, loader: TrainLoader, course: Course, stop: StopRequest, after_step: Callable[[], None]
) -> None:
    """The rest of the epoch at hand, or what the budget leaves of it; a stop ends it after the step at hand.

    after_step is called when everything can be saved. Raises UserError where training has diverged, the memory doesn't
    suffice for one image, or a file can't be read any more.
    """
    world, progress, pace = learner.world, course.progress, StageTimes("the network")
    steps = loader.steps(progress.epoch, progress.seen)
    batches = loader.batches(steps, progress.epoch)
    timed = pace.waiting("reading", batches)
    shown = learner.console.progress(timed, len(steps), f"epoch {progress.epoch}", "steps")
    images, start = 0, time.monotonic()
    for samples, batch in zip(steps, shown, strict=False):
        lr = world.first(course.next_lr())
        if lr is None or world.any(stop.signum is not None):
            break
        image, mask = loader.network_input(batch, progress.epoch)
        here = len(world.share(samples))
        if not here:  # the last step of an epoch may have fewer samples than there are processes
            mask = torch.full_like(mask, IGNORED)
        loss = learner.train_step(image, mask, here, lr)
        course.count_step(learner.step, len(samples), loss)
        if progress.bad_steps:
            _tell_of_bad_step(learner, loader, course, batch, image)
        images += len(samples)
        start, step_start = time.monotonic(), start  # waiting for the batch is part of a step's time
        course.time_step(start - step_start)
        learner.console.say(*filter(None, [course.estimate()]))
        after_step()
        start = time.monotonic()  # saving is no part of it
    batches.close()
    _tell_of_slow_loader(learner, loader, images, pace, progress.epoch)


def may_continue(learner: Learner, course: Course) -> bool:
    """Whether the budget allows another step, and --patience another epoch; of all processes together."""
    return learner.world.first(course.next_lr()) is not None and not course.has_lost_patience


def _tell_of_bad_step(learner: Learner, loader: TrainLoader, course: Course, batch: Batch, image: Tensor) -> None:
    """Name the images of a step that was skipped; of ten in a row, raise UserError with the likely reason."""
    progress = course.progress
    mine = [
        (str(loader.data.pair_of(index).image), not bool(torch.isfinite(one).all()))
        for index, one in zip(batch.indices, image, strict=True)
    ]
    bad = BadStep(learner.step, [pair for part in learner.world.gathered(mine) for pair in part])
    is_trying = learner.scaler.is_enabled() and progress.bad_steps == 1  # how far float16 reaches
    if bad.spoiled or not is_trying:
        learner.console.say(bad.describe())
    if progress.bad_steps == MAX_BAD_STEPS:
        progress.bad_steps = 0  # of a run that goes on from here
        reason = bad.likely_reason(learner.compute.precision, course.lr)
        raise UserError(f"the loss was not finite for {MAX_BAD_STEPS} steps in a row: {reason}")


def _tell_of_slow_loader(learner: Learner, loader: TrainLoader, images: int, pace: StageTimes, epoch: int) -> None:
    """Say, once, that reading sets the pace; not of an epoch that reads files for the first time."""
    is_first = epoch == 1 and pace.seconds < LONG_EPOCH
    if loader.is_called_slow or is_first or images < 2 * loader.batch_size:
        return
    warning = slow_loader(images, pace.spent("reading"), pace.seconds, learner.compute.kind)
    if warning:
        loader.is_called_slow = True
        learner.console.say(warning)
