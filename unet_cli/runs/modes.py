"""The choice of --mode: images stretched to the network's size, or crops at their own resolution. The masks decide, or
near their limit a short run in each mode."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import torch

from unet_cli.config.hardware import CPU_TRAIN_BATCH
from unet_cli.config.model import ModelConfig
from unet_cli.config.prediction import Inference
from unet_cli.config.training import MAX_PASSES
from unet_cli.data.check.card import Card
from unet_cli.data.check.stretching import Mode, mode_for, stretch_cost
from unet_cli.data.samples.split import Split
from unet_cli.data.source import Pair, spread
from unet_cli.evaluation.evaluate import evaluate_network
from unet_cli.inference.predictor import Predictor
from unet_cli.models import build_model
from unet_cli.models.trainable import check_trainable, only_whole
from unet_cli.runs.build import build_run, class_shares, template_of
from unet_cli.runs.plan import MIN_WIDTH, TRAINING_SHARE, affordable, narrowest, smallest_crop, work
from unet_cli.runs.resume import Call
from unet_cli.system.console import Console, counted
from unet_cli.system.device import free_memory
from unet_cli.system.distributed import World
from unet_cli.system.signals import StopRequest
from unet_cli.training.loop import train_one_epoch
from unet_cli.training.plan import Plan
from unet_cli.training.validation import validate_averaged

MODES: tuple[Mode, Mode] = ("resize", "tile")
STEPS = 300  # steps of each of the two short runs
MAX_SHARE = 0.1  # share of the run that both may take together; beyond it the masks alone decide
MIN_GPU_SECONDS = 600.0  # minimum duration of a run with a time limit, for short runs on a GPU
MIN_SCORED, MAX_SCORED, MAX_SCORED_PIXELS = 2, 8, 2**24  # validation images with foreground that short runs score on
CLEAR_GAIN = 0.01  # minimum gain in set Dice of the other mode over the one that the masks suggest


def chosen_mode(call: Call, card: Card, split: Split, model: ModelConfig, is_free: bool) -> tuple[Mode, str]:
    """The mode of a run, and the sentence that explains it: that of the resumed run or of the fold whose plan it
    shares, else --mode, else the choice from the masks, or near their limit from two short runs. is_free: see
    `planned`. Raises UserError."""
    config, planned_with = call.config, call.saved or call.like
    if planned_with:
        return planned_with.preprocessing.mode, ""
    if config.mode == "tile" or card.is_volumetric:
        return "tile", ""
    whole_only = config.model if only_whole(config.model) else ""
    cost = stretch_cost(card, config.size, config, call.console)
    mode, why = mode_for(config.mode, cost, whole_only)
    # Short runs start from random weights, and would hide which operation is not deterministic.
    is_comparable = not (config.init or config.encoder_weights or call.restart_from or config.deterministic)
    if config.mode != "auto" or whole_only or not cost.is_close or not is_comparable:
        return mode, why
    scored = _to_score(card, split)
    if len(scored) < MIN_SCORED:
        return mode, why
    network = replace(model, base_channels=MIN_WIDTH[2]) if is_free and narrowest(model.name) else model
    if not are_short(call, model, network, is_free, len(split.train)):
        return mode, why
    call.console.say(
        f"{cost.describe()}, close to the limit of {cost.limit:g}: training for {STEPS} steps in each mode, to compare "
        "them"
    )
    return compared_modes(call, card, split, network, scored, mode)


def are_short(call: Call, model: ModelConfig, network: ModelConfig, is_free: bool, images: int) -> bool:
    """Whether two short runs of `network` take a small share of the run, as far as its length is known. On a GPU they
    take some seconds. images: number of training images."""
    config = call.config
    batch_size, sides = config.batch_size or CPU_TRAIN_BATCH, (config.size, config.size)
    side, *_ = smallest_crop(network, sides)
    both = 2 * STEPS * batch_size * (side / config.size) ** 2  # in images of full size, the unit of the run's length
    epochs = config.epochs or (math.inf if config.max_time else MAX_PASSES)
    if both > MAX_SHARE * epochs * images or not config.max_time:
        return both <= MAX_SHARE * epochs * images
    remaining = config.max_time - (time.monotonic() - call.started)
    if call.compute.device.type != "cpu":
        return remaining >= MIN_GPU_SECONDS
    _, cost = affordable(model, is_free, call.compute, sides, config.batch_size, remaining)
    return both * cost.seconds * work(network, sides) <= MAX_SHARE * TRAINING_SHARE * remaining


def compared_modes(
    call: Call, card: Card, split: Split, network: ModelConfig, scored: list[Pair], by_masks: Mode
) -> tuple[Mode, str]:
    """The mode with the higher score after a short run, and the sentence that says so. by_masks: the mode that is
    chosen unless the other one is clearly better. Raises UserError where the network can't be trained on such
    samples."""
    for mode in MODES:
        check_trainable(network, (call.config.size, call.config.size), mode)
    # Both with the same initial weights, steps and images, so that only the mode differs.
    dice = {mode: _learned(call, card, split, network, mode, scored) for mode in MODES}
    (other,) = (mode for mode in MODES if mode != by_masks)
    mode = other if dice[other] > dice[by_masks] + CLEAR_GAIN else by_masks
    choice = "images are stretched" if mode == "resize" else "training on crops, predicting in tiles"
    return mode, (
        f"Set Dice on {counted(len(scored), 'validation image')}: {dice['resize']:.3f} stretched, {dice['tile']:.3f} "
        f"on crops at the images' own resolution: {choice}"
    )


def _to_score(card: Card, split: Split) -> list[Pair]:
    """Validation images with foreground, spread evenly over all of them, limited in number and pixels."""
    if not split.val:
        return []
    has_foreground = np.any(card.contents_of(split.val)[:, card.labels.scored.start :], axis=1)
    candidates = [pair for pair, is_foreground in zip(split.val, has_foreground, strict=True) if is_foreground]
    chosen = spread(candidates, MAX_SCORED)
    pixels, scored = 0, list[Pair]()
    for pair, size in zip(chosen, card.sizes(chosen), strict=True):
        pixels += math.prod(size)
        if pixels <= MAX_SCORED_PIXELS:
            scored.append(pair)
    return scored


def _learned(call: Call, card: Card, split: Split, network: ModelConfig, mode: Mode, scored: list[Pair]) -> float:
    """Set Dice at original size after a short run in this mode."""
    batch_size = call.config.batch_size or CPU_TRAIN_BATCH
    config = replace(
        call.config, batch_size=batch_size, epochs=1, max_time=None, patience=None, schedule="cosine", compile=False
    )
    call = replace(call, config=config, world=World(), console=Console(quiet=True))
    side, *_ = smallest_crop(network, (config.size, config.size))
    plan = Plan(sides=(side,), until=(1.0,), validate_every=STEPS, channels_last=call.compute.channels_last)
    template = template_of(call, card, split, mode, network)
    torch.manual_seed(config.seed)  # the same initial weights as in the run itself
    model = build_model(network, config.gradient_checkpointing)
    model.start_at(class_shares(card, split.train), card.labels.cores)
    run = build_run(call, card, replace(split, val=[]), template, plan, model)
    learner, loader, course = run.learner, run.loader, run.course
    loader.change_side(side)
    course.budget.epochs = STEPS * loader.batch_size / len(loader.data)
    stop = StopRequest()  # not installed as a handler: before the first step a signal ends the command at once
    course.start()
    while run.may_continue():
        course.begin_epoch(side, len(loader.data))
        train_one_epoch(run, stop, after_step=lambda: None)
        course.end_epoch(course.lr, None)
    validate_averaged(run, stop)
    trained = replace(template, weights=run.weights(averaged=True))
    predictor = Predictor([trained], call.compute, Inference(batch_size=batch_size))
    dice = evaluate_network(predictor, scored, config.workers, call.console).scores["set_dice"]
    # All references have to go before the cache can be released to the run that follows.
    del run, learner, loader, predictor, model
    free_memory(call.compute.device)
    return dice
