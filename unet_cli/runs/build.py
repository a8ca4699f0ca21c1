"""Building a run from plain values: the checkpoint template, and the network with its loader and schedule."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from unet_cli.checkpoint import DIVIDED, LEARNED, VALIDATED, Checkpoint
from unet_cli.config.data import Preprocessing
from unet_cli.config.hardware import CPU_TRAIN_BATCH, GPU_PREDICT_BATCH
from unet_cli.config.losses import parse_loss
from unet_cli.config.model import ModelConfig
from unet_cli.config.training import LRS, MAX_PASSES, TrainConfig
from unet_cli.data.check.card import Card
from unet_cli.data.check.normalization import preprocessing_of
from unet_cli.data.check.stretching import Mode
from unet_cli.data.samples.augment import Augmentation, augmentation_of
from unet_cli.data.samples.blocks import ranges_in
from unet_cli.data.samples.cutting import Crops, Cutting, Grid, Whole, patch_of
from unet_cli.data.samples.dataset import CACHE_SHARE, SegmentationDataset
from unet_cli.data.samples.keeping import DiskCopies
from unet_cli.data.samples.split import Split
from unet_cli.data.source import CHANNEL_WORDS, CLASS_FOLDERS, MASKS_BESIDE, Pair, spread
from unet_cli.errors import UserError
from unet_cli.models import MODELS, Geometry, Network
from unet_cli.runs.patch import sides_for, smaller
from unet_cli.runs.plan import measuring_seconds
from unet_cli.runs.resume import Call
from unet_cli.system.distributed import processes_here
from unet_cli.system.memory import total_memory
from unet_cli.system.prefetch import default_workers
from unet_cli.training.batch_size import cpu_batch_size, fastest_batch_size, trial
from unet_cli.training.budget import Budget
from unet_cli.training.course import Course
from unet_cli.training.loader import TrainLoader
from unet_cli.training.losses.loss import class_weights_for, loss_for
from unet_cli.training.optimizers import make_optimizer
from unet_cli.training.plan import Plan
from unet_cli.training.run import Run
from unet_cli.training.step import Learner

MAX_GPU_BATCH = 128


def template_of(call: Call, card: Card, split: Split, mode: Mode, model: ModelConfig) -> Checkpoint:
    """The checkpoint of this run, without weights. The call's orientation must not be 'auto'.

    Raises UserError where a resumed run was prepared for other images.
    """
    config = call.config
    sides = sides_for(card, split.train, model, config.size, call.compute.kind)
    patch = sides if card.is_volumetric else ()
    # What a resumed run was normalised by is kept, so that nothing has to be measured.
    normalize = "dataset" if call.saved else config.normalize
    slices = config.slices or 1
    preprocessing = preprocessing_of(card, split.train, config.size, normalize, model.in_channels, mode, patch, slices)
    if call.saved:
        preprocessing = _same_images(call.saved, preprocessing, card)
    assert config.orientation != "auto"
    preprocessing = replace(preprocessing, orientation=config.orientation)
    return Checkpoint(
        model=model,
        preprocessing=preprocessing,
        labels=card.labels,
        weights={},
        training={
            "device_kind": call.compute.kind,
            "data_fingerprint": card.fingerprint(),
            # Pages beside held-out ones are nearly these, and what a volume's part is trained on says much of the rest.
            LEARNED: card.image_marks(split.train + split.gap) + list(ranges_in(call.divided)),
            VALIDATED: card.image_marks(split.val),
            DIVIDED: list(call.divided),
            MASKS_BESIDE: list(card.layout.beside),
            CHANNEL_WORDS: list(card.layout.channels),
            CLASS_FOLDERS: card.layout.class_folders,
        },
        data=card.describe(),
    )


def _same_images(saved: Checkpoint, now: Preprocessing, card: Card) -> Preprocessing:
    """The preprocessing of a resumed run, whose statistics may differ from today's images. Raises UserError where the
    network's input or the classes would change."""
    then = saved.preprocessing
    for name in ("dtype", "keep_alpha", "files", "pages", "slices"):
        if getattr(then, name) != getattr(now, name):
            raise UserError(
                f"--resume: the run was trained on images with {name} {getattr(then, name)}, and now it is "
                f"{getattr(now, name)}: restore the images, or start a new run"
            )
    if any(
        getattr(saved.labels, name) != getattr(card.labels, name)
        for name in ("names", "values", "overlapping", "cores")
    ):
        raise UserError(
            f"--resume: the run was trained on other classes, {saved.labels.describe()}, and now they are "
            f"{card.labels.describe()}: restore the masks, or start a new run"
        )
    return then


