"""All that a run needs before its first step: folder -> card -> samples -> network, fresh or as it was saved."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from unet_cli.ahead import default_workers
from unet_cli.call import Call, TrainedToItsEnd
from unet_cli.checkpoint import LEARNED, VALIDATED, Checkpoint, load_checkpoint
from unet_cli.config import (
    CPU_TRAIN_BATCH,
    GPU_PREDICT_BATCH,
    LRS,
    MAX_PASSES,
    METRICS,
    MODEL_SETTINGS,
    ModelConfig,
    Preprocessing,
    TrainConfig,
    plain,
)
from unet_cli.console import Console, counted, duration
from unet_cli.data.augment import AUGMENTATIONS
from unet_cli.data.card import Card
from unet_cli.data.cutting import Crops, Cutting, Grid, Whole, patch_side_of
from unet_cli.data.dataset import CACHE_SHARE, SegmentationDataset
from unet_cli.data.examine import examine
from unet_cli.data.layout import Layout
from unet_cli.data.source import MASKS_BESIDE, Pair, spread
from unet_cli.data.split import Split, draw_fold, draw_split, group_names, read_split
from unet_cli.data.stretching import Mode, mode_for, stretch_cost
from unet_cli.errors import UserError, is_out_of_memory
from unet_cli.loss_names import parse_loss
from unet_cli.models import MODELS, Network, build_model, resolved
from unet_cli.models.encoders import EncoderUNet, encoder_state
from unet_cli.models.trainable import check_trainable, only_whole
from unet_cli.plan import describe_plan, describe_resumed, unheld_classes, worth_a_look
from unet_cli.processes import processes_here
from unet_cli.runs.plan import measuring_seconds, planned
from unet_cli.system.memory import total_memory
from unet_cli.training.budget import Budget
from unet_cli.training.learner import Learner
from unet_cli.training.loop import Trainer
from unet_cli.training.losses import class_weights_for, loss_for
from unet_cli.training.memory import cpu_batch_size, fastest_batch_size, trial
from unet_cli.training.optimizers import make_optimizer
from unet_cli.training.plan import Plan
from unet_cli.training.progress import Progress
from unet_cli.training.record import Record, independent, new_run_folder
from unet_cli.training.saving import Saver

MOST_GPU_BATCH = 128
MAX_READING = 0.5  # of --max-time, beyond which it is said
# By which torch refuses a state that is not an optimizer's or a network's.
LOADING_ERRORS = (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError)


def prepare(call: Call) -> tuple[Trainer, Saver]:
    """Everything up to the first step. Raises UserError where data, settings and saved run don't go together."""
    config, console = call.config, call.console
    call.check_lasting()
    with call.world.first_before_others():
        card = examined(config, call.layout, console)
    if call.saved:
        card = replace(card, labels=replace(card.labels, background=call.saved.labels.background))
    _say_where_reading_took_long(call)
    split = _split(call, card)
    if not split.val and (config.patience is not None or config.schedule == "plateau"):
        waits = "--schedule plateau" if config.patience is None else "--patience"
        raise UserError(f"{waits} waits for a better validation score, and there is no validation part: leave it out")
    begin_with = call.again or config.init
    initial = call.saved or (load_checkpoint(begin_with) if begin_with else None)
    network = _network(call, card, initial)
    decided = call.world.first(_decided(call, card, split, *network) if call.world.is_first else None)
    assert decided is not None
    mode, why_mode, plan, network_config = decided
    call = replace(call, compute=replace(call.compute, channels_last=plan.channels_last))
    if plan.threads:
        torch.set_num_threads(min(plan.threads, torch.get_num_threads()))
    template = _template(call, card, split, mode, network_config)
    torch.manual_seed(config.seed)
    model = build_model(template.model, config.gradient_checkpointing)
    if initial:
        model.load_state_dict(initial.weights)
    else:
        model.start_at(_shares(card, split.train))
        if config.encoder_weights:
            _load_encoder(call, model, config.encoder_weights)
    context = model.geometry.margin if template.preprocessing.mode == "tile" else 0
    cut = _cutting(config, card.sizes(split.train), template, context, plan.repeats)
    train_data, val_data = _datasets(config, card, split, template, context, plan, cut)
    batch_size = _batch_size(call, template, model, train_data, val_data)
    budget = _budget(call, train_data, val_data, batch_size, card.sizes(val_data.pairs), plan)
    weights_of = class_weights_for(config.class_weights, _shares(card, split.train))
    loss = loss_for(config.loss, template.model.num_classes, weights_of, card.labels.scored.start)
    factor = MODELS[config.model].lr_factor
    learner = Learner(model, loss, config, call.compute, call.world, console, batch_size, context, factor)
    trainer = Trainer(
        learner, train_data, val_data, config, batch_size, budget, call.world, console, plan=plan, cut=cut
    )
    if call.state:
        _load_learner(call, learner)
        trainer.go_on_from(Progress.from_plain(call.state["progress"]))
        if trainer.progress.lacks_score:
            assert call.folder is not None
            trainer.rescore_best(load_checkpoint(call.folder / "best.pth").weights)
    record = _record(call, trainer, template, split)
    unused = len(card.pairs("train") + card.pairs("val")) - len(split.train + split.val)
    template = replace(template, training=template.training | plain(record.config))
    console.say(
        *template.data,
        f"  split    {len(split.train)} for training, {len(split.val)} for validation ({split.how})",
        *unheld_classes(card, split),
        *worth_a_look(card),
        *describe_plan(trainer, template, why_mode, record.folder),
        *(describe_resumed(call, trainer, template, unused) if record.is_written() else []),
    )
    return trainer, Saver(record, template, config.save_every)


