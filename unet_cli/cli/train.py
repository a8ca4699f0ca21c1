"""`unet train`: a folder of images and masks into a checkpoint."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from unet_cli.cli import STARTED, app
from unet_cli.cli.options import DONE, command
from unet_cli.config import DEFAULT_EPOCHS, Output, TrainConfig, plain
from unet_cli.console import Console, counted, duration

if TYPE_CHECKING:
    from pathlib import Path

    from unet_cli.checkpoint import Checkpoint
    from unet_cli.data.card import Card
    from unet_cli.data.layout import Pair
    from unet_cli.training.loop import EpochResult, Trainer

WIDTH = {"cpu": 32}  # channels of the first level; a processor has no time for more
GPU_WIDTH = 64
BATCH_SIZE = {"cpu": 2}
GPU_BATCH_SIZE = 8


@command(app, "train", TrainConfig, example="unet train --data data/ --max-time 3m")
def train_cli(config: TrainConfig, output: Output) -> int:
    """Train a network on a folder of images and a folder of masks."""
    console = Console(output.json, output.quiet)
    report = train(config, console)
    console.document(report)
    console.result(
        "",
        f"Best weights: {report['best']} (validation Dice {report['scores']['dice']:.3f} at original size)"
        if report["scores"]
        else f"Weights: {report['best']} (not validated)",
        f"Log, curves and pictures: {report['run']}",
        "Next, predict masks for a folder of images:",
        f"  {report['next']}",
    )
    return DONE


def train(config: TrainConfig, console: Console, started: float = STARTED) -> dict[str, Any]:
    """Train as told, and return where the weights are and what they score.

    started: the second of time.monotonic() from which --max-time counts. Raises UserError, and Stopped after saving
    where a signal asked to stop.
    """
    from unet_cli.data.layout import find_layout
    from unet_cli.files import writable_folder

    layout = find_layout(config.data)  # before torch is imported: a wrong path is told at once
    writable_folder(config.output)

    import torch

    from unet_cli.checkpoint import load_checkpoint
    from unet_cli.data.card import examine
    from unet_cli.data.dataset import SegmentationDataset, split_pairs
    from unet_cli.device import choose_compute
    from unet_cli.errors import Stopped
    from unet_cli.models import build_model
    from unet_cli.signals import StopRequest
    from unet_cli.training.journal import Journal, new_run_folder
    from unet_cli.training.loop import Trainer
    from unet_cli.training.schedule import Budget

    compute = choose_compute(config.device, config.precision)
    initial = load_checkpoint(config.init) if config.init else None
    card = examine(layout, console, config.workers)
    if "val" in layout.splits:
        train_pairs, val_pairs, how = layout.splits["train"], layout.splits["val"], "its own folder"
    else:
        train_pairs, val_pairs = split_pairs(layout.splits["train"], config.val_fraction, config.seed)
        how = f"drawn with --seed {config.seed}"

    preprocessing = initial.preprocessing if initial else card.preprocessing(train_pairs, config.size)
    template = _template(config, card, preprocessing, initial, compute.device.type)
    torch.manual_seed(config.seed)
    model = build_model(template.model, config.gradient_checkpointing)
    if initial:
        model.load_state_dict(initial.weights)

    train_data = SegmentationDataset(train_pairs, preprocessing, template.labels)
    val_data = SegmentationDataset(val_pairs, preprocessing, template.labels)
    batch_size = min(config.batch_size or BATCH_SIZE.get(compute.device.type, GPU_BATCH_SIZE), len(train_pairs))
    epochs = config.epochs or (None if config.max_time else DEFAULT_EPOCHS)
    budget = Budget(
        epochs=epochs,
        steps_per_epoch=-(-len(train_pairs) // batch_size),
        start=started,
        end=started + config.max_time if config.max_time else None,
    )
    folder = new_run_folder(config.output, config.name, config.data)
    console.say(
        *card.describe(), *_plan(config, template, compute, train_pairs, val_pairs, how, batch_size, epochs, folder)
    )

    trainer = Trainer(model, train_data, val_data, config, batch_size, compute, budget, console)
    journal = Journal(folder)
    run = _Run(folder, template, journal, console)
    try:
        with StopRequest() as stop:
            trainer.fit(run.after_epoch, stop)
    except Stopped:
        console.say(
            f"Stopped in epoch {journal.rows[-1].epoch}; the weights so far are {run.best} and {folder / 'last.pth'}"
        )
        raise
    return run.finish(trainer, compute, val_pairs, batch_size)


class _Run:
    """A run's folder: what is saved after each epoch, and at the end."""

    def __init__(self, folder: Path, template: Checkpoint, journal: Any, console: Console) -> None:
        self.folder = folder
        self.template = template
        self.journal = journal
        self.console = console

    @property
    def best(self) -> Path:
        return self.folder / "best.pth"

    def after_epoch(self, result: EpochResult, trainer: Trainer) -> None:
        """Write last.pth, best.pth where it is one, log and pictures; say what was reached."""
        from dataclasses import asdict, replace

        from unet_cli.checkpoint import save_checkpoint

        metrics = {key: value for key, value in asdict(result).items() if value is not None}
        weights = {key: value.detach().cpu() for key, value in trainer.model.state_dict().items()}
        resume = {
            "optimizer": trainer.optimizer.state_dict(),
            "scaler": trainer.scaler.state_dict(),
            "epoch": result.epoch,
            "step": result.step,
        }
        checkpoint = replace(self.template, weights=weights, metrics=metrics)
        save_checkpoint(self.folder / "last.pth", replace(checkpoint, resume=resume))
        if result.is_best or not self.best.exists():
            save_checkpoint(self.best, checkpoint)
        self.journal.add(result, trainer)
        scores = "" if result.val_dice is None else (
            f", validation loss {result.val_loss:.4f}, Dice {result.val_dice:.4f}, IoU {result.val_iou:.4f}"
        )  # fmt: skip
        self.console.say(
            f"epoch {result.epoch:3d} ({duration(result.seconds)}): loss {result.train_loss:.4f}{scores}"
            + (" (best)" if result.is_best and scores else "")
        )

    def finish(self, trainer: Trainer, compute: Any, val_pairs: list[Pair], batch_size: int) -> dict[str, Any]:
        """Score the best weights at original size, find their threshold, store both; draw the last pictures."""
        from dataclasses import replace

        from unet_cli.checkpoint import load_checkpoint, save_checkpoint
        from unet_cli.evaluation.evaluate import evaluate
        from unet_cli.inference.predictor import Predictor

        self.journal.finish(trainer)
        checkpoint = load_checkpoint(self.best)
        scores: dict[str, float] = {}
        if val_pairs:
            found = evaluate(
                Predictor(checkpoint, compute), val_pairs, batch_size, trainer.config.workers, self.console
            )
            scores = found.scores
            checkpoint = replace(
                checkpoint,
                metrics={**checkpoint.metrics, **{f"final_{name}": value for name, value in scores.items()}},
                best_threshold=found.best_threshold,
            )
            save_checkpoint(self.best, checkpoint)
            if found.best_threshold is not None:
                self.console.say(
                    f"Threshold that scores best on the validation part: {found.best_threshold:g} "
                    f"(Dice {found.best_dice:.4f}; at the default of 0.5 {scores['dice']:.4f})"
                )
        return {
            "run": str(self.folder),
            "best": str(self.best),
            "last": str(self.folder / "last.pth"),
            "epochs": self.journal.rows[-1].epoch,
            "scores": scores,
            "best_threshold": checkpoint.best_threshold,
            "next": shlex.join(
                ["unet", "predict", "--weights", str(self.best), "--input", self._example_input(trainer)]
            ),
        }

    def _example_input(self, trainer: Trainer) -> str:
        """The images folder of the data set: a folder that is there, to try the weights on."""
        pair = trainer.train_data.pairs[0]
        depth = len(pair.name.split("/"))
        return str(pair.image.parents[depth - 1])


