"""`unet predict`: a folder of images into masks."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from itertools import takewhile
from typing import TYPE_CHECKING

from unet_cli.cli import app
from unet_cli.cli.options import DONE, SOME_FAILED, command
from unet_cli.config import CPU_PREDICT_BATCH, GPU_BATCH, Output, PredictConfig
from unet_cli.console import Console, counted

if TYPE_CHECKING:
    from unet_cli.inference.batch import Outcome


@command(app, "predict", PredictConfig, example="unet predict --weights checkpoints/data-1/best.pth --input imgs/")
def predict_cli(config: PredictConfig, output: Output) -> int:
    """Write a mask for every image of a folder."""
    return predict(config, Console(output.json, output.quiet))


def predict(config: PredictConfig, console: Console) -> int:
    """Predict as told; returns the exit code: SOME_FAILED where an image could not be read or a mask not written.

    Raises UserError before anything is computed, and Stopped after the files at hand.
    """
    from unet_cli.checkpoint import load_checkpoint
    from unet_cli.device import choose_compute
    from unet_cli.errors import UserError
    from unet_cli.files import writable_folder
    from unet_cli.inference.batch import extras_of, find_jobs, predict_all
    from unet_cli.inference.predictor import Predictor
    from unet_cli.signals import StopRequest

    checkpoint = load_checkpoint(config.weights)
    num_classes = checkpoint.labels.num_classes
    if config.threshold is not None and num_classes > 2:
        raise UserError(
            f"--threshold is for one foreground class, and these weights have {num_classes - 1}: leave it out"
        )
    threshold = checkpoint.threshold if config.threshold is None else config.threshold
    extras = extras_of(config, num_classes)
    jobs, folder = find_jobs(
        config.input, config.output, extras, sys.stdin if config.input == "-" else (), checkpoint.preprocessing
    )
    writable_folder(folder)
    compute = choose_compute(config.device, config.precision)
    batch_size = config.batch_size or compute.usual(CPU_PREDICT_BATCH, GPU_BATCH)
    predictor = Predictor(checkpoint, compute)
    size = checkpoint.preprocessing.size
    console.say(
        f"{counted(len(jobs), 'image')}, {checkpoint.model.name} of width {checkpoint.model.base_channels} "
        f"at {size}x{size}" + (f", threshold {threshold:g}" if num_classes == 2 else "") + f"; {compute.describe()}"
    )

    outcomes: list[Outcome] = []
    with StopRequest() as stop:
        wanted = takewhile(lambda _: stop.signum is None, jobs)  # a stop finishes the files at hand
        results = predict_all(predictor, wanted, threshold, batch_size, config.workers)
        for outcome in console.progress(results, len(jobs), "predicting", "images"):
            outcomes.append(outcome)
            console.document(outcome.plain())
    failed = [outcome for outcome in outcomes if outcome.error]
    written = len(outcomes) - len(failed)
    _say_what_was_odd([outcome for outcome in outcomes if not outcome.error], num_classes, console)
    for outcome in failed:
        print(f"unet: {outcome.error}", file=sys.stderr)
    summary = f"{counted(written, 'mask')} written to {folder}"
    if failed:
        summary += f"; {counted(len(failed), 'image')} failed, see above"
    if stop.signum is not None:
        console.say(f"{summary}; stopped after {len(outcomes)} of {len(jobs)}")
        stop.check()
    console.result(summary, *_next_step(config, outcomes))
    return SOME_FAILED if failed else DONE


def _next_step(config: PredictConfig, outcomes: list[Outcome]) -> list[str]:
    """See the outline over the first image that has a mask, unless outlines were asked for already."""
    job = next((outcome.job for outcome in outcomes if not outcome.error), None)
    if config.overlay or job is None or len(job.image.paths) > 1:
        return []
    again = ["unet", "predict", "--weights", str(config.weights), "--input", str(job.image.path)]
    again += ["--output", str(job.mask.parent), "--overlay"]
    again += [] if config.threshold is None else ["--threshold", f"{config.threshold:g}"]
    return ["Next, see the outline over an image:", f"  {shlex.join(again)}"]


def _say_what_was_odd(outcomes: list[Outcome], num_classes: int, console: Console) -> None:
    """Conversions, each kind once; and masks that are all of one class, which look like a failure and often are one."""
    notes = Counter(outcome.note for outcome in outcomes if outcome.note)
    for note, count in notes.items():
        console.say(f"{note} in {counted(count, 'image')}")
    if outcomes and all(outcome.shares[0] == 1 for outcome in outcomes):
        top = max(outcome.top_probability for outcome in outcomes)
        console.say(
            f"Every mask is all background; the highest foreground probability was {top:.3f}. "
            "Check that these images look like the training images"
            + (", or try a lower --threshold." if num_classes == 2 else ".")
        )