def _say_where_reading_took_long(call: Call) -> None:
    """Of the time that --max-time allows: intake is never cut short."""
    limit, took = call.config.max_time, time.monotonic() - call.started
    if limit and not call.saved and took > MAX_READING * limit:
        call.console.say(
            f"Reading the data has taken {duration(took)} of the {duration(limit)} that --max-time allows, and is "
            "never cut short: a run on the same data begins at once now, since what was read is remembered"
        )


def _load_learner(call: Call, learner: Learner) -> None:
    """Go on with the optimizer and the averaged weights that were saved. Raises UserError."""
    try:
        learner.load_state(call.state["learner"])
    except LOADING_ERRORS as error:
        if is_out_of_memory(error):
            raise
        assert call.folder is not None
        raise UserError(
            f"{call.folder / 'last.pth'} is damaged: its optimizer's state is not that of this network ({error}): "
            f"restore it, or begin a new run from its best weights with --init {call.folder / 'best.pth'}"
        ) from error


def examined(config: TrainConfig, layout: Layout, console: Console) -> Card:
    """The data set card. Raises UserError where training can't be."""
    card = examine(layout, config, console)
    card.refuse()
    if not card.contents[:, 1:].any():
        raise UserError(
            f"{card.layout.root}: no mask holds a pixel of foreground, so there is nothing to learn: look at the "
            "masks, or say which value is which with --classes FILE.toml"
        )
    return card


def _split(call: Call, card: Card) -> Split:
    """As a file says, by the folders, or drawn. Raises UserError where what was asked for doesn't go together."""
    config, pairs = call.config, card.pairs("train") + card.pairs("val")
    if call.folder is not None:
        return read_split(call.folder, pairs, leave_out=False, may_be_more=True)
    if config.split is not None:
        return read_split(config.split, pairs, config.skip_bad)
    return drawn_split(config, card)


def drawn_split(config: TrainConfig, card: Card) -> Split:
    """By the folders, or drawn. Raises UserError where what was asked for doesn't go together."""
    train, val = card.pairs("train"), card.pairs("val")
    if val:
        if config.folds is not None or config.group_by is not None:
            raise UserError(
                f"{card.layout.root} has a val folder, which is the split: "
                "leave out --folds, --fold and --group-by, or move its pairs to train"
            )
        return Split(train, val, "a folder of its own")
    groups, contents = group_names(train, config.group_by), card.contents_of(train)
    if config.folds is not None:
        assert isinstance(config.fold, int)  # each of all folds is a run of its own
        return draw_fold(train, contents, groups, config.folds, config.fold, config.seed)
    return draw_split(train, contents, groups, config.val_fraction, config.seed)


def _decided(
    call: Call, card: Card, split: Split, model: ModelConfig, is_free: bool
) -> tuple[Mode, str, Plan, ModelConfig]:
    """The mode and why, the plan, and the network with the width that it gives. is_free: see `planned`.

    Raises UserError where the network can't learn from such samples: before anything is tried on it.
    """
    mode, why_mode = _mode(call, card)
    check_trainable(model, call.config.size, mode)
    return mode, why_mode, *planned(call, card, split, mode, model, is_free)


def _mode(call: Call, card: Card) -> tuple[Mode, str]:
    """As the run that is gone on with has it, or as `mode_for` finds it; and why. Raises UserError."""
    config = call.config
    if call.saved:
        return call.saved.preprocessing.mode, ""
    if config.mode == "tile":
        return "tile", ""
    whole_only = config.model if only_whole(config.model) else ""
    return mode_for(config.mode, stretch_cost(card, config.size, config, call.console), whole_only)


