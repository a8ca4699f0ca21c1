"""How a run spends the time that it has, decided from what training costs on this machine."""

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
from unet_cli.models import usual_width, weightless
from unet_cli.models.cost import multiply_adds
from unet_cli.models.trainable import is_trainable
from unet_cli.runs.resume import Call
from unet_cli.system.console import duration
from unet_cli.system.device import Compute, keep_freed_memory, same_threads
from unet_cli.system.prefetch import default_workers
from unet_cli.training.batch_size import step_seconds
from unet_cli.training.plan import FORWARD, Plan

# A run on a CPU sees small crops first, sixteen steps for the price of one, and larger ones later: sides as shares of
# the size, and the share of the run at which each phase ends. For the same work at width 16, validation Dice (one run
# each) of whole images, crops of 256, of 128 and then 256, of 128 alone: isbi2012 0.931, 0.945, 0.944, 0.947; dsb2018
# crops of 256 0.871, of 128 and then 256 0.887, of 128 alone 0.892. What lies far apart wants larger crops in the end.
GROWTH = ((1 / 4, 0.5), (1 / 2, 0.85), (1.0, 1.0))
MIN_WHOLE_STEPS = 20  # of whole images, at the end of a run, or there are none
MIN_CROP = 64  # pixels: smaller ones hold too little to be told from what surrounds them
# Of batches of crops of half the size: a network that would take fewer is too wide for its time. For the same work (see
# `work`), validation Dice at original size (one run each; isbi2012 mean IoU) with width 8, 16, 32, of which the wider
# takes so many steps:
#   isbi2012       0.798, 0.786 (400), 0.760 (120); width 8 with two fifths of the work 0.787
#   dsb2018        0.943, 0.940 (1,200)
#   cardiac MRI    0.44, 0.19 (130); with three times the work 0.59, 0.27 (400)
#   drawn curves   0.815, 0.789 (130)
# Batches of 2 in place of 4, which are twice as many steps, lost on dsb2018 (0.905 for 0.930): batch norm sees too few
# images; batches of 8 were alike (0.931), and 2.5 times the learning rate was worse or alike everywhere.
MIN_STEPS = 2400
MIN_WIDTH = 8
NARROW = 8  # work of a multiply-add grows by this over the width: narrow layers wait for memory
TRIAL_SHARE = 1 / 4  # of the size: side of the crops that a trial trains on
TRIAL_SECONDS, TRIAL_ROUNDS = 2.0, 3  # a slow machine has the least time to spend on trying
WORTHWHILE = 0.9  # of the usual way's time: another way of computing has to be faster than noise

TRAINING_SHARE = 0.85  # of the time that is left, that a plan counts on for training
VALIDATING = 0.06  # share of the run that may go into validating and its statistics
FINISHING = 0.02  # and into a single look at the validation part
MEASURING = 0.1  # and of what is left of the time into measuring its predictions at original size
PIXEL_SECONDS = 2.4e-7  # of that, for each pixel of an image and each class, on one processor
EPOCHS = 40  # of a run by the clock
STATISTICS, MIN_STATISTICS = 32, 8  # training images that statistics are found from
MIN_VALIDATED = 8
MIN_VALIDATIONS = 2  # of a run, whatever they cost: one on the way, so that a run that is killed leaves something
OTHERS = 0.7  # load of a processor from which on others are taken to be computing too

Way = TypeVar("Way")


def planned(
    call: Call, card: Card, split: Split, mode: Mode, model: ModelConfig, is_free: bool
) -> tuple[Plan, ModelConfig]:
    """The plan of a run, and its network, with another width where `is_free` says that neither a flag nor weights to
    begin with say it.

    A run that is gone on with has the plan that it began with, and the recipe of its day where there was none. A clock
    has a say in a new one on a CPU with --max-time and without --epochs alone: with the others the same command and
    seed give the same weights.
    """
    config, compute = call.config, call.compute
    if call.saved:
        return _stored(call.saved, config), model
    if call.like:
        return _stored(call.like, config), _with_width(model, is_free, call.like.model.base_channels)
    model = _with_width(model, is_free, usual_width(model.name, compute.kind))
    images, val_images = _images(call, card, split, mode), len(split.val)
    is_open = val_images > 0 and not (config.max_time or config.patience) and config.schedule in (None, "cooldown")
    plan = Plan() if config.epochs else course(images, val_images, is_open=is_open)
    plan = replace(plan, channels_last=compute.channels_last)
    if compute.device.type == "cpu" and config.max_time and not config.epochs:
        plan, model = _by_the_clock(call, model, is_free, images, val_images)
    elif compute.device.type == "cpu":
        plan = replace(plan, **growth(model, config.size))
    if config.max_time and split.val:
        count = min(plan.val_images or val_images, _measurable(call, card, split))
        plan = replace(plan, val_images=count if count < val_images else None)
    return _within(plan, config), model


