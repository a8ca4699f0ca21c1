"""`unet train`: a folder of images and masks into a checkpoint."""

from __future__ import annotations

from dataclasses import asdict

from unet_cli.cli import STARTED, app
from unet_cli.cli.options import DONE, command
from unet_cli.config import Output, TrainConfig
from unet_cli.console import Console


@command(app, "train", TrainConfig, example="unet train --data data/ --max-time 3m")
def train_cli(config: TrainConfig, output: Output) -> int:
    """Train a network on a folder of images and a folder of masks."""
    from unet_cli.data.layout import find_layout

    layout = find_layout(
        config.data, config.images, config.masks, config.pair
    )  # before torch is imported: a wrong path is told at once

    from unet_cli.run import train

    console = Console(output.json, output.quiet)
    report = train(config, layout, console, STARTED)
    if report is None:  # one of several processes, but the first
        return DONE
    console.document(asdict(report))
    dice = report.scores.get("dice")
    score = "not validated" if dice is None else f"validation Dice {dice:.3f} at original size"
    console.result(
        "",
        f"Best weights: {report.best} ({score})",
        f"Log, curves and pictures: {report.run}",
        "Next, predict masks for a folder of images:",
        f"  {report.next}",
    )
    return DONE
