"""The training journey from end to end: folder -> card -> samples -> network -> checkpoint, in a run's folder."""

from __future__ import annotations

import math
import os
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from unet_cli.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unet_cli.config.prediction import Inference
from unet_cli.config.training import METRICS, TrainConfig
from unet_cli.data.colours import colours_of
from unet_cli.data.folder.layout import Layout
from unet_cli.data.pictures import augmented_sheet
from unet_cli.data.samples.dataset import epoch_order
from unet_cli.data.samples.warp import middle
from unet_cli.data.writing import write_png
from unet_cli.errors import Stopped, UserError, explain
from unet_cli.evaluation.evaluate import Evaluation, evaluate_network
from unet_cli.evaluation.scores import overall
from unet_cli.inference.predictor import Predictor
from unet_cli.report.page import write_report
from unet_cli.report.pages import page_of_run
from unet_cli.report.runs import REPORT
from unet_cli.run_folder import elastic_run, write_json
from unet_cli.runs.journal import Journal, tensorboard_writer
from unet_cli.runs.prepare import prepare
from unet_cli.runs.resume import Call, saved_state, set_aside, weights_to_begin_again
from unet_cli.runs.saving import Saver
from unet_cli.system.console import Console, counted
from unet_cli.system.device import Compute, be_deterministic, choose_compute, same_threads
from unet_cli.system.distributed import World, restarts, together
from unet_cli.system.files import alone_in, sweep, writable_folder
from unet_cli.system.signals import StopRequest
from unet_cli.training.loop import Trainer
from unet_cli.training.progress import EpochResult, Telling


@dataclass(frozen=True)
class Report:
    """What a finished run leaves: files, scores of the best weights at original size, and the command to run next.

    scores: see metrics.summarize; empty where there was no validation part. dice_interval: the 95 % interval of their
    'dice'; None where there is none.
    """

    run: str
    best: str
    last: str
    page: str
    epochs: int
    scores: dict[str, float]
    best_threshold: float | None
    next: str
    dice_interval: tuple[float, float] | None = None


def train(
    config: TrainConfig,
    layout: Layout,
    console: Console,
    started: float,
    is_part: bool = False,
    like: Path | None = None,
) -> Report | None:
    """Train as told on the pairs of `layout`; in several processes where torchrun started them.

    started: the second of time.monotonic() from which --max-time counts. is_part: of more, whose caller says how to go
    on where the run ends before its time. like: the run of another fold, whose plan this one shares. Returns None in
    all processes but the first. Raises UserError, and Stopped after saving where a signal asked to stop.
    """
    writable_folder(config.resume or config.output)
    if config.tensorboard:
        tensorboard_writer()
    torch.backends.cudnn.benchmark = True
    if config.deterministic:
        be_deterministic()
    compute = choose_compute(config.device, config.precision, by_trial=config.max_time is not None)
    with same_threads(), together(compute.device) as world:
        console = console if world.is_first else Console(quiet=True)
        call = _call(config, layout, compute, world, console, started)
        trainer, saver = prepare(replace(call, like=saved_state(like) if like and call.saved is None else None))
        if not world.is_first:
            _fit(trainer, None)
            world.wait()
            return None
        with nullcontext() if is_part else told_how_to_go_on(saver.resume), alone_in(saver.folder):
            sweep(saver.folder)
            if call.again is not None:
                kept = set_aside(call.again)
                console.say(f"last.pth is missing: the run begins again, with its best weights, kept as {kept}")
            (saver.folder / METRICS).unlink(missing_ok=True)  # of a run that goes on
            saver.record.write()
            journal = Journal(saver.folder, config.tensorboard)
            if config.show_augmented:
                _show_augmented(trainer, config.show_augmented, saver.folder)
            _fit(trainer, (saver, journal))
            report = _finish(trainer, saver, journal, layout)
        world.wait()
    return report