def _measurable(call: Call, card: Card, split: Split) -> int:
    """How many validation images can be measured, at original size, in a tenth of the time that is left; where the
    data have taken it all, of a tenth of the whole."""
    limit = call.config.max_time or math.inf
    left = max(limit - (time.monotonic() - call.started), MEASURING * limit)
    of_all = measuring_seconds(card.sizes(split.val), len(card.labels.scored), call.config.workers)
    return max(1, int(MEASURING * left / max(of_all, 1e-9) * len(split.val)))


def measuring_seconds(sizes: Iterable[tuple[int, int]], classes: int, workers: int | None) -> float:
    """How long it takes to measure predictions of these (H, W) at original size, of so many classes."""
    pixels = sum(height * width for height, width in sizes)
    return PIXEL_SECONDS * pixels * classes / (workers or default_workers())


def _with_width(model: ModelConfig, is_free: bool, width: int | None) -> ModelConfig:
    return replace(model, base_channels=width) if is_free else model


def _stored(saved: Checkpoint, config: TrainConfig) -> Plan:
    """The plan of a run, as far as what is asked for now allows."""
    state = saved.resume or {}
    return _within(Plan.from_plain(state["plan"]) if "plan" in state else Plan(), config)


def _within(plan: Plan, config: TrainConfig) -> Plan:
    """Whatever is given by hand stays as given: an end, and what is counted in validated epochs."""
    is_open = plan.is_open and config.epochs is None and config.max_time is None
    counts_epochs = config.patience is not None or config.schedule == "plateau"
    return replace(plan, is_open=is_open, validate_every=1 if counts_epochs else plan.validate_every)


def _images(call: Call, card: Card, split: Split, mode: Mode) -> float:
    """Of the training part, in units of what the network sees at full size."""
    size = call.config.size
    if mode == "resize":
        return len(split.train)
    return sum(height * width for height, width in card.sizes(split.train)) / size**2


def _by_the_clock(
    call: Call, model: ModelConfig, is_free: bool, images: float, val_images: int
) -> tuple[Plan, ModelConfig]:
    """As `planned`, of a run that has to end at a time."""
    config, count = call.config, call.world.count
    assert config.max_time is not None
    seconds = config.max_time - (time.monotonic() - call.started)
    model, cost = affordable(model, is_free, call.compute, config, seconds)
    has_width = model.base_channels is not None
    run = max(1.0, count * TRAINING_SHARE * seconds / (cost.seconds * work(model, config.size)))
    plan = replace(
        course(images, val_images, run),
        **growth(model, config.size, run / count / (config.batch_size or CPU_TRAIN_BATCH)),
        threads=cost.threads,
        channels_last=cost.compute.channels_last,
        reason=f"the width that suits {duration(config.max_time)} on this machine" if is_free and has_width else "",
    )
    return plan, model


def affordable(
    model: ModelConfig, is_free: bool, compute: Compute, config: TrainConfig, seconds: float
) -> tuple[ModelConfig, Cost]:
    """The network as wide as so many seconds of training allow, if its width `is_free`; and what training costs."""
    size, batch_size = config.size, config.batch_size or CPU_TRAIN_BATCH
    if not is_free:
        return model, measured(model, compute, size, batch_size)
    cost = measured(replace(model, base_channels=narrowest(model.name)), compute, size, batch_size)
    width = affordable_width(model, cost, size, batch_size, TRAINING_SHARE * seconds)
    return replace(model, base_channels=width), cost


@dataclass(frozen=True)
class Cost:
    """What training costs here. seconds: of a unit of `work`. threads: that compute, None for all."""

    compute: Compute
    seconds: float
    threads: int | None = None


def work(model: ModelConfig, side: int) -> float:
    """Of an image of that side in training, about in proportion to the time it takes: multiply-adds, more of them where
    layers are narrow."""
    forward = multiply_adds(weightless(model), model.in_channels, (side, side))
    return forward / FORWARD * (1 + NARROW / (model.base_channels or usual_width(model.name, "GPU") or 64))


@cache
def measured(model: ModelConfig, compute: Compute, size: int, batch_size: int) -> Cost:
    """Train a fresh network on noise for some two seconds, in either memory layout, and where others are computing with
    fewer threads too. What was measured once holds for the command."""
    keep_freed_memory(compute)
    side, threads = smallest_side(model, size), torch.get_num_threads()
    other_layout = replace(compute, channels_last=not compute.channels_last)
    ways = [(layout, count) for layout in (compute, other_layout) for count in (threads, *_fewer_threads(threads))]

    def seconds(way: tuple[Compute, int]) -> float:
        layout, count = way
        torch.set_num_threads(count)
        return step_seconds(model, layout, side, batch_size)

    with same_threads():
        (compute, chosen), step = quickest(ways, seconds)
    return Cost(compute, step / batch_size / work(model, side), None if chosen == threads else chosen)


