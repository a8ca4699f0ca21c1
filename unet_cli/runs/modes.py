"""Stretched whole, or cut at the images' own resolution: what the masks say, and where they say little, a short run of
both."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch

from unet_cli.call import Call
from unet_cli.config import CPU_TRAIN_BATCH, Inference, ModelConfig
from unet_cli.console import Console, counted
from unet_cli.data.card import Card
from unet_cli.data.source import Pair, spread
from unet_cli.data.split import Split
from unet_cli.data.stretching import Mode, StretchCost, mode_for, stretch_cost
from unet_cli.evaluation.evaluate import evaluate_network
from unet_cli.inference.predictor import Predictor
from unet_cli.models import build_model
from unet_cli.models.trainable import only_whole
from unet_cli.processes import World
from unet_cli.runs.build import build_trainer, class_shares, template_of
from unet_cli.runs.plan import MIN_WIDTH, TRAINING_SHARE, measured, narrowest, smallest_side, work
from unet_cli.signals import StopRequest
from unet_cli.training.plan import Plan

STEPS = 300  # of each of the two short runs
TRYING = 0.1  # of the run that both may take together, or the masks alone decide
MAX_SCORED, MAX_SCORED_PIXELS = 8, 2**24  # validation images that each is scored on
CLEAR = 0.01  # of the set Dice, by which the other mode has to be better than the one that the masks speak for


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
    if config.mode == "auto" and not whole_only and cost.is_close and split.val:
        network = replace(model, base_channels=MIN_WIDTH) if is_free and narrowest(model.name) else model
        if is_worth_trying(call, network, len(split.train)):
            return better_mode(call, card, split, network, cost, mode)
    return mode, why


def is_worth_trying(call: Call, network: ModelConfig, images: int) -> bool:
    """Whether the two short runs take a small share of the whole one. images: of the training part."""
    config = call.config
    batch_size, side = config.batch_size or CPU_TRAIN_BATCH, smallest_side(network, config.size)
    trying = 2 * STEPS * batch_size * (side / config.size) ** 2  # in images of full size, as the run is counted
    run = config.epochs * images if config.epochs else math.inf
    if config.max_time and call.compute.device.type == "cpu" and trying <= TRYING * run:
        cost = measured(network, call.compute, config.size, batch_size)
        left = config.max_time - (time.monotonic() - call.started)
        run = min(run, TRAINING_SHARE * left / (cost.seconds * work(network, config.size)))
    return trying <= TRYING * run


def better_mode(
    call: Call, card: Card, split: Split, network: ModelConfig, cost: StretchCost, by_masks: Mode
) -> tuple[Mode, str]:
    """The mode in which a short run learns more, and the sentence that says so. by_masks: what is taken unless the
    other one is clearly better."""
    close = f"{cost.describe()}, close to the limit of {cost.limit:g}"
    call.console.say(f"{close}: training both ways for {STEPS} steps, to see which one learns more")
    largest = max(height * width for height, width in card.sizes(split.val))
    scored = spread(split.val, max(1, min(MAX_SCORED, MAX_SCORED_PIXELS // largest)))
    dice = {mode: _learned(call, card, split, network, mode, scored) for mode in ("resize", "tile")}
    other: Mode = "tile" if by_masks == "resize" else "resize"
    mode = other if dice[other] > dice[by_masks] + CLEAR else by_masks
    taken = "images are stretched" if mode == "resize" else "training on crops, predicting in tiles"
    return mode, (
        f"Set Dice on {counted(len(scored), 'validation image')}: {dice['resize']:.3f} stretched, {dice['tile']:.3f} "
        f"on crops at the images' own resolution: {taken}"
    )


def _learned(call: Call, card: Card, split: Split, network: ModelConfig, mode: Mode, scored: list[Pair]) -> float:
    """The set Dice at original size after a short run in this mode, with torch's random state left as it is."""
    batch_size = call.config.batch_size or CPU_TRAIN_BATCH
    config = replace(call.config, batch_size=batch_size, epochs=1, max_time=None, patience=None, schedule="cosine")
    call = replace(call, config=config, world=World(), console=Console(quiet=True))
    side = smallest_side(network, config.size)
    plan = Plan(sides=(side,), until=(1.0,), channels_last=call.compute.channels_last)
    template = template_of(call, card, split, mode, network)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = build_model(network, config.gradient_checkpointing)
        model.start_at(class_shares(card, split.train))
        trainer = build_trainer(call, card, replace(split, val=[]), template, plan, model)
        assert trainer.cut is not None
        trainer.train_data.cut_by(trainer.cut(side))
        trainer.budget.epochs = STEPS * batch_size / len(trainer.train_data)
        for _ in trainer.fit(StopRequest()):
            pass
    weights = {name: value.cpu().clone() for name, value in trainer.learner.average.state_dict().items()}
    predictor = Predictor([replace(template, weights=weights)], call.compute, Inference(batch_size=batch_size))
    return evaluate_network(predictor, scored, config.workers, call.console).scores["set_dice"]
