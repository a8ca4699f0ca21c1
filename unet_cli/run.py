"""The training journey from end to end: folder -> card -> samples -> network -> checkpoint, in a run's folder."""

from __future__ import annotations

import math
import os
import shlex
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from unet_cli.ahead import default_workers
from unet_cli.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unet_cli.config import (
    CPU_TRAIN_BATCH,
    CPU_WIDTH,
    DEFAULT_EPOCHS,
    GPU_BATCH,
    GPU_WIDTH,
    Inference,
    ModelConfig,
    TrainConfig,
    plain,
)
from unet_cli.console import Console, counted, duration
from unet_cli.data.card import Card
from unet_cli.data.dataset import CACHE_SHARE, SegmentationDataset, machine_memory
from unet_cli.data.examine import examine
from unet_cli.data.layout import Layout
from unet_cli.data.problems import listed
from unet_cli.data.source import Pair
from unet_cli.data.split import Split, draw_fold, draw_split, group_names, read_split, write_split
from unet_cli.device import Compute, choose_compute
from unet_cli.errors import Stopped, UserError
from unet_cli.evaluation.evaluate import evaluate
from unet_cli.files import writable_folder
from unet_cli.inference.predictor import Predictor
from unet_cli.models import build_model, parameter_count
from unet_cli.signals import StopRequest
from unet_cli.training.journal import Journal, new_run_folder
from unet_cli.training.loop import EpochResult, Trainer
from unet_cli.training.schedule import Budget


@dataclass(frozen=True)
class Report:
    """What a finished run leaves: files, scores of the best weights at original size, and the command to run next.

    scores: see metrics.summarize; empty where there was no validation part.
    """

    run: str
    best: str
    last: str
    epochs: int
    scores: dict[str, float]
    best_threshold: float | None
    next: str