def build_run(call: Call, card: Card, split: Split, template: Checkpoint, plan: Plan, model: Network) -> Run:
    """The run that trains `model` by `plan`, with the preprocessing of the template."""
    config = call.config
    # In tile mode the surroundings of a crop are read from the image; stretched images are padded by reflection.
    context = model.geometry.margin if template.preprocessing.mode == "tile" else 0
    cut = _cutting(config, card.network_sizes(split.train), template, context, model.geometry, plan.repeats)
    train_data, val_data = _datasets(call, card, split, template, context, plan, cut)
    batch_size = _batch_size(call, template, model, train_data, val_data)
    budget = _budget(call, train_data, val_data, batch_size, card.sizes(val_data.pairs), plan)
    labels = card.labels
    if labels.overlapping and config.class_weights != "none":
        raise UserError(
            f"--class-weights weigh classes against each other, and {', '.join(labels.names[1:])} overlap: leave it out"
        )
    class_weights = class_weights_for(config.class_weights, class_shares(card, split.train))
    first = labels.scored.start
    loss = loss_for(config.loss, labels.num_classes, class_weights, first, labels.overlapping, labels.cores)
    factor = MODELS[config.model].lr_factor
    learner = Learner(model, loss, config, call.compute, call.world, call.console, batch_size, context, factor)
    loader = TrainLoader(
        train_data,
        plan,
        _augmentation(config, template),
        batch_size,
        config.seed,
        call.compute.device,
        cut,
        context,
        config.workers,
        call.world,
    )
    course = Course(
        plan,
        budget,
        config.schedule or ("cooldown" if plan.is_open else "cosine"),
        learner.lr,
        size=template.preprocessing.sides[-1],
        dimensions=len(template.preprocessing.sides),
        samples=len(train_data),
        val_samples=len(val_data),
        step_samples=batch_size * call.world.count,
        patience=config.patience,
    )
    return Run(learner, loader, val_data, course)


def _augmentation(config: TrainConfig, template: Checkpoint) -> Augmentation | None:
    preprocessing = template.preprocessing
    return augmentation_of(config.augment, preprocessing.orientation, preprocessing.mirrors, preprocessing.sides)


def _cutting(
    config: TrainConfig,
    sizes: list[tuple[int, ...]],
    template: Checkpoint,
    context: int,
    geometry: Geometry,
    repeats: int,
) -> Callable[[int], Crops]:
    """A function from a crop side to the training crops of that side, including the surroundings that a warp moves in.

    sizes: (H, W) of each pair, (D, H, W) of volumes. context: pixels around a crop that the network needs. repeats: see
    Crops.
    """
    full, size = template.preprocessing.sides, template.preprocessing.size
    strength = _augmentation(config, template)
    stretched = size if template.preprocessing.mode == "resize" else None

    def cut(side: int) -> Crops:
        sides = smaller(full, side, geometry)
        seen = tuple(length + 2 * context for length in sides)
        # A whole stretched image has no surroundings to read; a crop has, and a warp would show its border otherwise.
        has_surroundings = side != stretched and strength is not None and strength.interpolates
        patch = patch_of(seen) if has_surroundings else seen
        return Crops(sizes, sides, config.foreground_crops, config.seed, patch, stretched, repeats)

    return cut


