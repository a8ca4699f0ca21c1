"""Planning of a run within its time, from the measured cost of training on this machine."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

import torch

from unet_cli.checkpoint import Checkpoint
from unet_cli.config.hardware import CPU_TRAIN_BATCH
from unet_cli.config.model import ModelConfig
from unet_cli.config.training import TrainConfig
from unet_cli.data.check.card import Card
from unet_cli.data.check.stretching import Mode
from unet_cli.data.samples.split import Split
from unet_cli.data.source import Pair
from unet_cli.models import usual_width, weightless
from unet_cli.models.cost import multiply_adds
from unet_cli.models.trainable import is_trainable
from unet_cli.runs.patch import sides_for, smaller
from unet_cli.runs.resume import Call
from unet_cli.system.console import duration
from unet_cli.system.device import Compute, keep_freed_memory, same_threads
from unet_cli.system.prefetch import default_workers
from unet_cli.training.batch_size import step_seconds
from unet_cli.training.plan import FORWARD, Plan

# A run on a CPU trains on small crops first, sixteen steps for the price of one, and on larger ones later: (crop side
# as a share of the size, share of the run at which the phase ends). For the same work at width 16, validation Dice (one
# run each) of whole images, crops of 256, of 128 and then 256, of 128 alone: isbi2012 0.931, 0.945, 0.944, 0.947;
# dsb2018 crops of 256 0.871, of 128 and then 256 0.887, of 128 alone 0.892. Long-range context needs larger crops in
# the end.
GROWTH = ((1 / 4, 0.5), (1 / 2, 0.85), (1.0, 1.0))
MIN_WHOLE_STEPS = 20  # minimum steps on whole images at the end of a run; with fewer that phase is left out
MIN_CROP = {2: 64, 3: 24}  # pixels or voxels, by the number of axes: smaller crops hold too little context
# Minimum steps on batches of crops of half the size: a network that would take fewer is too wide for its time. For the
# same work (see `work`), validation Dice at original size (one run each; isbi2012 mean IoU) with width 8, 16, 32; in
# brackets the number of steps of the wider ones:
#   isbi2012       0.798, 0.786 (400), 0.760 (120); width 8 with two fifths of the work 0.787
#   dsb2018        0.943, 0.940 (1,200)
#   cardiac MRI    0.44, 0.19 (130); with three times the work 0.59, 0.27 (400)
#   drawn curves   0.815, 0.789 (130)
# Batches of 2 instead of 4, and so twice as many steps, were worse on dsb2018 (0.905 against 0.930), since batch norm
# has too few images; batches of 8 were equal (0.931), and 2.5 times the learning rate was worse or equal everywhere.
MIN_STEPS = 2400
MIN_WIDTH = {2: 8, 3: 4}  # by the number of axes: a network for volumes doubles it within the first level
NARROW = 8  # a multiply-add costs 1 + NARROW / width: narrow layers are memory-bound
TRIAL_SHARE = 1 / 4  # crop side of a trial, as a share of the size
TRIAL_SECONDS, TRIAL_ROUNDS = 2.0, 3  # limited in time too, since a slow machine has the least to spare
WORTHWHILE = 0.9  # maximum time of an alternative, relative to the default, so that it is faster by more than noise

TRAINING_SHARE = 0.85  # share of the remaining time that is planned for training
VALIDATING = 0.06  # maximum share of the run for validations and their batch norm statistics
FINISHING = 0.02  # maximum share of the run for a single validation
MEASURING = 0.1  # maximum share of the remaining time for evaluating predictions at original size
PIXEL_SECONDS = 2.4e-7  # time of that evaluation for each pixel and class, on one processor
EPOCHS = 40  # epochs of a run with a time limit
STATISTICS, MIN_STATISTICS = 32, 8  # training images for batch norm's statistics
MIN_VALIDATED = 8  # validation images
MIN_VALIDATIONS = 2  # in a run, at any cost: one before the end, so that a run that is killed leaves a best.pth
OTHERS = 0.7  # load average above which other programs are assumed to be computing too

Option = TypeVar("Option")


def planned(
    call: Call, card: Card, split: Split, mode: Mode, model: ModelConfig, is_free: bool
) -> tuple[Plan, ModelConfig]:
    """The plan of a run, and its network with the planned width.

    is_free: whether the width may be chosen, since neither a flag nor initial weights determine it. A resumed run keeps
    its plan, or the defaults of its time where it has none. Timing influences the plan only on a CPU with --max-time
    and without --epochs; in all other cases the same command and seed give the same weights.
    """
    config, compute = call.config, call.compute
    if call.saved:
        return _stored(call.saved, config), model
    if call.like:
        return _stored(call.like, config), _with_width(model, is_free, call.like.model.base_channels)
    model = _with_width(model, is_free, usual_width(model.name, compute.kind))
    # Without --max-time or --patience a run ends on convergence, which only a validation score can tell.
    sides = sides_for(card, split.train, model, config.size, compute.kind)
    images = len(split.train) if mode == "resize" else _images(card, split.train, sides)
    val_images = len(split.val)
    is_open = val_images > 0 and not (config.max_time or config.patience) and config.schedule in (None, "cooldown")
    of_val = _images(card, split.val, sides) / val_images if card.is_volumetric and val_images else 1.0
    plan = Plan() if config.epochs else course(images, val_images, is_open=is_open, of_val=of_val)
    plan = replace(plan, channels_last=compute.channels_last)
    if compute.device.type == "cpu" and config.max_time and not config.epochs:
        plan, model = _timed_plan(call, model, is_free, sides, images, val_images, of_val)
    elif compute.device.type == "cpu":
        plan = replace(plan, **growth(model, sides))
    if config.max_time and split.val:
        count = min(plan.val_images or val_images, _affordable_val_images(call, card, split))
        plan = replace(plan, val_images=count if count < val_images else None)
    return _with_flags(plan, config), model


def _affordable_val_images(call: Call, card: Card, split: Split) -> int:
    """Number of validation images that can be evaluated at original size in a tenth of the remaining time, but at least
    in a hundredth of --max-time, where reading the data took longer."""
    limit = call.config.max_time or math.inf
    remaining = max(limit - (time.monotonic() - call.started), MEASURING * limit)
    of_all = measuring_seconds(card.sizes(split.val), len(card.labels.scored), call.config.workers)
    return max(1, int(MEASURING * remaining / max(of_all, 1e-9) * len(split.val)))


def measuring_seconds(sizes: Iterable[tuple[int, ...]], classes: int, workers: int | None) -> float:
    """Estimated seconds to evaluate predictions at original size. sizes: their (H, W), or (D, H, W)."""
    pixels = sum(map(math.prod, sizes))
    return PIXEL_SECONDS * pixels * classes / (workers or default_workers())


def _with_width(model: ModelConfig, is_free: bool, width: int | None) -> ModelConfig:
    return replace(model, base_channels=width) if is_free else model


def _stored(saved: Checkpoint, config: TrainConfig) -> Plan:
    """The stored plan of a run, adapted to the flags of this call."""
    state = saved.resume or {}
    return _with_flags(Plan.from_plain(state["plan"]) if "plan" in state else Plan(), config)


def _with_flags(plan: Plan, config: TrainConfig) -> Plan:
    """The plan with what flags determine: an end by --epochs or --max-time, and validation after every epoch where
    --patience or --schedule plateau counts epochs."""
    is_open = plan.is_open and config.epochs is None and config.max_time is None
    counts_epochs = config.patience is not None or config.schedule == "plateau"
    return replace(plan, is_open=is_open, validate_every=1 if counts_epochs else plan.validate_every)


def _images(card: Card, pairs: Sequence[Pair], sides: tuple[int, ...]) -> float:
    """Size of these pairs at their own resolution, or of volumes at the network's, in images of the network's size."""
    return sum(map(math.prod, card.network_sizes(pairs))) / math.prod(sides)


def _timed_plan(
    call: Call,
    model: ModelConfig,
    is_free: bool,
    sides: tuple[int, ...],
    images: float,
    val_images: int,
    of_val: float,
) -> tuple[Plan, ModelConfig]:
    """As `planned`, for a run with a time limit."""
    config, count = call.config, call.world.count
    assert config.max_time is not None
    seconds = config.max_time - (time.monotonic() - call.started)
    model, cost = affordable(model, is_free, call.compute, sides, config.batch_size, seconds)
    has_width = model.base_channels is not None
    run = max(1.0, count * TRAINING_SHARE * seconds / (cost.seconds * work(model, sides)))
    plan = replace(
        course(images, val_images, run, of_val=of_val),
        **growth(model, sides, run / count / (config.batch_size or CPU_TRAIN_BATCH)),
        threads=cost.threads,
        channels_last=cost.compute.channels_last,
        reason=f"the width for {duration(config.max_time)} on this machine" if is_free and has_width else "",
    )
    return plan, model


def affordable(
    model: ModelConfig,
    is_free: bool,
    compute: Compute,
    sides: tuple[int, ...],
    batch_size: int | None,
    seconds: float,
) -> tuple[ModelConfig, Cost]:
    """The network, with the width that so many seconds of training allow if it `is_free`, and the cost of training.
    sides: of the network's input. batch_size: None for the usual one."""
    batch_size = batch_size or CPU_TRAIN_BATCH
    if not is_free:
        return model, measured(model, compute, sides, batch_size)
    cost = measured(replace(model, base_channels=narrowest(model.name)), compute, sides, batch_size)
    width = affordable_width(model, cost, sides, batch_size, TRAINING_SHARE * seconds)
    return replace(model, base_channels=width), cost


