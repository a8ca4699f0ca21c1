"""The end of a run: curves and pictures, the scores of the best weights at original size, the page, what to do next."""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from unet_cli.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unet_cli.config.prediction import Inference
from unet_cli.config.training import METRICS
from unet_cli.data.folder.layout import Layout
from unet_cli.errors import UserError
from unet_cli.evaluation.evaluate import Evaluation, evaluate_network
from unet_cli.evaluation.scores import overall
from unet_cli.inference.predictor import Predictor
from unet_cli.report.page import write_report
from unet_cli.report.pages import page_of_run
from unet_cli.report.runs import REPORT
from unet_cli.run_folder import write_json
from unet_cli.runs.build import Run
from unet_cli.runs.journal import Journal, not_written, pictured_samples
from unet_cli.runs.saving import Saver
from unet_cli.system.console import counted


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


def finish(run: Run, saver: Saver, journal: Journal, layout: Layout) -> Report:
    """Score the best weights at original size, find the threshold that suits them, and store both."""
    best, val_pairs, console = saver.folder / "best.pth", run.val_data.pairs, run.learner.console
    rows = run.course.progress.rows
    console.say("Training has come to its end: drawing curves and pictures")
    try:
        journal.finish(rows, partial(pictured_samples, run))
    except (UserError, OSError) as error:  # pictures and curves, for which the scores needn't wait
        console.say(not_written(error))
    checkpoint = load_checkpoint(best)
    if val_pairs:
        console.say(f"Scoring the best weights on {counted(len(val_pairs), 'validation image')} at original size")
    found = _scored(checkpoint, run) if val_pairs else None
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
        epochs=rows[-1].epoch,
        scores=found.scores if found else {},
        best_threshold=checkpoint.best_threshold,
        next=_next(run, best, layout),
        dice_interval=overall(found, "dice").interval if found else None,
    )
    of_best = {key: checkpoint.metrics[key] for key in ("epoch", "averaged") if key in checkpoint.metrics}
    write_json(saver.folder / METRICS, asdict(report) | of_best)
    console.say(f"Writing {saver.folder / REPORT}")
    try:
        write_report(
            saver.folder / REPORT,
            page_of_run(saver.folder, [saver.folder], [checkpoint], found, notes=_notes(run, saver)),
        )
    except (UserError, OSError) as error:  # all that matters has been saved
        console.say(not_written(error, f". unet report {shlex.quote(str(saver.folder))} writes the page"))
    return report


def _notes(run: Run, saver: Saver) -> list[str]:
    """What a reader of the scores has to know."""
    scored, kept = len(run.val_data.pairs), len(saver.record.split.val)
    if scored == kept:
        return []
    return [
        f"Scored on {scored:,} of the {counted(kept, 'validation image')}, since the time was short: unet evaluate "
        "scores all of them."
    ]


def _scored(checkpoint: Checkpoint, run: Run) -> Evaluation:
    """The weights on the validation part at original size, with the temperature that suits them."""
    predictor = Predictor([checkpoint], run.learner.compute, Inference(batch_size=run.learner.at_once))
    pairs, console = run.val_data.pairs, run.learner.console
    found = evaluate_network(predictor, pairs, run.learner.config.workers, console, panels=True).calibrated()
    if found.best_threshold is not None:
        threshold, best = found.best_threshold
        console.say(
            f"Threshold that scores best on the validation part: {threshold:.3g} (set Dice {best:.4f}; at the default "
            f"of 0.5 {found.scores['set_dice']:.4f}); --threshold auto takes it"
        )
    if not found.foreground[..., :2].any():
        console.say("The best weights predict nothing but background: give the run more time, or look at the masks")
    return found


def _next(run: Run, best: Path, layout: Layout) -> str:
    """The command to run next: how good the weights are on the test part, or, where there is none, what they make of
    images that are at hand."""
    config = run.learner.config
    if layout.splits.get("test") and config.data is not None:
        missing = ["--missing-masks", "background"] * (config.missing_masks == "background")
        return shlex.join(["unet", "evaluate", "--weights", str(best), "--data", str(config.data), *missing])
    return shlex.join(["unet", "predict", "--weights", str(best), *_images(run, best.parent)])


def _images(run: Run, folder: Path) -> list[str]:
    """Images that are there, to try the weights on: the folder of the training images, or, where it holds masks too,
    one of them, which may be several files."""
    pairs = run.loader.data.pairs
    common = Path(os.path.commonpath([pair.image.path.parent for pair in pairs]))
    masks = [path for pair in pairs if not (pair.mask.is_blank or pair.mask.entry) for path in pair.mask.paths]
    if not any(path.is_relative_to(common) for path in masks):
        return ["--input", str(common)]
    first = pairs[0].image.path
    if len(pairs[0].image.paths) == 1:
        return ["--input", str(first)]
    return ["--input", f"{str(first.with_suffix(''))[:-1]}?{first.suffix}", "--output", str(folder / "masks")]