def _datasets(
    call: Call,
    card: Card,
    split: Split,
    template: Checkpoint,
    context: int,
    plan: Plan,
    cut: Callable[[int], Crops],
) -> tuple[SegmentationDataset, SegmentationDataset]:
    """The training data, and the part of the validation data that the plan uses. They share the memory for decoded
    images in proportion to their number, and the disk for copies of volumes beyond that.

    context: pixels around a tile that the network needs.
    """
    sides, losses = template.preprocessing.sides, parse_loss(call.config.loss)
    needs_objects = any(name == "paper" for _, name in losses)
    val = spread(split.val, plan.val_images or len(split.val))
    is_whole, val_sizes = template.preprocessing.mode == "resize", card.network_sizes(val)
    val_cutting: Cutting = Whole() if is_whole else Grid(val_sizes, sides, context)
    # Each process caches its own samples, so they share the memory of the machine.
    share = int(CACHE_SHARE * total_memory() / processes_here() / (len(split.train) + len(val)))
    copies = DiskCopies(call.console.say, processes_here())
    train_data, val_data = (
        SegmentationDataset(
            pairs,
            template.preprocessing,
            template.labels,
            cutting,
            share * len(pairs),
            with_numbers,
            stored=card.sizes(pairs) if card.is_volumetric else None,
            copies=copies,
        )
        for pairs, cutting, with_numbers in ((split.train, cut(sides[-1]), needs_objects), (val, val_cutting, False))
    )
    return train_data, val_data


def class_shares(card: Card, train: list[Pair]) -> list[float]:
    """Share of each class in the pixels of the training part."""
    return [share for _, share in card.shares(train)]


def _measuring_seconds(dataset: SegmentationDataset, config: TrainConfig, sizes: Sequence[tuple[int, ...]]) -> float:
    """Estimated seconds to read the whole part from disk twice, for the network and for the report, extrapolated from
    the first sample, and to evaluate it. sizes: of its images."""
    if not len(dataset):
        return 0.0
    start = time.monotonic()
    dataset[0]
    reading = 2 * (time.monotonic() - start) * len(dataset.pairs)
    reading /= config.workers or default_workers()
    return reading + measuring_seconds(sizes, len(dataset.labels.scored), config.workers)


def _batch_size(call: Call, template: Checkpoint, model: Network, *data: SegmentationDataset) -> int:
    """Batch size of each process: --batch-size, else the resumed run's, else the largest that fits (CPU) or the
    smallest near-fastest one (GPU)."""
    config, compute, world = call.config, call.compute, call.world
    limit = max(1, -(-len(data[0]) // world.count))
    if config.batch_size or call.state:
        return min(config.batch_size or call.state["batch_size"], limit)
    usual = min(compute.usual(CPU_TRAIN_BATCH, GPU_PREDICT_BATCH), limit)
    # Timing isn't reproducible, so a deterministic run takes the default.
    if config.deterministic or compute.device.type == "mps":
        return usual
    shape = (template.model.in_channels, *template.preprocessing.sides)
    if compute.device.type == "cpu":
        reserved = sum(part.bytes_to_keep() for part in data)
        fitting = world.lowest(cpu_batch_size(template.model, shape, usual, config.gradient_checkpointing, reserved))
        if fitting < usual:
            call.console.say(f"Little free memory: batch size {fitting} instead of {usual}")
        return fitting
    call.console.say("Searching for the fastest batch size")
    name = config.optimizer
    optimizer = partial(make_optimizer, name, lr=LRS[name], weight_decay=0.0, device=compute.device)
    throughput = trial(model.to(compute.device), compute, shape, template.model.out_channels, optimizer)
    return world.lowest(fastest_batch_size(throughput, min(MAX_GPU_BATCH, limit)))


def _budget(
    call: Call,
    train_data: SegmentationDataset,
    val_data: SegmentationDataset,
    batch_size: int,
    sizes: Sequence[tuple[int, ...]],
    plan: Plan,
) -> Budget:
    """The budget of the run. sizes: of the validation images."""
    # A resumed run started as long ago as it has been running, so that --max-time counts all its parts.
    config, start = call.config, call.started - call.state.get("seconds", 0.0)
    return Budget(
        epochs=config.epochs or (None if config.max_time else math.ceil(plan.epochs(MAX_PASSES))),
        steps_per_epoch=-(-len(train_data) // (batch_size * call.world.count)),
        start=start,
        end=start + config.max_time if config.max_time else None,
        measuring_seconds=_measuring_seconds(val_data, config, sizes),
    )