@dataclass(frozen=True)
class Cost:
    """The cost of training on this machine. seconds: time of a unit of `work`. threads: CPU threads, None: all."""

    compute: Compute
    seconds: float
    threads: int | None = None


def work(model: ModelConfig, sides: tuple[int, ...]) -> float:
    """Work of a training step on one image of these sides, about proportional to its time: the number of multiply-adds,
    with a surcharge for narrow layers."""
    forward = multiply_adds(weightless(model), model.in_channels, sides)
    return forward / FORWARD * (1 + NARROW / (model.base_channels or usual_width(model.name, "GPU") or 64))


@cache
def measured(model: ModelConfig, compute: Compute, sides: tuple[int, ...], batch_size: int) -> Cost:
    """Measure the cost of training a fresh network on noise for about two seconds, in both memory layouts, and with
    fewer threads too where other programs are computing. Cached for the process."""
    keep_freed_memory(compute)
    # Small crops, since a step on whole images could take longer than all of the trial's time.
    small, threads = smallest_crop(model, sides), torch.get_num_threads()
    other_layout = replace(compute, channels_last=not compute.channels_last)
    options = [(layout, count) for layout in (compute, other_layout) for count in (threads, *_fewer_threads(threads))]

    def seconds(option: tuple[Compute, int]) -> float:
        layout, count = option
        torch.set_num_threads(count)
        return step_seconds(model, layout, small, batch_size)

    with same_threads():
        (compute, chosen), step = quickest(options, seconds)
    return Cost(compute, step / batch_size / work(model, small), None if chosen == threads else chosen)