def train(config: TrainConfig, layout: Layout, console: Console, started: float) -> Report:
    """Train as told on the pairs of `layout`.

    started: the second of time.monotonic() from which --max-time counts. Raises UserError, and Stopped after saving
    where a signal asked to stop.
    """
    writable_folder(config.output)
    compute = choose_compute(config.device, config.precision)
    initial = load_checkpoint(config.init) if config.init else None
    card = examine(layout, config, console)
    card.refuse()
    split = _split(config, card)
    train_pairs, val_pairs = split.train, split.val

    template = _template(config, card, train_pairs, initial, compute)
    torch.manual_seed(config.seed)
    model = build_model(template.model, config.gradient_checkpointing)
    if initial:
        model.load_state_dict(initial.weights)
    cache_bytes = int(CACHE_SHARE * machine_memory() / (len(train_pairs) + len(val_pairs)))  # for each pair
    train_data, val_data = (
        SegmentationDataset(pairs, template.preprocessing, template.labels, cache_bytes * len(pairs))
        for pairs in (train_pairs, val_pairs)
    )
    batch_size = min(config.batch_size or compute.usual(CPU_TRAIN_BATCH, GPU_BATCH), len(train_pairs))
    budget = Budget(
        epochs=config.epochs or (None if config.max_time else DEFAULT_EPOCHS),
        steps_per_epoch=-(-len(train_pairs) // batch_size),
        start=started,
        end=started + config.max_time if config.max_time else None,
        reading_seconds=_reading_seconds(val_data, config),
    )
    trainer = Trainer(model, train_data, val_data, config, batch_size, compute, budget, console)
    journal = Journal(new_run_folder(config.output, config.name, layout.root))
    write_split(journal.folder / "split.json", split)
    console.say(
        *template.data,
        f"  split    {len(train_pairs)} for training, {len(val_pairs)} for validation ({split.how})",
        *_worth_a_look(card),
        *_plan(trainer, template, journal.folder),
    )

    try:
        with StopRequest() as stop:
            for result in trainer.fit(stop):
                _save(result, trainer, template, journal.folder)
                journal.add(result, trainer)
                console.say(result.describe())
    except Stopped:
        if journal.rows:
            console.say(f"Stopped in epoch {journal.rows[-1].epoch}; best.pth and last.pth are in {journal.folder}")
        raise
    journal.finish(trainer)
    return _finish(trainer, journal, val_pairs)


def _reading_seconds(dataset: SegmentationDataset, config: TrainConfig) -> float:
    """How long it takes to read the whole part from disk, as the first sample tells."""
    if not len(dataset):
        return 0.0
    start = time.monotonic()
    dataset[0]
    return (time.monotonic() - start) * len(dataset) / (config.workers or default_workers())


def _split(config: TrainConfig, card: Card) -> Split:
    """As a file says, by the folders, or drawn. Raises UserError where what was asked for doesn't go together."""
    train, val = card.pairs("train"), card.pairs("val")
    if config.split is not None:
        return read_split(config.split, train + val, config.skip_bad)
    if val:
        if config.folds is not None or config.group_by is not None:
            raise UserError(
                f"{card.layout.root} has a val folder, which is the split: "
                "leave out --folds, --fold and --group-by, or move its pairs to train"
            )
        return Split(train, val, "a folder of its own")
    groups, contents = group_names(train, config.group_by), card.contents_of(train)
    if config.folds is not None and config.fold is not None:
        return draw_fold(train, contents, groups, config.folds, config.fold, config.seed)
    return draw_split(train, contents, groups, config.val_fraction, config.seed)


def _worth_a_look(card: Card) -> list[str]:
    if not card.problems:
        return []
    return ["Worth a look (unet check shows all):", *listed(card.problems, 2)]


def _template(
    config: TrainConfig, card: Card, train_pairs: list[Pair], initial: Checkpoint | None, compute: Compute
) -> Checkpoint:
    """The checkpoint of this run, still without weights. Raises UserError where --init has another network."""
    # A network for colour takes gray images too.
    in_channels = max(card.in_channels, initial.model.in_channels) if initial else card.in_channels
    width = initial.model.base_channels if initial else compute.usual(CPU_WIDTH, GPU_WIDTH)
    model = ModelConfig(
        name=config.model,
        in_channels=in_channels,
        num_classes=card.labels.num_classes,
        base_channels=config.width or width,
        depth=config.depth,
        upsampling=config.upsampling,
    )
    if initial and initial.model != model:
        here, there = plain(model), plain(initial.model)
        differences = [f"{key} {there[key]} there, {here[key]} here" for key in here if here[key] != there[key]]
        raise UserError(f"--init {config.init} holds another network: {', '.join(differences)}")
    return Checkpoint(
        model=model,
        preprocessing=card.preprocessing(train_pairs, config.size, config.normalize, in_channels),
        labels=card.labels,
        weights={},
        training=plain(config) | {"width": model.base_channels, "device": compute.kind, "precision": compute.precision},
        data=card.describe(),
    )


def _plan(trainer: Trainer, template: Checkpoint, folder: Path) -> list[str]:
    """What the run will do, in words."""
    config, budget, preprocessing = trainer.config, trainer.budget, template.preprocessing
    usual = "" if config.width or config.init else f" (--width is usually that on a {trainer.compute.kind})"
    limits = [counted(budget.epochs, "epoch")] if budget.epochs else []
    limits += [f"at most {duration(config.max_time)}"] if config.max_time else []
    return [
        f"Network {template.model.describe()}, {parameter_count(trainer.model):,} parameters{usual}",
        f"Images are stretched to {preprocessing.size}x{preprocessing.size}, {preprocessing.describe_intensity()}; "
        f"batches of {trainer.batch_size}; augmentation {config.augment}",
        f"Computing on {trainer.compute.describe()}",
        f"Training for {', '.join(limits)}, into {folder}",
    ]


def _save(result: EpochResult, trainer: Trainer, template: Checkpoint, folder: Path) -> None:
    """Write last.pth, and best.pth where these are the best weights so far, or the only ones."""
    checkpoint = replace(
        template,
        weights={key: value.detach().cpu() for key, value in trainer.model.state_dict().items()},
        metrics={key: value for key, value in result.plain().items() if value is not None and math.isfinite(value)},
    )
    resume = {
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "epoch": result.epoch,
        "step": result.step,
    }
    save_checkpoint(folder / "last.pth", replace(checkpoint, resume=resume))
    if result.is_best or not (folder / "best.pth").exists():
        save_checkpoint(folder / "best.pth", checkpoint)


def _finish(trainer: Trainer, journal: Journal, val_pairs: list[Pair]) -> Report:
    """Score the best weights at original size, find the threshold that suits them, and store both."""
    best = journal.folder / "best.pth"
    checkpoint = load_checkpoint(best)
    scores: dict[str, float] = {}
    if val_pairs:
        settings = Inference(batch_size=trainer.batch_size)
        predictor = Predictor([checkpoint], trainer.compute, settings)
        found = evaluate(predictor, val_pairs, trainer.config.workers, trainer.console)
        scores = found.scores
        final = {f"final_{name}": value for name, value in scores.items()}
        checkpoint = replace(checkpoint, metrics={**checkpoint.metrics, **final}, best_threshold=found.best_threshold)
        save_checkpoint(best, checkpoint)
        if found.best_threshold is not None:
            trainer.console.say(
                f"Threshold that scores best on the validation part: {found.best_threshold:g} "
                f"(Dice {found.best_dice:.4f}; at the default of 0.5 {scores['dice']:.4f})"
            )
    return Report(
        run=str(journal.folder),
        best=str(best),
        last=str(journal.folder / "last.pth"),
        epochs=journal.rows[-1].epoch,
        scores=scores,
        best_threshold=checkpoint.best_threshold,
        next=shlex.join(["unet", "predict", "--weights", str(best), *_images(trainer, journal.folder)]),
    )


def _images(trainer: Trainer, run: Path) -> list[str]:
    """Images that are there, to try the weights on: the folder of the training images, or, where it holds masks too,
    one of them, which may be several files."""
    pairs = trainer.train_data.pairs
    folder = Path(os.path.commonpath([pair.image.path.parent for pair in pairs]))
    if not any(path.is_relative_to(folder) for pair in pairs for path in pair.mask.paths):
        return ["--input", str(folder)]
    first = pairs[0].image.path
    if len(pairs[0].image.paths) == 1:
        return ["--input", str(first)]
    return ["--input", f"{str(first.with_suffix(''))[:-1]}?{first.suffix}", "--output", str(run / "masks")]
