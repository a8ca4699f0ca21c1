"""Console lines that describe a run before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unet_cli.checkpoint import Checkpoint
from unet_cli.config.base import flag_of
from unet_cli.config.spacing import describe_spacing
from unet_cli.data.check.card import Card
from unet_cli.data.check.problems import listed
from unet_cli.data.samples.split import Split
from unet_cli.data.source import Pair
from unet_cli.models import parameter_count, trained_count
from unet_cli.runs.resume import Call
from unet_cli.system.console import counted, duration
from unet_cli.training.plan import Plan
from unet_cli.training.run import Run


def describe_plan(run: Run, template: Checkpoint, reasons: list[str], folder: Path) -> list[str]:
    """Lines on what the run will do. reasons: sentences on what was decided from the data."""
    learner, course, preprocessing = run.learner, run.course, template.preprocessing
    config, world, budget, plan = learner.config, learner.world, course.budget, course.plan
    usual = "" if config.width or config.init else f" ({plan.reason or f'the usual width on a {learner.compute.kind}'})"
    limits = [counted(int(budget.epochs), "epoch")] if budget.epochs and not plan.is_open else []
    limits += [f"at most {duration(config.max_time)}"] if config.max_time else []
    limits += [f"or until no gain in {counted(config.patience, 'epoch')}"] if config.patience else []
    frozen = (
        f", of which {trained_count(learner.model):,} are trained (--freeze {config.freeze})" if config.freeze else ""
    )
    ends = "until convergence" if plan.is_open else f"for {', '.join(limits)}"
    processes = f", {world.count} processes" if world.count > 1 else ""
    return [
        *reasons,
        f"Network {template.model.describe()}, {parameter_count(learner.model):,} parameters{frozen}{usual}",
        f"{_describe_samples(run)}, {preprocessing.describe_intensity()}; batches of "
        f"{course.step_samples}; augmentation {config.augment}, {preprocessing.describe_orientation()}",
        f"Loss {config.loss}, {config.optimizer}, learning rate {course.lr:g}, {course.schedule}",
        f"Computing on {learner.compute.describe()}{processes}",
        f"Training {ends}{_describe_validation(plan)}, into {folder}",
    ]


def describe_resampling(card: Card, pairs: Sequence[Pair], resample: str) -> list[str]:
    """A line on volumes that are resampled for the network; none where it sees all as they are. resample: see
    TrainConfig."""
    sizes = zip(card.sizes(pairs), card.network_sizes(pairs), strict=True)
    changed = sum(stored != seen for stored, seen in sizes)
    if not changed:
        return []
    what = ", their median (--resample native keeps all as they are)" if resample == "median" else ""
    return [
        f"{changed:,} of {counted(len(pairs), 'volume')} {'is' if changed == 1 else 'are'} resampled to voxels of "
        f"{describe_spacing(card.network_spacing)}{what}"
    ]


def _describe_samples(run: Run) -> str:
    """How images become training samples, from the first phase to the last."""
    preprocessing, loader = run.loader.data.preprocessing, run.loader
    sides = run.course.plan.sides or (loader.sides[-1],)
    phases = [loader.cut(side).sides if loader.cut else loader.sides for side in sides]
    crops = "cropped to " + ", then ".join("x".join(map(str, reversed(phase))) for phase in phases)
    crops += f" ({run.learner.config.foreground_crops:.0%} on foreground)"
    if preprocessing.mode == "tile":
        return f"{'Volumes' if preprocessing.is_volumetric else 'Images'} are {crops}{preprocessing.describe_slices()}"
    stretched = f"Images are stretched to {preprocessing.describe_size()}{preprocessing.describe_slices()}"
    return stretched if sides == (preprocessing.size,) else f"{stretched} and {crops}"


def _describe_validation(plan: Plan) -> str:
    """Which images are validated and how often; '' where it is all of them after every epoch."""
    parts = []
    if plan.val_images is not None:
        parts.append(f"on {counted(plan.val_images, 'image')} of the validation part")
    if plan.validate_every > 1:
        parts.append(f"after every {plan.validate_every} epochs")
    return f", validated {' '.join(parts)}" if parts else ""


def unvalidated_classes(card: Card, split: Split) -> list[str]:
    """A warning about training classes that no validation mask contains, since they have no score."""
    if not split.val:
        return []
    # A class that only training masks hold would silently be missing from the mean over classes.
    in_train, in_val = (card.contents_of(pairs).sum(0) > 0 for pairs in (split.train, split.val))
    classes = list(zip(card.labels.names, in_train, in_val, strict=True))[card.labels.scored.start :]
    missing = [name for name, is_in_train, is_in_val in classes if is_in_train and not is_in_val]
    if not missing:
        return []
    what = f"class {missing[0]}" if len(missing) == 1 else f"classes {', '.join(missing)}"
    return [
        f"No validation mask holds {what}, so there is no score for it: try another --seed, a larger --val-fraction, "
        "or your own train and val folders"
    ]


def data_warnings(card: Card) -> list[str]:
    """The first warnings of `unet check`."""
    if not card.problems:
        return []
    return ["Possible problems in the data (unet check lists all):", *listed(card.problems, 2)]


def describe_resumed(call: Call, run: Run, template: Checkpoint, unused: int) -> list[str]:
    """Lines on a resumed run: its progress, and what has changed since. unused: number of pairs that aren't in the
    run's split."""
    if call.folder is None:
        return []
    if call.saved is None:
        return [f"{call.folder} has no last.pth to resume from: it starts again"]
    lines = [
        f"Resuming {call.folder} in epoch {run.course.progress.epoch}, after "
        f"{counted(run.learner.step, 'step')} and {duration(call.state['seconds'])}"
    ]
    lines += [f"  {flag_of(name)} was {then} and is now {now}" for name, (then, now) in call.changes().items()]
    if call.saved.training.get("data_fingerprint") != template.training["data_fingerprint"]:
        lines.append(
            "The images or masks have changed since: the run continues with its split and the files as they are"
        )
    if unused:
        lines.append(
            f"{counted(unused, 'pair')} added since the run began {'is' if unused == 1 else 'are'} not used: a run "
            f"keeps its split. To train on all: unet train --data DIR --init {call.folder / 'best.pth'}"
        )
    return lines