def quickest(ways: Sequence[Way], seconds: Callable[[Way], float]) -> tuple[Way, float]:
    """The way that takes the least time, and that time. ways: the likeliest first, which has to be beaten by a tenth.
    seconds: of a trial.

    Each is tried three times in turn, of which the first is a warm-up, but nothing is begun after TRIAL_SECONDS.
    """
    end = time.monotonic() + TRIAL_SECONDS
    times: dict[Way, list[float]] = {}
    for way in [*ways] * TRIAL_ROUNDS:
        if times and time.monotonic() >= end:
            break
        times.setdefault(way, []).append(seconds(way))
    best = {way: min(tries[1:]) for way, tries in times.items() if len(tries) > 1}
    if ways[0] not in best:
        return ways[0], min(times[ways[0]])
    fastest = min(best, key=best.__getitem__)
    chosen = fastest if best[fastest] < WORTHWHILE * best[ways[0]] else ways[0]
    return chosen, best[chosen]


def _fewer_threads(threads: int) -> list[int]:
    """How many else to try: as many as others leave."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    left = max(1, threads - round(load))
    return [left] if load > OTHERS and left < threads else []


def affordable_width(model: ModelConfig, cost: Cost, size: int, batch_size: int, seconds: float) -> int | None:
    """The largest of a network's usual width and its halves with which a run of that many seconds takes MIN_STEPS steps
    on crops of half the size; None where the network has no width."""
    width = usual_width(model.name, "GPU")
    while width is not None and width > MIN_WIDTH:
        step = batch_size * cost.seconds * work(replace(model, base_channels=width), size) / 4
        if step * MIN_STEPS <= seconds:
            break
        width = max(MIN_WIDTH, width // 2)
    return width


def narrowest(name: str) -> int | None:
    """The width that a trial takes; None where the network has none."""
    width = usual_width(name, "GPU")
    return width if width is None else max(min(MIN_WIDTH, width), width // 4)


def smallest_side(model: ModelConfig, size: int) -> int:
    """Of crops that a trial trains on."""
    return next(side for side in (int(TRIAL_SHARE * size), size // 2, size) if _suits(model, side) or side == size)


def growth(model: ModelConfig, size: int, steps: float = math.inf) -> dict[str, Any]:
    """A plan's `sides` and `until`. steps: at full size, that the run's time is enough for: of few of them whole images
    would leave too few at the end to be worth it."""
    phases = [(round(share * size), end) for share, end in GROWTH]
    phases = [(side, end) for side, end in phases if side == size or _suits(model, side)]
    if len(phases) > 1 and (1 - phases[-2][1]) * steps < MIN_WHOLE_STEPS:
        phases = [*phases[:-2], (phases[-2][0], 1.0)]
    return {"sides": tuple(side for side, _ in phases), "until": tuple(end for _, end in phases)}


def _suits(model: ModelConfig, side: int) -> bool:
    """Whether crops of that side are worth training on: the network takes them as they are, and what unpadded
    convolutions want around them is not most of them."""
    network = weightless(model)
    geometry = network.geometry
    seen = side + 2 * geometry.margin
    is_as_it_is = geometry.side(seen) == seen and 4 * geometry.margin <= side
    return side >= MIN_CROP and is_as_it_is and not network.only_whole and is_trainable(geometry, side)


def course(images: float, val_images: int, run: float | None = None, is_open: bool = False) -> Plan:
    """Epochs, validations and statistics of a run that ends by the clock or when it has stopped learning.

    images: of the training part, in units of what the network sees at full size. run: what the run's time is enough
    for, in training steps of one such image; None where no clock decides, and a run that `is_open` ends when it has
    stopped learning. A validation looks at the validation part and at some training images, a forward pass each.
    """
    if run is None:
        statistics = min(STATISTICS, math.ceil(images))
        repeats = math.ceil(FORWARD * (val_images + statistics) / (VALIDATING * images))
        return Plan(repeats=repeats, statistics=statistics, is_open=is_open)
    validated = min(val_images, max(MIN_VALIDATED, int(FINISHING * run / FORWARD)))
    statistics = min(STATISTICS, math.ceil(images), max(MIN_STATISTICS, int(FINISHING * run / FORWARD / 2)))
    passes = run / images / EPOCHS  # of an epoch
    repeats, parts = max(1, round(passes)), max(1, round(1 / passes))
    epochs = run / images * parts / repeats
    validations = VALIDATING * run / (FORWARD * (validated + statistics))
    return Plan(
        repeats=repeats,
        parts=parts,
        validate_every=math.ceil(epochs / max(validations, MIN_VALIDATIONS)),
        val_images=validated if validated < val_images else None,
        statistics=statistics,
    )
