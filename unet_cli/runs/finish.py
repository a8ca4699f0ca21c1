"""The end of a run: curves, pictures, scores of the best weights at original size, the report, the next command."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from unet_cli.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unet_cli.config.prediction import Inference
from unet_cli.config.training import METRICS
from unet_cli.data.folder.channels import nnunet_name
from unet_cli.data.folder.layout import Layout
from unet_cli.data.folder.walk import stem
from unet_cli.data.source import Pair
from unet_cli.errors import UserError
from unet_cli.evaluation.answers import kind_of
from unet_cli.evaluation.evaluate import Evaluation, evaluate_network
from unet_cli.evaluation.fits import CORE_FITS
from unet_cli.evaluation.scores import overall, summary
from unet_cli.evaluation.tally import Tally
from unet_cli.inference.predictor import Predictor
from unet_cli.report.page import write_report
from unet_cli.report.pages import page_of_run
from unet_cli.report.runs import REPORT
from unet_cli.run_folder import write_json
from unet_cli.runs.journal import Journal, not_written, pictured_samples
from unet_cli.runs.saving import Saver
from unet_cli.system.console import counted
from unet_cli.training.run import Run


@dataclass(frozen=True)
class Report:
    """The outcome of a finished run: files, scores of the best weights at original size, and the command to run next.

    scores: see evaluation.scores.summary; empty without a validation part. dice_interval: 95 % interval of 'dice',
    None where there is none. objects: how many were found, where scores of objects come first.
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
    objects: Tally | None = None


def finish(run: Run, saver: Saver, journal: Journal, layout: Layout) -> Report:
    """Score the best weights at original size, fit threshold and temperature, and store them in best.pth."""
    best, val_pairs, console = saver.folder / "best.pth", run.val_data.pairs, run.learner.console
    rows = run.course.progress.rows
    console.say("Training is finished: drawing curves and pictures")
    try:
        journal.finish(rows, partial(pictured_samples, run))
    except (UserError, OSError) as error:  # the scores matter more than pictures and curves
        console.say(not_written(error))
    # The best epoch's weights are no longer in the network, which has been trained since.
    checkpoint = load_checkpoint(best)
    if val_pairs:
        console.say(f"Scoring the best weights on {_counted(val_pairs, len(val_pairs))} at original size")
    evaluation, scores = _scored(checkpoint, run) if val_pairs else None, dict[str, float]()
    if evaluation is not None:
        if evaluation.best_fit is not None:
            threshold, is_split, smallest = CORE_FITS[evaluation.best_fit]
            checkpoint = replace(checkpoint, core_threshold=threshold, split_cores=is_split, smallest_object=smallest)
        evaluation = evaluation.fitted()
        scores = summary(evaluation)
        checkpoint = replace(
            checkpoint,
            metrics=checkpoint.metrics | {f"final_{name}": value for name, value in scores.items()},
            best_threshold=evaluation.best_threshold and evaluation.best_threshold[0],
            temperature=evaluation.temperature,
        )
        save_checkpoint(best, checkpoint)
    report = Report(
        run=str(saver.folder),
        best=str(best),
        last=str(saver.folder / "last.pth"),
        page=str(saver.folder / REPORT),
        epochs=rows[-1].epoch,
        scores=scores,
        best_threshold=checkpoint.best_threshold,
        next=_next(run, best, layout),
        dice_interval=overall(evaluation, "dice").interval if evaluation else None,
        objects=evaluation.tally if evaluation and evaluation.is_of_objects else None,
    )
    of_best = {key: checkpoint.metrics[key] for key in ("epoch", "averaged") if key in checkpoint.metrics}
    # Last of all that matters: with this file the run counts as finished, and can't be resumed without a larger budget.
    write_json(saver.folder / METRICS, asdict(report) | of_best)
    console.say(f"Writing {saver.folder / REPORT}")
    try:
        write_report(
            saver.folder / REPORT,
            page_of_run(saver.folder, [saver.folder], [checkpoint], evaluation, notes=_notes(run, saver)),
        )
    except (UserError, OSError) as error:  # weights and scores have been saved
        console.say(not_written(error, f". unet report {shlex.quote(str(saver.folder))} writes the page"))
    return report


def _notes(run: Run, saver: Saver) -> list[str]:
    """Notes on the scores for the report."""
    scored, available = len(run.val_data.pairs), len(saver.record.split.val)
    if scored == available:
        return []
    return [
        f"Scored on {scored:,} of the {_counted(run.val_data.pairs, available)}, since time was short: unet evaluate "
        "scores all of them."
    ]


def _counted(pairs: Sequence[Pair], count: int) -> str:
    """So many validation images, or volumes if these are."""
    return counted(count, f"validation {kind_of(pairs)[:-1]}")


def _scored(checkpoint: Checkpoint, run: Run) -> Evaluation:
    """Evaluation of the weights on the validation part at original size, with the fitted temperature."""
    inference = Inference(batch_size=run.learner.micro_batch, spacing=run.learner.config.spacing)
    predictor = Predictor([checkpoint], run.learner.compute, inference)
    pairs, console = run.val_data.pairs, run.learner.console
    evaluation = evaluate_network(
        predictor, pairs, run.learner.config.workers, console, panels=True, fits=True
    ).calibrated()
    if evaluation.best_threshold is not None:
        threshold, best = evaluation.best_threshold
        console.say(
            f"Threshold that scores best on the validation part: {threshold:.3g} (set Dice {best:.4f}; at the default "
            f"of 0.5 {evaluation.scores['set_dice']:.4f}); --threshold auto uses it"
        )
    if not evaluation.foreground[..., :2].any():
        console.say("The best weights predict nothing but background: train longer, or check the masks")
    if evaluation.best_fit is not None:
        threshold, is_split, smallest = CORE_FITS[evaluation.best_fit]
        necks = ", separated at their necks" if is_split else ""
        f1 = overall(evaluation.fitted(), "object_f1").value
        console.say(
            f"Validation objects are told apart best by cores from a probability of {threshold:g} on{necks}, "
            f"without those below {smallest} pixels (F1 at IoU 0.5: {f1:.3f})"
        )
    return evaluation


def _next(run: Run, best: Path, layout: Layout) -> str:
    """The command to run next: an evaluation on the test part, or without one a prediction for available images."""
    config = run.learner.config
    if layout.splits.get("test") and config.data is not None:
        missing = ["--missing-masks", "background"] * (config.missing_masks == "background")
        missing += ["--volume-folders"] * config.volume_folders
        return shlex.join(["unet", "evaluate", "--weights", str(best), "--data", str(config.data), *missing])
    return shlex.join(["unet", "predict", "--weights", str(best), *_images(run, best.parent)])


def _images(run: Run, folder: Path) -> list[str]:
    """Arguments for a first prediction: the folder of the training images, or, where it contains masks too, one image,
    which may be several files."""
    pairs = run.loader.data.pairs
    common = Path(os.path.commonpath([pair.image.path.parent for pair in pairs]))
    masks = [path for pair in pairs if not (pair.mask.is_blank or pair.mask.entry) for path in pair.mask.paths]
    if not any(path.is_relative_to(common) for path in masks):
        return ["--input", str(common)]
    first = pairs[0].image.path
    if len(pairs[0].image.paths) == 1:
        return ["--input", str(first)]
    name = stem(first.name)
    if nnunet_name(name) == name:  # slices, or channels by words, beside which masks are known, and left out
        return ["--input", str(first.parent), "--output", str(folder / "masks")]
    pattern = first.with_name(f"{name[:-1]}?{first.name.removeprefix(name)}")
    return ["--input", str(pattern), "--output", str(folder / "masks")]