@contextmanager
def told_how_to_go_on(command: str) -> Iterator[None]:
    """Whatever ends the run before its time, the last line is the command that goes on with it."""
    hint = f"To go on: {command}"
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
    """With the run to go on with, as --resume says or torchrun's restart, and what was found by trying there."""
    restarted = any(world.gathered(restarts()))  # torchrun counts where a process failed
    folder = config.resume or world.first(elastic_run(config.output) if restarted else None)
    saved = saved_state(folder) if folder else None
    moments = world.gathered(saved.resume["seconds"] if saved and saved.resume else None)
    if len(set(moments)) > 1:
        raise UserError(
            f"{folder}: the processes see different states of the run: put it on a disk that all machines share"
        )
    found = saved.training["precision"] if saved and config.precision == "auto" else compute.precision
    compute = replace(compute, precision=world.first(found))
    again = world.first(weights_to_begin_again(folder) if folder and world.is_first else None)
    return Call(config, layout, compute, world, console, started, folder, saved, again=again)


def _fit(trainer: Trainer, kept: tuple[Saver, Journal] | None) -> None:
    """Train to the end of the budget. kept: what saves and logs on the way, in the first process.

    Raises Stopped, and UserError, after saving.
    """
    telling = Telling(trainer.console)
    with StopRequest() as stop:
        try:
            for result in trainer.fit(stop):
                if kept:
                    _keep(trainer, result, *kept, telling)
        except Stopped:  # a second time, which doesn't wait for anything
            raise
        except BaseException as error:  # whatever it is, what was learned is kept
            telling.tell()
            if kept and trainer.is_whole:
                _save_beside(trainer, kept[0])
            if not trainer.config.deterministic or "deterministic" not in str(error):
                raise
            reason = str(error).splitlines()[0]
            raise UserError(f"--deterministic: {reason} Leave it out, or use --device cpu") from error
        telling.tell()
        if kept:
            kept[0].save_at_last(trainer)
        if trainer.world.any(stop.signum is not None):
            trainer.console.say(f"Stopped in epoch {trainer.progress.epoch}, and saved")
            raise Stopped(stop.signum or signal.SIGTERM)


def _save_beside(trainer: Trainer, saver: Saver) -> None:
    """Save at last, after an error that is told rather than that of saving."""
    try:
        saver.save_at_last(trainer)
    except Exception as unsaved:  # whatever it is, the first error says more
        trainer.console.say(f"Not saved: {unsaved}")


def _keep(trainer: Trainer, result: EpochResult | None, saver: Saver, journal: Journal, telling: Telling) -> None:
    """Save and log what there is after a step or an epoch; where the disk refuses, say so and go on."""
    saver.note(trainer, result)
    if result is None:
        return
    try:
        journal.add(trainer)
    except UserError as error:
        trainer.console.say(_not_written(error, ". Training goes on"))
    telling.add(result)


