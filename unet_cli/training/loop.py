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

MAX_BAD_STEPS = 10  # consecutive steps without a finite loss, after which the run is aborted
LONG_EPOCH = 120.0  # seconds


def train_one_epoch(
    learner: Learner, loader: TrainLoader, course: Course, stop: StopRequest, after_step: Callable[[], None]
) -> None:
    """Train the rest of the current epoch, or as much as the budget allows; a stop request ends it after the current
    step.

    after_step: called when the run is consistent and can be saved. Raises UserError where training has diverged, one
    image exceeds the memory, or a file can't be read any more.
    """
    world, progress, times = learner.world, course.progress, StageTimes("the network")
    steps = loader.steps(progress.epoch, progress.seen)
    batches = loader.batches(steps, progress.epoch)
    timed = times.waiting("reading", batches)
    with_bar = learner.console.progress(timed, len(steps), f"epoch {progress.epoch}", "steps")
    images, start = 0, time.monotonic()
    for samples, batch in zip(steps, with_bar, strict=False):
        # Clocks differ between processes: the first one decides for all, or a collective would wait for ever.
        lr = world.first(course.next_lr())
        if lr is None or world.any(stop.signum is not None):
            break
        image, mask = loader.network_input(batch, progress.epoch)
        local_samples = len(world.share(samples))
        if not local_samples:  # the last step of an epoch may have fewer samples than there are processes
            mask = torch.full_like(mask, IGNORED)
        loss = learner.train_step(image, mask, local_samples, lr)
        course.count_step(learner.step, len(samples), loss)
        if progress.bad_steps:
            _report_bad_step(learner, loader, course, batch, image)
        images += len(samples)
        start, step_start = time.monotonic(), start  # waiting for the batch is part of a step's time
        course.time_step(start - step_start)
        learner.console.say(*filter(None, [course.estimate()]))
        after_step()
        start = time.monotonic()  # saving is not part of a step's time
    batches.close()
    _warn_of_slow_loader(learner, loader, images, times, progress.epoch)


def may_continue(learner: Learner, course: Course) -> bool:
    """Whether the budget allows another step and --patience another epoch; the same answer in all processes."""
    return learner.world.first(course.next_lr()) is not None and not course.has_lost_patience


def _report_bad_step(learner: Learner, loader: TrainLoader, course: Course, batch: Batch, image: Tensor) -> None:
    """Name the images of a skipped step. Raises UserError with the likely reason after ten of them in a row."""
    progress = course.progress
    local_images = [
        (str(loader.data.pair_of(index).image), not bool(torch.isfinite(one).all()))
        for index, one in zip(batch.indices, image, strict=True)
    ]
    bad = BadStep(learner.step, [pair for part in learner.world.gathered(local_images) for pair in part])
    # With float16 a single skipped step is normal: that is how the loss scaler finds its range.
    is_scaling = learner.scaler.is_enabled() and progress.bad_steps == 1
    if bad.spoiled or not is_scaling:
        learner.console.say(bad.describe())
    if progress.bad_steps == MAX_BAD_STEPS:
        progress.bad_steps = 0  # a resumed run starts counting anew
        reason = bad.likely_reason(learner.compute.precision, course.lr)
        raise UserError(f"the loss was not finite for {MAX_BAD_STEPS} steps in a row: {reason}")


def _warn_of_slow_loader(learner: Learner, loader: TrainLoader, images: int, times: StageTimes, epoch: int) -> None:
    """Warn once that reading is the bottleneck; not after an epoch that reads the files for the first time."""
    is_first = epoch == 1 and times.seconds < LONG_EPOCH
    if loader.is_called_slow or is_first or images < 2 * loader.batch_size:
        return
    warning = slow_loader(images, times.spent("reading"), times.seconds, learner.compute.kind)
    if warning:
        loader.is_called_slow = True
        learner.console.say(warning)