def _template(
    config: TrainConfig, card: Card, preprocessing: Any, initial: Checkpoint | None, device: str
) -> Checkpoint:
    """The checkpoint of this run, still without weights. Raises UserError where --init has another network."""
    from unet_cli.checkpoint import Checkpoint
    from unet_cli.config import ModelConfig
    from unet_cli.errors import UserError

    model = ModelConfig(
        in_channels=preprocessing.in_channels,
        num_classes=card.labels.num_classes,
        base_channels=config.width or WIDTH.get(device, GPU_WIDTH),
        depth=config.depth,
        upsampling=config.upsampling,
    )
    if initial:
        wanted, have = plain(model), plain(initial.model)
        if config.width is None:
            wanted["base_channels"] = have["base_channels"]
            model = ModelConfig(**wanted)
        differences = [f"{key} {have[key]} there, {wanted[key]} here" for key in have if have[key] != wanted[key]]
        if differences:
            raise UserError(f"--init {config.init} holds another network: {', '.join(differences)}")
    return Checkpoint(
        model=model,
        preprocessing=preprocessing,
        labels=card.labels,
        weights={},
        training=plain(config),
        data=card.describe(),
    )


def _plan(
    config: TrainConfig, template: Checkpoint, compute: Any, train: list[Pair], val: list[Pair], how: str,
    batch_size: int, epochs: int | None, folder: Path,
) -> list[str]:  # fmt: skip
    """What the run will do, in words."""
    from unet_cli.models import build_model, parameter_count

    model = template.model
    parameters = parameter_count(build_model(model))
    limits = [counted(epochs, "epoch")] if epochs else []
    limits += [f"at most {duration(config.max_time)}"] if config.max_time else []
    where = "" if config.width else f" (width as is usual on a {'CPU' if compute.device.type == 'cpu' else 'GPU'})"
    size = template.preprocessing.size
    return [
        f"  split    {len(train)} for training, {len(val)} for validation ({how})",
        f"Network {model.describe()}, {parameters:,} parameters{where}",
        f"Images are stretched to {size}x{size}; batches of {batch_size}; augmentation {config.augment}",
        f"Computing on {compute.describe()}",
        f"Training for {', '.join(limits)}, into {folder}",
    ]