def _network(call: Call, card: Card, initial: Checkpoint | None) -> tuple[ModelConfig, bool]:
    """Flags first, then the weights to begin with, then the network's defaults; and whether its width is left open.

    Raises UserError where there is no such network, it doesn't take what is said, or the weights are of another.
    """
    config = call.config
    asked = config.network_settings
    if initial and initial.model.name == config.model:
        asked = {name: getattr(initial.model, name) if value is None else value for name, value in asked.items()}
    # A network for colour takes gray images too.
    in_channels = max(card.in_channels, initial.model.in_channels) if initial else card.in_channels
    model = ModelConfig(name=config.model, in_channels=in_channels, num_classes=card.labels.num_classes, **asked)
    model = resolved(model, config.size)
    if initial and (found := resolved(initial.model, config.size)) != model:  # an older file says less
        begun_with = f"--resume {call.folder}" if call.saved or call.again else f"--init {config.init}"
        here, there = plain(model), plain(found)
        differing = [key for key in here if here[key] != there[key]]
        if model.name != initial.model.name:
            raise UserError(
                f"{begun_with} holds a network {initial.model.name}, and --model is {model.name}: give --model "
                f"{initial.model.name}"
            )
        differences = [f"{MODEL_SETTINGS.get(key, key)} {there[key]} there, {here[key]} here" for key in differing]
        raise UserError(f"{begun_with} holds another network: {', '.join(differences)}")
    return model, asked["base_channels"] is None


def _template(call: Call, card: Card, split: Split, mode: Mode, model: ModelConfig) -> Checkpoint:
    """The checkpoint of this run, still without weights.

    Raises UserError where a run to go on with was prepared for other images.
    """
    config = call.config
    preprocessing = card.preprocessing(split.train, config.size, config.normalize, model.in_channels, mode)
    if call.saved:
        preprocessing = _same_images(call.saved, preprocessing, card)
    return Checkpoint(
        model=model,
        preprocessing=preprocessing,
        labels=card.labels,
        weights={},
        training={
            "device_kind": call.compute.kind,
            "data_fingerprint": card.fingerprint(),
            LEARNED: card.image_marks(split.train),
            VALIDATED: card.image_marks(split.val),
            MASKS_BESIDE: list(card.layout.beside),
        },
        data=card.describe(),
    )


def _load_encoder(call: Call, model: Network, weights: str) -> None:
    """The first process fetches what isn't on this machine yet. Raises UserError where the weights can't be had."""
    if not isinstance(model, EncoderUNet):
        fitting = ", ".join(name for name in MODELS if name.endswith("-unet"))
        raise UserError(
            f"--encoder-weights is for networks with an encoder of torchvision, {fitting}; not for {call.config.model}"
        )
    with call.world.first_before_others():
        model.load_encoder(encoder_state(model.name, weights))


def _same_images(saved: Checkpoint, now: Preprocessing, card: Card) -> Preprocessing:
    """The run's own preprocessing, whose statistics may differ where images have changed. Raises UserError where the
    network would see something else."""
    then = saved.preprocessing
    for name in ("dtype", "keep_alpha", "files", "pages"):
        if getattr(then, name) != getattr(now, name):
            raise UserError(
                f"--resume: the run was trained on images of {name} {getattr(then, name)}, and now it is "
                f"{getattr(now, name)}: put the images back, or begin a new run"
            )
    if (saved.labels.names, saved.labels.values) != (card.labels.names, card.labels.values):
        raise UserError(
            f"--resume: the run was trained on other classes, {saved.labels.describe()}, and now they are "
            f"{card.labels.describe()}: put the masks back, or begin a new run"
        )
    return then


def _cutting(
    config: TrainConfig, sizes: list[tuple[int, int]], template: Checkpoint, context: int, repeats: int
) -> Callable[[int], Crops]:
    """A function from a side to the training samples of that side, with the surroundings that a warp brings in.

    sizes: (H, W) of each pair. context: pixels around a crop that come with it. repeats: see Crops.
    """
    size, strength = template.preprocessing.size, AUGMENTATIONS[config.augment]
    stretched = size if template.preprocessing.mode == "resize" else None

    def cut(side: int) -> Crops:
        seen = side + 2 * context
        has_surroundings = side != stretched and strength is not None and strength.interpolates
        patch = patch_side_of(seen) if has_surroundings else seen
        return Crops(sizes, side, config.foreground_crops, config.seed, patch, stretched, repeats)

    return cut


