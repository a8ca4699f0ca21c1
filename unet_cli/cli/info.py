"""`unet info`: describe a checkpoint."""

from __future__ import annotations

import shlex

from unet_cli.cli import app
from unet_cli.cli.options import DONE, command
from unet_cli.config.base import Output, plain
from unet_cli.config.model import InfoConfig
from unet_cli.system.console import Console, counted


@command(app, "info", InfoConfig, example="unet info checkpoints/data-1/best.pth")
def info_cli(config: InfoConfig, output: Output) -> int:
    """Describe a checkpoint: network, classes, preprocessing, training data, scores, version.

    Scores whose names begin with final_ are of the validation part at original size, the others at the network's.
    """
    from unet_cli.checkpoint import load_checkpoint
    from unet_cli.exported import RUNTIMES
    from unet_cli.models import parameter_count, weightless

    checkpoint = load_checkpoint(config.weights, exported=True)
    console = Console(output.json, output.quiet)
    model, preprocessing = checkpoint.model, checkpoint.preprocessing
    parameters = parameter_count(weightless(model))
    runtime = checkpoint.exported.runtime if checkpoint.exported else "torch"
    console.document(
        {
            "model": plain(model),
            "parameters": parameters,
            "preprocessing": plain(preprocessing),
            "labels": checkpoint.labels.plain(),
            "threshold": checkpoint.threshold,
            "best_threshold": checkpoint.best_threshold,
            "temperature": checkpoint.temperature,
            "metrics": checkpoint.metrics,
            "training": checkpoint.training,
            "data": checkpoint.data,
            "version": checkpoint.version,
            "runtime": runtime,
        }
    )
    best = "" if checkpoint.best_threshold is None else f" (best on validation: {checkpoint.best_threshold:g})"
    console.result(
        f"{config.weights}, written by unet {checkpoint.version}",
        f"network        {model.describe()}, {parameters:,} parameters",
        *([f"exported for   {RUNTIMES[runtime]}"] if checkpoint.exported else []),
        f"classes        {checkpoint.labels.describe()}",
        f"threshold      {checkpoint.threshold:g}{best}",
        *([f"temperature    {checkpoint.temperature:.4g}"] if checkpoint.temperature != 1 else []),
        f"preprocessing  {counted(preprocessing.in_channels, 'channel')}, {preprocessing.describe_size()}"
        f"{preprocessing.describe_slices()}, "
        f"{preprocessing.dtype}, {preprocessing.describe_orientation()}, {preprocessing.describe_intensity()}",
        "trained on     " + "\n               ".join(line.strip() for line in checkpoint.data),
        *(
            f"{'scores' if not index else '':15}{name} {value:.6g}"
            for index, (name, value) in enumerate(_scores(checkpoint.metrics))
        ),
        f"next           unet predict --weights {shlex.quote(str(config.weights))} --input DIR",
    )
    return DONE


def _scores(metrics: dict[str, float]) -> list[tuple[str, float]]:
    return [(name, value) for name, value in metrics.items() if name != "is_best"]
