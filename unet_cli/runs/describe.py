"""What a run will do, in words."""

from __future__ import annotations

from pathlib import Path

from unet_cli.checkpoint import Checkpoint
from unet_cli.config.base import flag_of
from unet_cli.data.check.card import Card
from unet_cli.data.check.problems import listed
from unet_cli.data.samples.split import Split
from unet_cli.models import parameter_count
from unet_cli.runs.build import Run
from unet_cli.runs.resume import Call
from unet_cli.system.console import counted, duration
from unet_cli.training.plan import Plan


def describe_plan(run: Run, template: Checkpoint, reasons: list[str], folder: Path) -> list[str]:
    """What the run will do, in words. reasons: sentences on what the data set decided."""
    learner, course, preprocessing = run.learner, run.course, template.preprocessing
    config, world, budget, plan = learner.config, learner.world, course.budget, course.plan
    usual = "" if config.width or config.init else f" ({plan.reason or f'the usual width on a {learner.compute.kind}'})"
    limits = [counted(int(budget.epochs), "epoch")] if budget.epochs and not plan.is_open else []
    limits += [f"at most {duration(config.max_time)}"] if config.max_time else []
    limits += [f"or until {counted(config.patience, 'epoch')} bring nothing"] if config.patience else []
    ends = "until learning has stopped" if plan.is_open else f"for {', '.join(limits)}"
    processes = f", {world.count} processes" if world.count > 1 else ""
    return [
        *reasons,
        f"Network {template.model.describe()}, {parameter_count(learner.model):,} parameters{usual}",
        f"{_describe_samples(run)}, {preprocessing.describe_intensity()}; batches of "
        f"{course.step_samples}; augmentation {config.augment}, {preprocessing.describe_orientation()}",
        f"Loss {config.loss}, {config.optimizer}, learning rate {course.lr:g}, {course.schedule}",
        f"Computing on {learner.compute.describe()}{processes}",
        f"Training {ends}{_describe_validation(plan)}, into {folder}",
    ]


def _describe_samples(run: Run) -> str:
    """What the network sees in training, from the first phase to the last."""
    preprocessing, sides = run.loader.data.preprocessing, run.course.plan.sides or (run.loader.side,)
    crops = "crops of " + ", then ".join(f"{side}x{side}" for side in sides)
    crops += f" ({run.learner.config.foreground_crops:.0%} on foreground)"
    if preprocessing.mode == "tile":
        return f"Images are seen in {crops}"
    stretched = f"Images are stretched to {preprocessing.describe_size()}"
    return stretched if sides == (preprocessing.size,) else f"{stretched} and seen in {crops}"


def _describe_validation(plan: Plan) -> str:
    """On what and how often, unless it is on all and at the end of every epoch."""
    said = []
    if plan.val_images is not None:
        said.append(f"on {counted(plan.val_images, 'image')} of the validation part")
    if plan.validate_every > 1:
        said.append(f"after every {plan.validate_every} epochs")
    return f", validated {' '.join(said)}" if said else ""


def unheld_classes(card: Card, split: Split) -> list[str]:
    """Says which classes of the training part no validation mask holds: they have no score, and nothing tells how well
    the network finds them."""
    if not split.val:
        return []
    in_train, in_val = (card.contents_of(pairs).sum(0) > 0 for pairs in (split.train, split.val))
    held = list(zip(card.labels.names, in_train, in_val, strict=True))[card.labels.scored.start :]
    missing = [name for name, here, there in held if here and not there]
    if not missing:
        return []
    what = f"class {missing[0]}" if len(missing) == 1 else f"classes {', '.join(missing)}"
    return [
        f"No validation mask holds {what}, so no score says how well it is found: another --seed, a larger "
        "--val-fraction, or folders train and val of your own give a part that has it"
    ]


def worth_a_look(card: Card) -> list[str]:
    """What `unet check` would say first of what looks odd."""
    if not card.problems:
        return []
    return ["Worth a look (unet check shows all):", *listed(card.problems, 2)]


def describe_resumed(call: Call, run: Run, template: Checkpoint, unused: int) -> list[str]:
    """Of a run that is gone on with: where, and what is other than it was. unused: pairs that the run's split doesn't
    name."""
    if call.folder is None:
        return []
    if call.saved is None:
        return [f"{call.folder} has no last.pth to go on from: it begins again"]
    said = [
        f"Going on with {call.folder} in epoch {run.course.progress.epoch}, after "
        f"{counted(run.learner.step, 'step')} and {duration(call.state['seconds'])}"
    ]
    said += [f"  {flag_of(name)} was {then} and is now {now}" for name, (then, now) in call.changes().items()]
    if call.saved.training.get("data_fingerprint") != template.training["data_fingerprint"]:
        said.append("The images or masks have changed since: it goes on with those of its split as they are now")
    if unused:
        said.append(
            f"{counted(unused, 'pair')} added since the run began {'is' if unused == 1 else 'are'} not used: a run "
            f"keeps its split. To train on all: unet train --data DIR --init {call.folder / 'best.pth'}"
        )
    return said
