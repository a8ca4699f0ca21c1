"""One epoch of training."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

import torch
from torch import Tensor

from unet_cli.config.model import IGNORED
from unet_cli.data.samples.dataset import Batch
from unet_cli.errors import UserError
from unet_cli.system.signals import StopRequest
from unet_cli.system.stage_times import StageTimes
from unet_cli.training.diagnostics import BadStep, slow_loader
from unet_cli.training.run import Run

MAX_BAD_STEPS = 10  # consecutive steps without a finite loss, after which the run is aborted
LONG_EPOCH = 120.0  # seconds


def train_one_epoch(run: Run, stop: StopRequest, after_step: Callable[[], None]) -> None:
    """Train the rest of the current epoch, or as much as the budget allows; a stop request ends it after the current
    step.

    after_step: called when the run is consistent and can be saved. Raises UserError where training has diverged, one
    image exceeds the memory, or a file can't be read any more.
    """
    learner, loader, course = run.learner, run.loader, run.course
    world, progress, times = learner.world, course.progress, StageTimes("the network")
    steps = loader.steps(progress.epoch, progress.seen)
    trained = 0
    with closing(loader.batches(steps, progress.epoch)) as batches:
        timed = times.waiting("reading", batches)
        start = time.monotonic()
        for indices, batch in zip(
            steps, learner.console.progress(timed, len(steps), f"epoch {progress.epoch}", "steps"), strict=False
        ):
            lr = run.next_lr()
            if lr is None or world.any(stop.is_requested):
                break
            image, mask = loader.network_input(batch, progress.epoch)
            counted = len(world.share(indices))
            if not counted:  # the last step of an epoch may have fewer samples than there are processes
                mask = torch.full_like(mask, IGNORED)
            loss = learner.train_step(image, mask, counted, lr)
            course.count_step(learner.step, len(indices), loss)
            if progress.bad_steps:
                _handle_bad_step(run, batch, image)
            trained += len(indices)
            course.time_step(time.monotonic() - start)  # with the time that the batch was waited for
            if estimate := course.estimate():
                learner.console.say(estimate)
            after_step()
            start = time.monotonic()  # without the time that saving took
    _warn_of_slow_loader(run, trained, times, progress.epoch)


def _handle_bad_step(run: Run, batch: Batch, image: Tensor) -> None:
    """Name the images of a skipped step, and give up after ten of them in a row: raises UserError with the likely
    reason."""
    learner, loader, progress = run.learner, run.loader, run.course.progress
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
        reason = bad.likely_reason(learner.compute.precision, run.course.lr)
        raise UserError(f"the loss was not finite for {MAX_BAD_STEPS} steps in a row: {reason}")


def _warn_of_slow_loader(run: Run, images: int, times: StageTimes, epoch: int) -> None:
    """Warn once that reading is the bottleneck; not after an epoch that reads the files for the first time."""
    loader = run.loader
    is_first = epoch == 1 and times.seconds < LONG_EPOCH
    if loader.is_called_slow or is_first or images < 2 * loader.batch_size:
        return
    warning = slow_loader(images, times.spent("reading"), times.seconds, run.learner.compute.kind)
    if warning:
        loader.is_called_slow = True
        run.learner.console.say(warning)