def quickest(options: Sequence[Option], seconds: Callable[[Option], float]) -> tuple[Option, float]:
    """The option that takes the least time, and that time. options: the default first, which another must beat by a
    tenth. seconds: function that runs a trial and returns its time.

    Each is tried three times in turn, the first time as a warm-up; no trial starts after TRIAL_SECONDS.
    """
    # Options alternate, so that a change of the machine's load affects all of them alike.
    end = time.monotonic() + TRIAL_SECONDS
    times: dict[Option, list[float]] = {}
    for option in [*options] * TRIAL_ROUNDS:
        if times and time.monotonic() >= end:
            break
        times.setdefault(option, []).append(seconds(option))
    # The minimum rather than the mean, since other programs can only make a trial slower.
    best = {option: min(trials[1:]) for option, trials in times.items() if len(trials) > 1}
    if options[0] not in best:
        return options[0], min(times[options[0]])
    fastest = min(best, key=best.__getitem__)
    chosen = fastest if best[fastest] < WORTHWHILE * best[options[0]] else options[0]
    return chosen, best[chosen]


def _fewer_threads(threads: int) -> list[int]:
    """Another number of threads to try: as many as the machine's load leaves free; none where it is idle."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    free = max(1, threads - round(load))
    return [free] if load > OTHERS and free < threads else []


def affordable_width(
    model: ModelConfig, cost: Cost, sides: tuple[int, ...], batch_size: int, seconds: float
) -> int | None:
    """The largest width, of the network's default and its halves, with which a run of that many seconds takes MIN_STEPS
    steps on crops of half the size; None where the network has no width."""
    width, least = usual_width(model.name, "GPU"), MIN_WIDTH[len(sides)]
    while width is not None and width > least:
        # A crop of half the side has a quarter of the pixels, or an eighth of the voxels.
        step = batch_size * cost.seconds * work(replace(model, base_channels=width), sides) / 2 ** len(sides)
        if step * MIN_STEPS <= seconds:
            break
        width = max(least, width // 2)
    return width


def narrowest(name: str) -> int | None:
    """Width of the network in a trial; None where it has no width."""
    width = usual_width(name, "GPU")
    return width if width is None else max(min(MIN_WIDTH[2], width), width // 4)


def smallest_crop(model: ModelConfig, sides: tuple[int, ...]) -> tuple[int, ...]:
    """Sides of the crops of a trial, in pixels or voxels."""
    size, geometry = sides[-1], weightless(model).geometry
    crops = [smaller(sides, side, geometry) for side in (int(TRIAL_SHARE * size), size // 2, size)]
    return next(crop for crop in crops if _is_trainable_on(model, crop) or crop == sides)


def growth(model: ModelConfig, sides: tuple[int, ...], steps: float = math.inf) -> dict[str, Any]:
    """The `sides` and `until` of a plan. steps: number of steps at full size for which there is time; with few of them
    the phase of whole images is left out."""
    # A phase whose crops don't fit the network is left out, and the next one takes its share of the run.
    size, geometry = sides[-1], weightless(model).geometry
    phases = [(round(share * size), end) for share, end in GROWTH]
    phases = [
        (side, end) for side, end in phases if side == size or _is_trainable_on(model, smaller(sides, side, geometry))
    ]
    if len(phases) > 1 and (1 - phases[-2][1]) * steps < MIN_WHOLE_STEPS:
        phases = [*phases[:-2], (phases[-2][0], 1.0)]
    return {"sides": tuple(side for side, _ in phases), "until": tuple(end for _, end in phases)}


def _is_trainable_on(model: ModelConfig, sides: tuple[int, ...]) -> bool:
    """Whether training on crops of these sides is efficient: the network needs no padding, and the margin that valid
    convolutions need is at most a quarter of the side."""
    network = weightless(model)
    inputs = [(network.geometry.along(axis), side) for axis, side in enumerate(sides)]
    is_efficient = all(
        along.side(side + 2 * along.margin) == side + 2 * along.margin and 4 * along.margin <= side
        for along, side in inputs
    )
    is_large = sides[-1] >= MIN_CROP[len(sides)]
    return is_large and is_efficient and not network.only_whole and is_trainable(network.geometry, sides)


def course(
    images: float, val_images: int, run: float | None = None, is_open: bool = False, of_val: float = 1.0
) -> Plan:
    """A plan with epochs, validations and statistics for a run that ends by a time limit or on convergence.

    images: size of the training part, in images of full network size. run: length of the run in training steps of one
    such image; None without a time limit, and a run that `is_open` then ends on convergence. The cost of a validation
    is a forward pass for each validation image and for each training image of the statistics. of_val: size of a
    validation image, in images of full network size.
    """
    if run is None:
        # Several passes in an epoch where validation would otherwise take more than its share.
        statistics = min(STATISTICS, math.ceil(images))
        repeats = math.ceil(FORWARD * (val_images * of_val + statistics) / (VALIDATING * images))
        return Plan(repeats=repeats, statistics=statistics, is_open=is_open)
    least = math.ceil(MIN_VALIDATED / max(of_val, 1))
    validated = min(val_images, max(least, int(FINISHING * run / FORWARD / of_val)))
    statistics = min(STATISTICS, math.ceil(images), max(MIN_STATISTICS, int(FINISHING * run / FORWARD / 2)))
    passes = run / images / EPOCHS  # passes over the training images in an epoch
    # One of the two is 1: an epoch is several passes of a small data set, or a part of a pass of a large one.
    repeats, parts = max(1, round(passes)), max(1, round(1 / passes))
    epochs = run / images * parts / repeats
    validations = VALIDATING * run / (FORWARD * (validated * of_val + statistics))
    return Plan(
        repeats=repeats,
        parts=parts,
        validate_every=math.ceil(epochs / max(validations, MIN_VALIDATIONS)),
        val_images=validated if validated < val_images else None,
        statistics=statistics,
    )