def _show_augmented(trainer: Trainer, count: int, folder: Path) -> None:
    """augmented.png: samples as the network will see them, when augmentation has come to its full strength."""
    data, strength = trainer.train_data, trainer.strength
    first = max(1, math.ceil(trainer.plan.epochs(strength.ramp))) if strength else 1
    pictures: list[tuple[Tensor, Tensor]] = []
    for epoch in range(first, first - (-count // len(data))):
        order = list(epoch_order(len(data), trainer.config.seed, epoch))[: count - len(pictures)]
        for batch in data.batches(order, trainer.batch_size, epoch=epoch):
            image, mask = trainer.network_input(batch, epoch)
            pictures += zip(middle(image, mask.shape[-1]), mask, strict=True)
    image, mask = (torch.stack(parts).cpu() for parts in zip(*pictures, strict=True))
    write_png(folder / "augmented.png", augmented_sheet(image, mask, colours_of(data.labels)))
    trainer.console.say(f"{counted(count, 'augmented sample')} to look at: {folder / 'augmented.png'}")


def _finish(trainer: Trainer, saver: Saver, journal: Journal, layout: Layout) -> Report:
    """Score the best weights at original size, find the threshold that suits them, and store both."""
    best, val_pairs, console = saver.folder / "best.pth", trainer.val_data.pairs, trainer.console
    console.say("Training has come to its end: drawing curves and pictures")
    try:
        journal.finish(trainer)
    except (UserError, OSError) as error:  # pictures and curves, for which the scores needn't wait
        console.say(_not_written(error))
    checkpoint = load_checkpoint(best)
    if val_pairs:
        console.say(f"Scoring the best weights on {counted(len(val_pairs), 'validation image')} at original size")
    found = _scored(checkpoint, trainer) if val_pairs else None
    if found is not None:
        checkpoint = replace(
            checkpoint,
            metrics=checkpoint.metrics | {f"final_{name}": value for name, value in found.scores.items()},
            best_threshold=found.best_threshold and found.best_threshold[0],
            temperature=found.temperature,
        )
        save_checkpoint(best, checkpoint)
    report = Report(
        run=str(saver.folder),
        best=str(best),
        last=str(saver.folder / "last.pth"),
        page=str(saver.folder / REPORT),
        epochs=trainer.progress.rows[-1].epoch,
        scores=found.scores if found else {},
        best_threshold=checkpoint.best_threshold,
        next=_next(trainer, saver.folder, best, layout),
        dice_interval=overall(found, "dice").interval if found else None,
    )
    of_best = {key: checkpoint.metrics[key] for key in ("epoch", "averaged") if key in checkpoint.metrics}
    write_json(saver.folder / METRICS, asdict(report) | of_best)
    console.say(f"Writing {saver.folder / REPORT}")
    try:
        write_report(
            saver.folder / REPORT,
            page_of_run(saver.folder, [saver.folder], [checkpoint], found, notes=_notes(trainer, saver)),
        )
    except (UserError, OSError) as error:  # all that matters has been saved
        console.say(_not_written(error, f". unet report {shlex.quote(str(saver.folder))} writes the page"))
    return report


def _not_written(error: UserError | OSError, what_then: str = "") -> str:
    return f"Not written: {explain(error) if isinstance(error, OSError) else error}{what_then}"


def _notes(trainer: Trainer, saver: Saver) -> list[str]:
    """What a reader of the scores has to know."""
    scored, kept = len(trainer.val_data.pairs), len(saver.record.split.val)
    if scored == kept:
        return []
    return [
        f"Scored on {scored:,} of the {counted(kept, 'validation image')}, since the time was short: unet evaluate "
        "scores all of them."
    ]


def _scored(checkpoint: Checkpoint, trainer: Trainer) -> Evaluation:
    """The weights on the validation part at original size, with the temperature that suits them."""
    predictor = Predictor([checkpoint], trainer.learner.compute, Inference(batch_size=trainer.learner.at_once))
    pairs, console = trainer.val_data.pairs, trainer.console
    found = evaluate_network(predictor, pairs, trainer.config.workers, console, panels=True).calibrated()
    if found.best_threshold is not None:
        threshold, best = found.best_threshold
        console.say(
            f"Threshold that scores best on the validation part: {threshold:.3g} (set Dice {best:.4f}; at the default "
            f"of 0.5 {found.scores['set_dice']:.4f}); --threshold auto takes it"
        )
    if not found.foreground[..., :2].any():
        console.say("The best weights predict nothing but background: give the run more time, or look at the masks")
    return found


def _next(trainer: Trainer, run: Path, best: Path, layout: Layout) -> str:
    """The command to run next: how good the weights are on the test part, or, where there is none, what they make of
    images that are at hand."""
    if layout.splits.get("test") and trainer.config.data is not None:
        missing = ["--missing-masks", "background"] * (trainer.config.missing_masks == "background")
        return shlex.join(["unet", "evaluate", "--weights", str(best), "--data", str(trainer.config.data), *missing])
    return shlex.join(["unet", "predict", "--weights", str(best), *_images(trainer, run)])


def _images(trainer: Trainer, run: Path) -> list[str]:
    """Images that are there, to try the weights on: the folder of the training images, or, where it holds masks too,
    one of them, which may be several files."""
    pairs = trainer.train_data.pairs
    folder = Path(os.path.commonpath([pair.image.path.parent for pair in pairs]))
    masks = [path for pair in pairs if not pair.mask.is_blank for path in pair.mask.paths]
    if not any(path.is_relative_to(folder) for path in masks):
        return ["--input", str(folder)]
    first = pairs[0].image.path
    if len(pairs[0].image.paths) == 1:
        return ["--input", str(first)]
    return ["--input", f"{str(first.with_suffix(''))[:-1]}?{first.suffix}", "--output", str(run / "masks")]
