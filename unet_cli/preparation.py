"""All that a run needs before its first step: folder -> card -> samples -> network, fresh or as it was saved."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from unet_cli.ahead import default_workers
from unet_cli.checkpoint import Checkpoint, load_checkpoint
from unet_cli.config import (
    CPU_TRAIN_BATCH,
    CPU_WIDTH,
    DEFAULT_EPOCHS,
    GPU_PREDICT_BATCH,
    GPU_WIDTH,
    LRS,
    ModelConfig,
    Preprocessing,
    TrainConfig,
    plain,
)
from unet_cli.console import Console, counted, duration
from unet_cli.data.augment import AUGMENTATIONS
from unet_cli.data.card import Card
from unet_cli.data.cutting import Crops, Cutting, Grid, Whole, patch_side_of
from unet_cli.data.dataset import CACHE_SHARE, SegmentationDataset, machine_memory
from unet_cli.data.examine import examine
from unet_cli.data.layout import Layout
from unet_cli.data.problems import listed
from unet_cli.data.source import Pair
from unet_cli.data.split import Split, draw_fold, draw_split, group_names, read_split
from unet_cli.device import Compute
from unet_cli.errors import UserError
from unet_cli.models import build_model, parameter_count
from unet_cli.processes import World
from unet_cli.training.budget import Budget
from unet_cli.training.learner import Learner
from unet_cli.training.loop import Trainer
from unet_cli.training.losses import loss_for
from unet_cli.training.memory import cpu_batch_size, fastest_batch_size, trial
from unet_cli.training.optimizers import make_optimizer
from unet_cli.training.progress import Progress
from unet_cli.training.record import Record, new_run_folder
from unet_cli.training.saving import Saver

MOST_GPU_BATCH = 128


def prepare(
    config: TrainConfig,
    layout: Layout,
    compute: Compute,
    world: World,
    console: Console,
    started: float,
    begun: Path | None,
    saved: Checkpoint | None,
) -> tuple[Trainer, Saver]:
    """Everything up to the first step. begun: the folder of a run that is gone on with; saved: its last.pth, if it came
    that far."""
    initial = saved or (load_checkpoint(config.init) if config.init else None)
    card = _examined(config, layout, world, console)
    everything = card.pairs("train") + card.pairs("val")
    split = read_split(begun, everything, config.skip_bad) if begun else _split(config, card)
    template = _template(config, card, split.train, initial, saved, compute)
    torch.manual_seed(config.seed)
    model = build_model(template.model, config.gradient_checkpointing)
    if initial:
        model.load_state_dict(initial.weights)
    train_data, val_data = _datasets(config, card, split, template)
    batch_size = _batch_size(config, saved, template, model, len(train_data), compute, world, console)
    elapsed = saved.resume["seconds"] if saved and saved.resume else 0.0
    epochs = config.epochs or (None if config.max_time else DEFAULT_EPOCHS)
    start = started - elapsed
    budget = Budget(
        epochs=epochs,
        steps_per_epoch=-(-len(train_data) // (batch_size * world.count)),
        start=start,
        end=start + config.max_time if config.max_time else None,
        reading_seconds=_reading_seconds(val_data, config),
    )
    loss = loss_for(config.loss, template.model.num_classes, _shares(card, split.train))
    learner = Learner(model, loss, config, compute, world, console, at_once=batch_size)
    trainer = Trainer(learner, train_data, val_data, config, batch_size, budget, world, console)
    folder = begun or world.first(new_run_folder(config.output, config.name, layout.root) if world.is_first else None)
    assert folder is not None
    resolved = replace(
        config,
        width=template.model.base_channels,
        batch_size=batch_size,
        precision=compute.precision,
        mode=template.preprocessing.mode,
        lr=learner.lr,
        epochs=epochs,
    )
    record = Record(folder, resolved, split, compute.describe(), card.fingerprint())
    if saved and saved.resume:
        learner.load_state(saved.resume["learner"])
        trainer.progress = Progress.from_plain(saved.resume["progress"])
        _check_unfinished(trainer, folder)
    console.say(
        *template.data,
        f"  split    {len(split.train)} for training, {len(split.val)} for validation ({split.how})",
        *_worth_a_look(card),
        *_plan(trainer, template, card, folder),
    )
    if begun:
        console.say(*_going_on(trainer, saved, card, folder))
    return trainer, Saver(record, template, config.save_every)


def _examined(config: TrainConfig, layout: Layout, world: World, console: Console) -> Card:
    """The data set card; the first process reads what isn't remembered. Raises UserError where training can't be."""
    if not world.is_first:
        world.wait()
    card = examine(layout, config, console)
    card.refuse()
    if world.is_first:
        world.wait()
    if not card.contents[:, 1:].any():
        raise UserError(
            f"{card.layout.root}: no mask holds a pixel of foreground, so there is nothing to learn: look at the "
            "masks, or say which value is which with --classes FILE.toml"
        )
    return card


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


def _template(
    config: TrainConfig,
    card: Card,
    train_pairs: list[Pair],
    initial: Checkpoint | None,
    saved: Checkpoint | None,
    compute: Compute,
) -> Checkpoint:
    """The checkpoint of this run, still without weights.

    Raises UserError where the weights to begin with are of another network, or a run to go on with was prepared for
    other images.
    """
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
        norm=config.norm,
    )
    if initial and initial.model != model:
        here, there = plain(model), plain(initial.model)
        differences = [f"{key} {there[key]} there, {here[key]} here" for key in here if here[key] != there[key]]
        what = f"--init {config.init}" if saved is None else f"--resume {config.resume}"
        raise UserError(f"{what} holds another network: {', '.join(differences)}")
    mode, _ = card.mode(config.mode, train_pairs, config.size)
    preprocessing = card.preprocessing(train_pairs, config.size, config.normalize, in_channels, mode)
    if saved:
        preprocessing = _same_images(saved, preprocessing, card, config)
    found = {"width": model.base_channels, "device": compute.kind, "precision": compute.precision}
    return Checkpoint(
        model=model,
        preprocessing=preprocessing,
        labels=card.labels,
        weights={},
        training=plain(config) | found | {"data_fingerprint": card.fingerprint()},
        data=card.describe(),
    )


def _same_images(saved: Checkpoint, now: Preprocessing, card: Card, config: TrainConfig) -> Preprocessing:
    """The run's own preprocessing, whose statistics may differ where images have changed. Raises UserError where the
    network would see something else."""
    then = saved.preprocessing
    for name in ("size", "dtype", "keep_alpha", "files", "pages") + (("mode",) if config.mode != "auto" else ()):
        if getattr(then, name) != getattr(now, name):
            raise UserError(
                f"--resume: the run was trained with {name} {getattr(then, name)}, and now it is {getattr(now, name)}: "
                "leave the flag out, or begin a new run"
            )
    if (saved.labels.names, saved.labels.values) != (card.labels.names, card.labels.values):
        raise UserError(
            f"--resume: the run was trained on other classes, {saved.labels.describe()}, and now they are "
            f"{card.labels.describe()}: put the masks back, or begin a new run"
        )
    return then


def _datasets(
    config: TrainConfig, card: Card, split: Split, template: Checkpoint
) -> tuple[SegmentationDataset, SegmentationDataset]:
    """The training and the validation part. They share the memory for decoded images by their numbers."""
    side = template.preprocessing.size
    cuttings: tuple[Cutting, Cutting] = Whole(), Whole()
    if template.preprocessing.mode == "tile":
        strength = AUGMENTATIONS[config.augment]
        patch = patch_side_of(side) if strength is not None and strength.interpolates else side
        crops = Crops(card.sizes(split.train), side, config.foreground_crops, config.seed, patch)
        cuttings = crops, Grid(card.sizes(split.val), side)
    share = int(CACHE_SHARE * machine_memory() / (len(split.train) + len(split.val)))
    train_data, val_data = (
        SegmentationDataset(pairs, template.preprocessing, template.labels, cutting, share * len(pairs))
        for pairs, cutting in zip((split.train, split.val), cuttings, strict=True)
    )
    return train_data, val_data


def _shares(card: Card, train: list[Pair]) -> list[float]:
    """The share of each class in the pixels of the training part."""
    counts = card.contents_of(train).sum(0)
    return (counts / max(1, counts.sum())).tolist()


def _reading_seconds(dataset: SegmentationDataset, config: TrainConfig) -> float:
    """How long it takes to read the whole part from disk, as the first sample tells."""
    if not len(dataset):
        return 0.0
    start = time.monotonic()
    dataset[0]
    return (time.monotonic() - start) * len(dataset.pairs) / (config.workers or default_workers())


def _batch_size(
    config: TrainConfig,
    saved: Checkpoint | None,
    template: Checkpoint,
    model: torch.nn.Module,
    samples: int,
    compute: Compute,
    world: World,
    console: Console,
) -> int:
    """Of each process: as told, as found before the run was interrupted, or what suits the memory and the GPU."""
    most = max(1, -(-samples // world.count))
    if config.batch_size:
        return min(config.batch_size, most)
    if saved and saved.resume:
        return int(saved.resume["batch_size"])
    usual = min(compute.usual(CPU_TRAIN_BATCH, GPU_PREDICT_BATCH), most)
    if config.deterministic or compute.device.type == "mps":
        return usual
    size = template.preprocessing.size
    shape = (template.model.in_channels, size, size)
    if compute.device.type == "cpu":
        found = world.lowest(cpu_batch_size(template.model, shape, usual, config.gradient_checkpointing))
        if found < usual:
            console.say(f"Memory is short: batches of {found} instead of {usual}")
        return found
    console.say("Trying which batch size is the fastest")
    optimizer = partial(
        make_optimizer, config.optimizer, lr=LRS[config.optimizer], weight_decay=0.0, device=compute.device
    )
    throughput = trial(model.to(compute.device), compute, shape, template.model.num_classes, optimizer)
    return world.lowest(fastest_batch_size(throughput, min(MOST_GPU_BATCH, most)))


def _check_unfinished(trainer: Trainer, folder: Path) -> None:
    """Raises UserError where a run that is to go on has come to its end."""
    if (folder / "metrics.json").exists() and not trainer.may_go_on():
        raise UserError(
            f"{folder} has been trained to its end, {counted(trainer.progress.epoch - 1, 'epoch')}: to train on, give "
            "it more with --epochs, --max-time or --patience beside --resume"
        )


def _plan(trainer: Trainer, template: Checkpoint, card: Card, folder: Path) -> list[str]:
    """What the run will do, in words."""
    config, budget, preprocessing = trainer.config, trainer.budget, template.preprocessing
    learner, world = trainer.learner, trainer.world
    usual = "" if config.width or config.init else f" (--width is usually that on a {learner.compute.kind})"
    limits = [counted(budget.epochs, "epoch")] if budget.epochs else []
    limits += [f"at most {duration(config.max_time)}"] if config.max_time else []
    limits += [f"or until {counted(config.patience, 'epoch')} bring nothing"] if config.patience else []
    side, explained = preprocessing.size, card.mode(config.mode, trainer.train_data.pairs, preprocessing.size)[1]
    seen = f"Images are stretched to {side}x{side}"
    if preprocessing.mode == "tile":
        seen = (
            f"{len(trainer.train_data):,} crops of {side}x{side} an epoch ({config.foreground_crops:.0%} on foreground)"
        )
    processes = f", {world.count} processes" if world.count > 1 else ""
    return [
        *([explained] if explained else []),
        f"Network {template.model.describe()}, {parameter_count(learner.model):,} parameters{usual}",
        f"{seen}, {preprocessing.describe_intensity()}; batches of {trainer.batch_size * world.count}; "
        f"augmentation {config.augment}",
        f"Loss {config.loss}, {config.optimizer}, learning rate {learner.lr:g}, {config.schedule}",
        f"Computing on {learner.compute.describe()}{processes}",
        f"Training for {', '.join(limits)}, into {folder}",
    ]


def _worth_a_look(card: Card) -> list[str]:
    if not card.problems:
        return []
    return ["Worth a look (unet check shows all):", *listed(card.problems, 2)]


def _going_on(trainer: Trainer, saved: Checkpoint | None, card: Card, folder: Path) -> list[str]:
    if saved is None or saved.resume is None:
        return [f"{folder} was interrupted before anything was saved: it begins again"]
    progress = trainer.progress
    said = [
        f"Going on with {folder} in epoch {progress.epoch}, after {counted(trainer.learner.step, 'step')} and "
        f"{duration(saved.resume['seconds'])}"
    ]
    if saved.training.get("data_fingerprint") != card.fingerprint():
        said.append("The images or masks have changed since: it goes on with them as they are now")
    return said
