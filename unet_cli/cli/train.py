"""`unet train`: train on a folder of images and masks; writes a run folder with checkpoints."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from unet_cli.cli import STARTED, app
from unet_cli.cli.options import DONE, command
from unet_cli.config.base import Output
from unet_cli.config.training import TrainConfig
from unet_cli.system.console import Console, counted
from unet_cli.system.distributed import this_process

if TYPE_CHECKING:
    from unet_cli.runs.folds import Folds


@command(app, "train", TrainConfig, example="unet train --data data/ --max-time 3m")
def train_cli(config: TrainConfig, output: Output) -> int:
    """Train a network on a folder of images and a folder of masks."""
    from unet_cli.data.folder.layout import layout_of

    # Before torch is imported, so that a wrong path is reported at once.
    layout = layout_of(config)
    console = Console(output.json, output.quiet or this_process()[0] > 1)
    pairs = counted(sum(map(len, layout.splits.values())), "pair")
    console.say(f"Reading {layout.root}, {pairs}")

    from unet_cli.runs.folds import is_for_all_folds, train_folds
    from unet_cli.runs.train import train

    if is_for_all_folds(config):
        _print_folds(train_folds(config, layout, console, STARTED), console)
        return DONE
    report = train(config, layout, console, STARTED)
    if report is None:  # rank 0 alone reports
        return DONE
    console.document(asdict(report))
    score = f"validation {_scores(report.scores)} at original size" if report.scores else "not validated"
    console.result(
        "",
        *([f"Validation: {report.objects.sentence}"] if report.objects else []),
        f"Best weights: {report.best} ({score})",
        f"Scores, curves and the worst images: {report.page} (open it in a browser)",
        _what_next(report.next),
        f"  {report.next}",
    )
    return DONE


def _print_folds(folds: Folds, console: Console) -> None:
    """A line for each fold, and the out-of-fold scores."""
    console.document(asdict(folds))
    console.result(
        "",
        *(f"{report.run}: validation {_scores(report.scores)}" for report in folds.folds),
        f"Out of fold, each image by the network not trained on it: {_scores(folds.scores)} at original size",
        *([f"Out of fold: {folds.objects.sentence}"] if folds.objects else []),
        f"Scores, curves and the worst images: {folds.page} (open it in a browser)",
        _what_next(folds.next, " with all folds together"),
        f"  {folds.next}",
    )


def _scores(scores: dict[str, float]) -> str:
    """'Dice 0.912, set Dice 0.934', after scores of objects, and the mean IoU of several classes; runs of older
    versions may lack some."""
    shown = {"object_f1": "F1 of objects", "bowl_score": "AP", "dice": "Dice", "set_dice": "set Dice"}
    if any(name.startswith("dice_") for name in scores):
        shown["mean_iou"] = "mean IoU of all classes"
    return ", ".join(f"{label} {scores[name]:.3f}" for name, label in shown.items() if name in scores)


def _what_next(command: str, how: str = "") -> str:
    if command.startswith("unet evaluate"):
        return f"Next, see how good the masks of the test part are{how}:"
    return f"Next, predict masks for a folder of images{how}:"
