"""Training from end to end: folder -> card -> samples -> network -> checkpoint, in a run's folder."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from unet_cli.config.training import METRICS, TrainConfig
from unet_cli.data.colours import colours_of
from unet_cli.data.folder.layout import Layout
from unet_cli.data.pictures import augmented_sheet
from unet_cli.data.preprocess import middle_slice
from unet_cli.data.samples.dataset import epoch_order
from unet_cli.data.samples.warp import center_crop
from unet_cli.data.writing import write_png
from unet_cli.errors import Stopped, UserError
from unet_cli.run_folder import elastic_run
from unet_cli.runs.finish import Report, finish
from unet_cli.runs.journal import Journal, not_written, pictured_samples, tensorboard_writer
from unet_cli.runs.prepare import prepare
from unet_cli.runs.resume import Call, saved_state, set_aside, weights_to_restart_from
from unet_cli.runs.saving import Saver, Snapshot
from unet_cli.system.console import Console, counted
from unet_cli.system.device import Compute, be_deterministic, choose_compute, same_threads
from unet_cli.system.distributed import World, restarts, together
from unet_cli.system.files import alone_in, sweep, writable_folder
from unet_cli.system.signals import StopRequest
from unet_cli.training.diagnostics import describe_blank, is_blank
from unet_cli.training.loop import train_one_epoch
from unet_cli.training.progress import EpochPrinter, EpochResult
from unet_cli.training.run import Run
from unet_cli.training.validation import validate_averaged


def train(
    config: TrainConfig,
    layout: Layout,
    console: Console,
    started: float,
    is_part: bool = False,
    like: Path | None = None,
) -> Report | None:
    """Train on the pairs of `layout`, in several processes where torchrun started them.

    started: time in seconds of time.monotonic() from which --max-time counts. is_part: whether the run is one of
    several, so that the caller adds the hint how to resume. like: run of another fold, whose plan this one shares.
    Returns None in all processes but the first. Raises UserError, and Stopped after saving where a signal requested a
    stop.
    """
    # What can't be written or imported is reported now, not after the data have been read.
    writable_folder(config.resume or config.output)
    if config.tensorboard:
        tensorboard_writer()
    torch.backends.cudnn.benchmark = True  # batches have one shape, so the search for algorithms pays off
    if config.deterministic:
        be_deterministic()
    compute = choose_compute(config.device, config.precision, by_trial=config.max_time is not None)
    with same_threads(), together(compute.device) as world:
        console = console if world.is_first else Console(quiet=True)
        call = _call(config, layout, compute, world, console, started)
        run, saver = prepare(replace(call, like=saved_state(like) if like and call.saved is None else None))
        if not world.is_first:
            _fit_and_save(run, None, None)
            world.wait()
            return None
        with nullcontext() if is_part else with_resume_hint(saver.resume_command), alone_in(saver.folder):
            sweep(saver.folder)
            if call.restart_from is not None:
                weights = set_aside(call.restart_from)
                console.say(f"last.pth is missing: the run starts again from its best weights, kept as {weights}")
            (saver.folder / METRICS).unlink(missing_ok=True)  # that of an earlier call: its presence means finished
            saver.record.write()
            journal = Journal(saver.folder, colours_of(run.val_data.labels.pictured), config.tensorboard)
            if config.show_augmented:
                _show_augmented(run, config.show_augmented, saver.folder)
            _fit_and_save(run, saver, journal)
            report = finish(run, saver, journal, layout)
        world.wait()
    return report


@contextmanager
def with_resume_hint(command: str) -> Iterator[None]:
    """Add the command that resumes the run to whatever error or signal ends it early."""
    hint = f"To resume: {command}"
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}.\n{hint}") from error
    except Stopped as stopped:
        raise Stopped(stopped.signum, f". {hint}") from stopped
    except KeyboardInterrupt as interrupt:
        raise Stopped(signal.SIGINT, f". {hint}") from interrupt


def _call(
    config: TrainConfig, layout: Layout, compute: Compute, world: World, console: Console, started: float
) -> Call:
    """The call with the run to resume, from --resume or from a restart by torchrun, and the precision of that run."""
    restarted = any(world.gathered(restarts()))  # torchrun counts restarts only on the machine where a process failed
    folder = config.resume or world.first(elastic_run(config.output) if restarted else None)
    saved = saved_state(folder) if folder else None
    # The seconds identify a save: processes that resume from different ones would train different networks.
    moments = world.gathered(saved.resume["seconds"] if saved and saved.resume else None)
    if len(set(moments)) > 1:
        raise UserError(
            f"{folder}: the processes find different states of the run: put it on a disk that all machines share"
        )
    precision = saved.training["precision"] if saved and config.precision == "auto" else compute.precision
    compute = replace(compute, precision=world.first(precision))
    restart_from = world.first(weights_to_restart_from(folder) if folder and world.is_first else None)
    return Call(config, layout, compute, world, console, started, folder, saved, restart_from=restart_from)


def fit(run: Run, stop: StopRequest, saver: Saver | None = None, journal: Journal | None = None) -> None:
    """Train until the budget is spent or --patience is exhausted; a stop request ends it after the current step.

    saver, journal: given in the first process only. Raises UserError where training has diverged, or a file can't be
    read any more; the last good state is then the one that is saved.
    """
    world, course, progress = run.learner.world, run.course, run.course.progress
    course.start()
    with EpochPrinter(run.learner.console) as printer:
        is_amid_epoch = progress.seen > 0  # of a resumed run, which owes this epoch's validation
        while is_amid_epoch or run.may_continue():
            is_amid_epoch = False
            _begin_epoch(run)
            train_one_epoch(run, stop, after_step=lambda: _save_within_epoch(run, saver))
            if world.any(stop.is_requested):
                return
            if not progress.seen:  # the time budget left no step
                break
            is_due = course.is_validation_due or run.next_lr() is None
            scores = validate_averaged(run, stop) if is_due else None
            if world.any(stop.is_requested):
                return
            row = course.end_epoch(run.learner.optimizer.param_groups[0]["lr"], scores)
            _cool_down_if_converged(run)
            _warn_if_blank(run)
            _save_and_log(run, row, saver, journal, printer)
        if progress.rows and not progress.rows[-1].averaged:  # the budget ended before the last epoch was due
            scores = validate_averaged(run, stop)
            if scores is None:
                return
            _save_and_log(run, course.add_scores(scores), saver, journal, printer)
    _check_that_it_learned(run)


def _check_that_it_learned(run: Run) -> None:
    """Say why the run ends, if not by its budget. Raises UserError where no step was taken."""
    progress = run.course.progress
    if run.learner.step and run.learner.step == sum(row.skipped for row in progress.rows):
        raise UserError(
            "the loss was not finite in any step, so nothing was learned: try a lower --lr, other factors in --loss or "
            "--class-weights, or --precision float32"
        )
    if run.course.has_lost_patience:
        waited = counted(progress.epochs_since_best, "epoch")
        run.learner.console.say(f"The validation score hasn't improved for {waited} (--patience): the run ends here")


def _save_within_epoch(run: Run, saver: Saver | None) -> None:
    if saver:
        saver.save_when_due(partial(_snapshot, run))


def _begin_epoch(run: Run) -> None:
    """Set the crop side that the plan has for this epoch, the same in all processes."""
    side = run.learner.world.first(run.course.next_side())
    if side is not None:
        run.loader.change_side(side)
    run.course.begin_epoch(side, len(run.loader.data))


def _cool_down_if_converged(run: Run) -> None:
    """Begin the cool-down of a run without a fixed end where it has converged, and say so."""
    cooldown = run.course.cool_down_where_settled()
    if cooldown is not None:
        length = counted(cooldown, "epoch")
        run.learner.console.say(f"The run has converged: the learning rate decays to zero over the last {length}")


def _warn_if_blank(run: Run) -> None:
    """Warn, once, where the network predicts a single class."""
    rows = run.course.progress.rows
    if rows[-1].val_dice is not None and is_blank(rows) and not is_blank(rows[:-1]):
        run.learner.console.say(describe_blank(rows[-1], run.loader.data.preprocessing.mode))


def _save_and_log(
    run: Run, row: EpochResult, saver: Saver | None, journal: Journal | None, printer: EpochPrinter
) -> None:
    """Save and log an epoch. A failure to write is reported, and training continues."""
    start = time.monotonic()
    if saver:
        if saver.is_new_best(row):
            saver.keep_best(run.weights(row.averaged), row)
        saver.save_when_due(partial(_snapshot, run), row)
    if journal:
        try:
            journal.add(run.course.progress.rows, partial(pictured_samples, run))
        except UserError as error:
            run.learner.console.say(not_written(error, ". Training continues"))
    printer.add(row)
    # Not every epoch saves, but the first and the last do: the maximum so far is the estimate for the last.
    run.course.budget.saving_seconds = max(run.course.budget.saving_seconds, time.monotonic() - start)


def _snapshot(run: Run) -> Snapshot:
    progress = run.course.progress
    return Snapshot(run.weights(), progress.rows[-1] if progress.rows else None, progress.epoch, run.state())


def _fit_and_save(run: Run, saver: Saver | None, journal: Journal | None) -> None:
    """Train to the end of the budget, and save whatever ends training early. Raises Stopped, and UserError, after
    saving."""
    learner = run.learner
    with StopRequest() as stop:
        try:
            fit(run, stop, saver, journal)
        except Stopped:  # a second signal, which waits for nothing, not even a save
            raise
        except BaseException as error:
            # An error in the middle of a step leaves weights and optimizer apart: the previous save is then the better.
            if saver and learner.step and run.is_consistent:
                _save_after_error(run, saver)
            if not learner.config.deterministic or "deterministic" not in str(error):
                raise
            reason = str(error).splitlines()[0]
            raise UserError(f"--deterministic: {reason} Leave it out, or use --device cpu") from error
        if saver and learner.step:
            saver.save_final(partial(_snapshot, run))
        if learner.world.any(stop.is_requested):
            learner.console.say(f"Stopped in epoch {run.course.progress.epoch}, and saved")
            raise Stopped(stop.signum or signal.SIGTERM)


def _save_after_error(run: Run, saver: Saver) -> None:
    """Save after an error. A failure to save is reported, so that the caller raises the first error."""
    try:
        saver.save_final(partial(_snapshot, run))
    except Exception as unsaved:  # of any kind: the first error is the one to report
        run.learner.console.say(f"Not saved: {unsaved}")


def _show_augmented(run: Run, count: int, folder: Path) -> None:
    """Write augmented.png: `count` training samples, augmented at full strength."""
    loader, data, strength = run.loader, run.loader.data, run.loader.augmentation
    # Augmentation ramps up over the first epochs: the samples are those of the first epoch at full strength.
    first = max(1, math.ceil(run.course.plan.epochs(strength.ramp))) if strength else 1
    pictures: list[tuple[Tensor, Tensor]] = []
    slices = data.preprocessing.slices
    for epoch in range(first, first - (-count // len(data))):
        order = list(epoch_order(len(data), loader.seed, epoch))[: count - len(pictures)]
        for batch in data.batches(order, loader.batch_size, epoch=epoch):
            image, mask = loader.network_input(batch, epoch)
            pictures += zip(center_crop(middle_slice(image, slices), mask.shape[1:]), mask, strict=True)
    image, mask = (torch.stack(parts).cpu() for parts in zip(*pictures, strict=True))
    shown = data.labels.as_pictured(mask.to(torch.uint8).numpy())
    write_png(folder / "augmented.png", augmented_sheet(image, shown, colours_of(data.labels.pictured)))
    run.learner.console.say(f"{counted(count, 'augmented sample')} written: {folder / 'augmented.png'}")