def _datasets(
    config: TrainConfig,
    card: Card,
    split: Split,
    template: Checkpoint,
    context: int,
    plan: Plan,
    cut: Callable[[int], Crops],
) -> tuple[SegmentationDataset, SegmentationDataset]:
    """The training part, and what is looked at of the validation part. They share the memory for decoded images by
    their numbers.

    context: pixels around a tile that come with it.
    """
    size, needs_objects = template.preprocessing.size, any(name == "paper" for _, name in parse_loss(config.loss))
    val = spread(split.val, plan.val_images or len(split.val))
    of_val: Cutting = Whole() if template.preprocessing.mode == "resize" else Grid(card.sizes(val), size, context)
    share = int(CACHE_SHARE * total_memory() / processes_here() / (len(split.train) + len(val)))
    train_data, val_data = (
        SegmentationDataset(pairs, template.preprocessing, template.labels, cutting, share * len(pairs), with_numbers)
        for pairs, cutting, with_numbers in ((split.train, cut(size), needs_objects), (val, of_val, False))
    )
    return train_data, val_data


def _shares(card: Card, train: list[Pair]) -> list[float]:
    """The share of each class in the pixels of the training part."""
    counts = card.contents_of(train).sum(0)
    return (counts / max(1, counts.sum())).tolist()


def _measuring_seconds(dataset: SegmentationDataset, config: TrainConfig, sizes: Sequence[tuple[int, int]]) -> float:
    """How long it takes to read the whole part from disk, once for the network and once for the page, as the first
    sample tells, and to measure it. sizes: of its images."""
    if not len(dataset):
        return 0.0
    start = time.monotonic()
    dataset[0]
    reading = 2 * (time.monotonic() - start) * len(dataset.pairs)
    reading /= config.workers or default_workers()
    return reading + measuring_seconds(sizes, len(dataset.labels.scored), config.workers)


def _batch_size(call: Call, template: Checkpoint, model: Network, *data: SegmentationDataset) -> int:
    """Of each process: as told, as found before the run was interrupted, or what suits the memory and the GPU."""
    config, compute, world = call.config, call.compute, call.world
    most = max(1, -(-len(data[0]) // world.count))
    if config.batch_size or call.state:
        return min(config.batch_size or call.state["batch_size"], most)
    usual = min(compute.usual(CPU_TRAIN_BATCH, GPU_PREDICT_BATCH), most)
    if config.deterministic or compute.device.type == "mps":
        return usual
    size = template.preprocessing.size
    shape = (template.model.in_channels, size, size)
    if compute.device.type == "cpu":
        reserved = sum(part.bytes_to_keep() for part in data)
        found = world.lowest(cpu_batch_size(template.model, shape, usual, config.gradient_checkpointing, reserved))
        if found < usual:
            call.console.say(f"Memory is short: batches of {found} instead of {usual}")
        return found
    call.console.say("Trying which batch size is the fastest")
    name = config.optimizer
    optimizer = partial(make_optimizer, name, lr=LRS[name], weight_decay=0.0, device=compute.device)
    throughput = trial(model.to(compute.device), compute, shape, template.model.num_classes, optimizer)
    return world.lowest(fastest_batch_size(throughput, min(MOST_GPU_BATCH, most)))


def _budget(
    call: Call,
    train_data: SegmentationDataset,
    val_data: SegmentationDataset,
    batch_size: int,
    sizes: Sequence[tuple[int, int]],
    plan: Plan,
) -> Budget:
    """sizes: (H, W) of the validation images."""
    config, start = call.config, call.started - call.state.get("seconds", 0.0)
    return Budget(
        epochs=config.epochs or (None if config.max_time else math.ceil(plan.epochs(MAX_PASSES))),
        steps_per_epoch=-(-len(train_data) // (batch_size * call.world.count)),
        start=start,
        end=start + config.max_time if config.max_time else None,
        measuring_seconds=_measuring_seconds(val_data, config, sizes),
    )


def _record(call: Call, trainer: Trainer, template: Checkpoint, split: Split) -> Record:
    """With a new folder, or that of the run that is gone on with. Raises UserError where that has come to its end."""
    config, world = call.config, call.world
    folder = call.folder
    if folder is None:
        folder = world.first(new_run_folder(config.output, config.name, call.layout.root) if world.is_first else None)
    elif world.first((folder / METRICS).exists()) and not trainer.may_go_on():
        raise TrainedToItsEnd(
            f"{folder} has been trained to its end, {counted(trainer.progress.epoch - 1, 'epoch')} in "
            f"{duration(call.state.get('seconds', 0))}: to train on, give more in all with --epochs, --max-time or "
            "--patience beside --resume"
        )
    assert folder is not None
    resolved = replace(
        independent(config),
        width=template.model.base_channels,
        batch_size=trainer.batch_size,
        precision=call.compute.precision,
        mode=template.preprocessing.mode,
        lr=trainer.learner.lr,
        weight_decay=trainer.learner.weight_decay,
        epochs=config.epochs,
    )
    return Record(folder, resolved, split, call.compute.describe(), template.training["data_fingerprint"])
