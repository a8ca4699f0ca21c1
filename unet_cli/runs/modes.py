"""Stretched whole, or cut at the images' own resolution: what the masks say, and where they say little, a short run of
both."""

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
from unet_cli.runs.plan import MIN_WIDTH, TRAINING_SHARE, affordable, narrowest, smallest_side, work
from unet_cli.runs.resume import Call
from unet_cli.system.console import Console, counted
from unet_cli.system.device import free_memory
from unet_cli.system.distributed import World
from unet_cli.system.signals import StopRequest
from unet_cli.training.loop import may_continue, train_one_epoch
from unet_cli.training.plan import Plan
from unet_cli.training.validation import validate_averaged

MODES: tuple[Mode, Mode] = ("resize", "tile")
STEPS = 300  # of each of the two short runs
MAX_SHARE = 0.1  # of the run, that both may take together; where they would take more the masks alone decide
MIN_GPU_SECONDS = 600.0  # of a run by the clock
MIN_SCORED, MAX_SCORED, MAX_SCORED_PIXELS = 2, 8, 2**24  # validation images with foreground that each is scored on
CLEAR_GAIN = 0.01  # of set Dice, by which the other mode has to be better than the one that the masks speak for


def chosen_mode(call: Call, card: Card, split: Split, model: ModelConfig, is_free: bool) -> tuple[Mode, str]:
    """The mode of a run, and the sentence that explains it: that of the run or fold whose plan it has, else as --mode
    says, else as the masks do, or near their limit two short runs. is_free: see `planned`. Raises UserError."""
    config, planned_with = call.config, call.saved or call.like
    if planned_with:
        return planned_with.preprocessing.mode, ""
    if config.mode == "tile":
        return "tile", ""
    whole_only = config.model if only_whole(config.model) else ""
    cost = stretch_cost(card, config.size, config, call.console)
    mode, why = mode_for(config.mode, cost, whole_only)
    # Short runs begin with fresh weights, and can't say which operation isn't deterministic.
    begins_fresh = not (config.init or config.encoder_weights or call.again or config.deterministic)
    if config.mode != "auto" or whole_only or not cost.is_close or not begins_fresh:
        return mode, why
    scored = _to_score(card, split)
    if len(scored) < MIN_SCORED:
        return mode, why
    network = replace(model, base_channels=MIN_WIDTH) if is_free and narrowest(model.name) else model
    if not are_short(call, model, network, is_free, len(split.train)):
        return mode, why
    call.console.say(
        f"{cost.describe()}, close to the limit of {cost.limit:g}: training both ways for {STEPS} steps, to see which "
        "one learns more"
    )
    return compared_modes(call, card, split, network, scored, mode)


def are_short(call: Call, model: ModelConfig, network: ModelConfig, is_free: bool, images: int) -> bool:
    """Whether two short runs of `network` take a small share of the run itself, as far as that is known. On a GPU they
    take some seconds. images: of the training part."""
    config = call.config
    batch_size, side = config.batch_size or CPU_TRAIN_BATCH, smallest_side(network, config.size)
    both = 2 * STEPS * batch_size * (side / config.size) ** 2  # in images of full size, as the run is counted
    epochs = config.epochs or (math.inf if config.max_time else MAX_PASSES)
    if both > MAX_SHARE * epochs * images or not config.max_time:
        return both <= MAX_SHARE * epochs * images
    left = config.max_time - (time.monotonic() - call.started)
    if call.compute.device.type != "cpu":
        return left >= MIN_GPU_SECONDS
    _, cost = affordable(model, is_free, call.compute, config, left)
    return both * cost.seconds * work(network, config.size) <= MAX_SHARE * TRAINING_SHARE * left


def compared_modes(
    call: Call, card: Card, split: Split, network: ModelConfig, scored: list[Pair], by_masks: Mode
) -> tuple[Mode, str]:
    """The mode in which a short run learns more, and the sentence that says so. by_masks: what is taken unless the
    other one is clearly better. Raises UserError where the network can't learn from such samples."""
    for mode in MODES:
        check_trainable(network, call.config.size, mode)
    dice = {mode: _learned(call, card, split, network, mode, scored) for mode in MODES}
    (other,) = (mode for mode in MODES if mode != by_masks)
    mode = other if dice[other] > dice[by_masks] + CLEAR_GAIN else by_masks
    taken = "images are stretched" if mode == "resize" else "training on crops, predicting in tiles"
    return mode, (
        f"Set Dice on {counted(len(scored), 'validation image')}: {dice['resize']:.3f} stretched, {dice['tile']:.3f} "
        f"on crops at the images' own resolution: {taken}"
    )


def _to_score(card: Card, split: Split) -> list[Pair]:
    """Validation images with foreground, evenly from all of them, as many as are soon predicted."""
    if not split.val:
        return []
    is_held = np.any(card.contents_of(split.val)[:, card.labels.scored.start :], axis=1)
    chosen = spread([pair for pair, held in zip(split.val, is_held, strict=True) if held], MAX_SCORED)
    pixels, scored = 0, list[Pair]()
    for pair, (height, width) in zip(chosen, card.sizes(chosen), strict=True):
        pixels += height * width
        if pixels <= MAX_SCORED_PIXELS:
            scored.append(pair)
    return scored


def _learned(call: Call, card: Card, split: Split, network: ModelConfig, mode: Mode, scored: list[Pair]) -> float:
    """The set Dice at original size after a short run in this mode."""
    batch_size = call.config.batch_size or CPU_TRAIN_BATCH
    config = replace(
        call.config, batch_size=batch_size, epochs=1, max_time=None, patience=None, schedule="cosine", compile=False
    )
    call = replace(call, config=config, world=World(), console=Console(quiet=True))
    side = smallest_side(network, config.size)
    plan = Plan(sides=(side,), until=(1.0,), validate_every=STEPS, channels_last=call.compute.channels_last)
    template = template_of(call, card, split, mode, network)
    torch.manual_seed(config.seed)  # as the run itself will do
    model = build_model(network, config.gradient_checkpointing)
    model.start_at(class_shares(card, split.train))
    run = build_run(call, card, replace(split, val=[]), template, plan, model)
    learner, loader, course = run.learner, run.loader, run.course
    loader.change_side(side)
    course.budget.epochs = STEPS * loader.batch_size / len(loader.data)
    stop = StopRequest()  # that hears no signal: one ends the command at once, as everywhere before the first step
    course.start()
    while may_continue(learner, course):
        course.begin_epoch(side, len(loader.data))
        train_one_epoch(learner, loader, course, stop, after_step=lambda: None)
        course.end_epoch(course.lr, None)
    validate_averaged(learner, loader, run.val_data, stop)
    trained = replace(template, weights=run.weights(averaged=True))
    predictor = Predictor([trained], call.compute, Inference(batch_size=batch_size))
    dice = evaluate_network(predictor, scored, config.workers, call.console).scores["set_dice"]
    del run, learner, loader, predictor, model
    free_memory(call.compute.device)
    return dice
