"""What a run will do, in words."""

from __future__ import annotations

from pathlib import Path

from unet_cli.call import Call
from unet_cli.checkpoint import Checkpoint
from unet_cli.config import flag_of
from unet_cli.console import counted, duration
from unet_cli.data.card import Card
from unet_cli.data.problems import listed
from unet_cli.models import parameter_count
from unet_cli.training.loop import Trainer


def describe_plan(trainer: Trainer, template: Checkpoint, why_mode: str, folder: Path) -> list[str]:
    """What the run will do, in words. why_mode: see stretching.mode_for."""
    config, budget, preprocessing = trainer.config, trainer.budget, template.preprocessing
    learner, world = trainer.learner, trainer.world
    usual = "" if config.width or config.init else f" (--width is usually that on a {learner.compute.kind})"
    limits = [counted(budget.epochs, "epoch")] if budget.epochs and not trainer.plan.is_open else []
    if trainer.plan.is_open:
        limits = [f"until it has stopped learning, {counted(budget.epochs or 0, 'epoch')} at most"]
    limits += [f"at most {duration(config.max_time)}"] if config.max_time else []
    limits += [f"or until {counted(config.patience, 'epoch')} bring nothing"] if config.patience else []
    side = preprocessing.size
    seen = f"Images are stretched to {side}x{side}"
    if preprocessing.mode == "tile":
        seen = (
            f"{len(trainer.train_data):,} crops of {side}x{side} an epoch ({config.foreground_crops:.0%} on foreground)"
        )
    processes = f", {world.count} processes" if world.count > 1 else ""
    return [
        *([why_mode] if why_mode else []),
        f"Network {template.model.describe()}, {parameter_count(learner.model):,} parameters{usual}",
        f"{seen}, {preprocessing.describe_intensity()}; batches of {trainer.batch_size * world.count}; "
        f"augmentation {config.augment}",
        f"Loss {config.loss}, {config.optimizer}, learning rate {learner.lr:g}, {trainer.schedule}",
        f"Computing on {learner.compute.describe()}{processes}",
        f"Training {'' if trainer.plan.is_open else 'for '}{', '.join(limits)}, into {folder}",
    ]


def worth_a_look(card: Card) -> list[str]:
    """What `unet check` would say first of what looks odd."""
    if not card.problems:
        return []
    return ["Worth a look (unet check shows all):", *listed(card.problems, 2)]


def describe_resumed(call: Call, trainer: Trainer, template: Checkpoint) -> list[str]:
    """Of a run that is gone on with: where, and what is other than it was."""
    if call.folder is None:
        return []
    if call.saved is None:
        return [f"{call.folder} was interrupted before anything was saved: it begins again"]
    said = [
        f"Going on with {call.folder} in epoch {trainer.progress.epoch}, after "
        f"{counted(trainer.learner.step, 'step')} and {duration(call.state['seconds'])}"
    ]
    said += [f"  {flag_of(name)} was {then} and is now {now}" for name, (then, now) in call.changes().items()]
    if call.saved.training.get("data_fingerprint") != template.training["data_fingerprint"]:
        said.append("The images or masks have changed since: it goes on with them as they are now")
    return said
