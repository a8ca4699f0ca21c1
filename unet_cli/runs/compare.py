"""Comparison of networks: each is trained on the same data for the same time or times, and scored."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import product
from pathlib import Path

import torch

from unet_cli.checkpoint import load_checkpoint
from unet_cli.config.hardware import CPU_TRAIN_BATCH
from unet_cli.config.model import ModelConfig
from unet_cli.config.prediction import Inference
from unet_cli.config.training import LRS, CompareConfig, TrainConfig
from unet_cli.data.check.examine import examine
from unet_cli.data.check.stretching import Mode, mode_for, stretch_cost
from unet_cli.data.folder.layout import Layout, holds_volumes, layout_of, of_volumes
from unet_cli.data.source import Pair, Source
from unet_cli.errors import UserError
from unet_cli.evaluation.evaluate import evaluate_network
from unet_cli.evaluation.scores import overall
from unet_cli.inference.predictor import Predictor
from unet_cli.models import MODELS, build_model, defaults_of, parameter_count, resolved, usual_width, weightless
from unet_cli.models.trainable import check_trainable, only_whole
from unet_cli.run_folder import new_run_folder
from unet_cli.runs.plan import affordable
from unet_cli.runs.train import train
from unet_cli.system.child import ChildDied, in_child
from unet_cli.system.console import Console, duration
from unet_cli.system.device import Compute, choose_compute
from unet_cli.system.distributed import this_process
from unet_cli.training.batch_size import trial
from unet_cli.training.optimizers import make_optimizer

# By the number of axes: the network whose step time the widths of the others match, and the sides of timed volumes.
REFERENCE = {2: "unet", 3: "unet3d"}
TIMED_VOLUME = (48, 48, 48)
WIDTH_GRID = 4  # widths are multiples of it
TRIALS = 3  # widths tried for a network
TIMED = 32  # images over which prediction is timed
EXPONENT = 1.6  # a step's time grows about with this power of the width: below 2, since some layers are memory-bound


@dataclass(frozen=True)
class Result:
    """The result of one training of a network.

    minutes: its training time with --minutes. part: the part of the data that is scored, test or validation; '' where
    there is neither. dice, iou: mean over images and foreground classes, at original size; set_dice: see
    metrics.overlap; dice_interval: 95 % interval, None for a single image. seconds: time to predict one image, from
    disk to mask. error: why the training failed, and all else is empty.
    """

    network: str
    minutes: float | None = None
    width: int | None = None
    parameters: int = 0
    epochs: int = 0
    part: str = ""
    dice: float | None = None
    dice_interval: tuple[float, float] | None = None
    set_dice: float | None = None
    iou: float | None = None
    seconds: float | None = None
    run: str = ""
    error: str | None = None


@dataclass(frozen=True)
class Reference:
    """The plain U-Net, whose step time the widths of the others match. sides: of the samples that it was timed on.
    speed: training throughput, images a second."""

    name: str
    sides: tuple[int, ...]
    width: int | None
    speed: float


def compare(config: CompareConfig, console: Console) -> Iterator[Result]:
    """Train the networks one after the other for the time, each of the times, or the epochs of the settings, and score
    their best weights. Networks that can't be trained are yielded first.

    Without --width, each network gets the width at which its training step takes about as long as that of the plain
    U-Net at the width that `train` would choose. Each is trained in a process of its own, so that one that fails or
    crashes doesn't stop the others. Raises UserError before anything is trained, and Stopped.
    """
    if this_process() != (1, 1):
        raise UserError("compare trains in one process: start it without torchrun")
    layout = layout_of(config)
    names = chosen(config.models, 3 if holds_volumes(layout) else 2)
    dims = 3 if holds_volumes(layout) else min(weightless(ModelConfig(name=name)).spatial_dims for name in names)
    sides = TIMED_VOLUME if dims == 3 else (config.size, config.size)
    refused = {name: reason for name in names if (reason := _refusal(name, config, sides))}
    trainable = [name for name in names if name not in refused]
    layout = of_volumes(layout) if dims == 3 else layout
    pairs = _test_pairs(config, layout, console, dims)
    # Chosen once, so that networks are compared on the same samples; volumes have one mode.
    mode = "tile" if dims == 3 else _mode(config, layout, console)
    times = config.minutes or (None,)
    chooses_width = config.width is None and len(names) > 1
    # In a child process too, so that running out of memory, or a crash in a kernel, doesn't end the comparison.
    try:
        references = in_child(_references, config, times if chooses_width and trainable else (), sides)
    except ChildDied as error:
        references = {}
        console.say(f"Timing the plain U-Net failed ({error}): each network has the width that `train` would give it")
    folder = new_run_folder(config.output, config.name, layout.root)
    for name, reason in refused.items():
        console.say("", f"{name} failed: {reason}")
        yield Result(name, error=reason)
    for minutes, name in product(times, trainable):
        console.say("", f"== {name}" + (f" for {duration(60 * minutes)}" if minutes else ""))
        settings = _settings(config, name, minutes, folder, mode)
        try:
            row = in_child(_one, settings, references.get(minutes), layout, pairs, console)
        except UserError as error:
            console.say(f"{name} failed: {error}")
            row = Result(name, error=_with_resume_hint(error, settings))
        yield replace(row, minutes=minutes)


def _with_resume_hint(error: UserError, config: TrainConfig) -> str:
    """The message of the error, with the command that resumes the run where its process has crashed."""
    run = config.output / str(config.name)
    if isinstance(error, ChildDied) and (run / "last.pth").exists():
        return f"{error}. To resume it alone: {shlex.join(['unet', 'train', '--resume', str(run)])}"
    return str(error)


def chosen(names: str, dims: int = 2) -> list[str]:
    """'a,b' -> these; 'all,-c' -> all networks of `dims` dimensions except c. Raises UserError for a name that isn't in
    the table."""
    selected: dict[str, None] = {}  # a set that keeps the order
    for name in (part.strip() for part in names.split(",")):
        if not name:
            continue
        if name == "all":
            selected |= dict.fromkeys(known for known in MODELS if known.endswith("3d") == (dims == 3))
        elif name == "-all":
            selected.clear()
        elif name.startswith("-"):
            defaults_of(name[1:])
            selected.pop(name[1:], None)
        else:
            defaults_of(name)
            selected[name] = None
    if not selected:
        raise UserError(f"--models {names} leaves no network: name at least one, or all")
    return list(selected)


def _refusal(name: str, config: CompareConfig, sides: tuple[int, ...]) -> str | None:
    """Why the network can't be trained with these settings on samples of these sides, None where it can."""
    if weightless(ModelConfig(name=name)).spatial_dims < len(sides):
        return f"{name} is for images: its scores of slices are none of volumes, so compare it with others for images"
    try:
        model = resolved(ModelConfig(name=name, **config.network_settings), config.size)
        check_trainable(model, sides, config.mode)
    except UserError as error:
        return str(error)
    return None


def _test_pairs(config: CompareConfig, layout: Layout, console: Console, dims: int) -> Sequence[Pair]:
    """The pairs of the test part, after every file has been read once; empty where networks are scored on the
    validation part. Raises UserError."""
    if config.test is None:
        return layout.splits.get("test", [])
    try:
        masks = config.masks if config.data else None
        test_layout = layout_of(replace(config, data=config.test, images=None, masks=masks, pair=None))
        card = examine(test_layout, config, console, as_volumes=dims == 3)
        card.refuse()
    except UserError as error:
        raise UserError(f"--test: {error}") from error
    return [pair for split in test_layout.splits for pair in card.pairs(split)]


def _mode(config: CompareConfig, layout: Layout, console: Console) -> Mode:
    """The mode of all networks, chosen from the masks alone: short runs might choose another for each."""
    if config.mode != "auto":
        return config.mode
    card = examine(layout, config, console, as_volumes=False)
    card.refuse()
    return mode_for("auto", stretch_cost(card, config.size, config, console))[0]


def _settings(config: CompareConfig, network: str, minutes: float | None, folder: Path, mode: Mode) -> TrainConfig:
    """Settings of one training, with its run in the folder. mode: that of all networks that can be trained on crops."""
    settings = {spec.name: getattr(config, spec.name) for spec in fields(TrainConfig)}
    settings |= {"model": network, "name": network, "output": folder}
    if config.mode == "auto":
        settings["mode"] = "resize" if only_whole(network) else mode
    if minutes is not None:
        settings["max_time"] = 60 * minutes
    if len(config.minutes or ()) > 1:
        settings["name"] = f"{network}-{minutes:.12g}m"
    return TrainConfig(**settings)


def _one(
    config: TrainConfig, reference: Reference | None, layout: Layout, pairs: Sequence[Pair], console: Console
) -> Result:
    """Train a network and score it on the pairs, or where there are none on the validation part. reference: see
    `_width_like`, None where the width is given. Raises UserError, and Stopped."""
    compute = choose_compute(config.device, config.precision)
    if reference is not None:
        config = replace(config, width=_width_like(reference, config, compute))
    report = train(config, layout, console, time.monotonic())
    assert report is not None
    checkpoint = load_checkpoint(Path(report.best))
    trained = Result(
        network=config.model,
        width=checkpoint.model.base_channels,
        parameters=parameter_count(checkpoint.build()),
        epochs=report.epochs,
        run=report.run,
    )
    if not pairs:
        part = "validation" if report.scores else ""
        dice, set_dice, iou = (report.scores.get(metric) for metric in ("dice", "set_dice", "iou"))
        interval = report.dice_interval
        return replace(trained, part=part, dice=dice, dice_interval=interval, set_dice=set_dice, iou=iou)
    compute = replace(compute, precision=checkpoint.training["precision"])
    predictor = Predictor([checkpoint], compute, Inference(spacing=config.spacing))
    try:
        evaluation = evaluate_network(predictor, pairs, config.workers, console)
        seconds = _seconds(predictor, [pair.image for pair in pairs[:TIMED]])
    except UserError as error:
        return replace(trained, error=f"trained in {report.run}, but not scored: {error}")
    score = overall(evaluation, "dice")
    return replace(
        trained,
        part="test",
        dice=score.value,
        dice_interval=score.interval,
        set_dice=evaluation.scores["set_dice"],
        iou=evaluation.scores["iou"],
        seconds=seconds,
    )


def _seconds(predictor: Predictor, images: Sequence[Source]) -> float:
    """Seconds for one image, from disk to probabilities at its size; the network is warmed up."""
    start = time.monotonic()
    for image in images:
        for band in predictor.bands(predictor.read(image)):
            band.combined()
    return (time.monotonic() - start) / len(images)


def _reference_width(
    name: str, config: TrainConfig, compute: Compute, sides: tuple[int, ...], seconds: float | None
) -> int | None:
    """Width that the plan of a training of so many seconds would choose for the plain U-Net."""
    if seconds is None or config.epochs or compute.device.type != "cpu":
        return usual_width(name, compute.kind)
    model = resolved(ModelConfig(name=name), config.size)
    return affordable(model, True, compute, sides, config.batch_size, seconds)[0].base_channels


def _references(
    config: CompareConfig, times: Sequence[float | None], sides: tuple[int, ...]
) -> dict[float | None, Reference]:
    """Width and throughput of the plain U-Net for each of the times. Raises UserError, also where the device doesn't
    exist."""
    compute, references = choose_compute(config.device, config.precision), {}
    name = REFERENCE[len(sides)]
    for minutes in times:
        seconds = config.max_time if minutes is None else 60 * minutes
        width = _reference_width(name, config, compute, sides, seconds)
        speed = _speed(ModelConfig(name=name, base_channels=width), config, compute, sides)
        references[minutes] = Reference(name, sides, width, speed)
    return references


def _width_like(reference: Reference, config: TrainConfig, compute: Compute) -> int | None:
    """Width at which a step of the network takes about as long as one of the reference; None where it has no width."""
    if config.model == reference.name:
        return reference.width
    width = usual_width(config.model, compute.kind)
    if width is None:
        return None
    # A step's time is about a power of the width, so each trial extrapolates from the one before.
    speeds: dict[int, float] = {}
    while len(speeds) < TRIALS and width not in speeds:
        settings = config.network_settings | {"base_channels": width}
        speeds[width] = _speed(ModelConfig(name=config.model, **settings), config, compute, reference.sides)
        better = width * (speeds[width] / reference.speed) ** (1 / EXPONENT)
        width = max(WIDTH_GRID, round(better / WIDTH_GRID) * WIDTH_GRID)
    return min(speeds, key=lambda tried: abs(speeds[tried] / reference.speed - 1))


def _speed(candidate: ModelConfig, config: TrainConfig, compute: Compute, sides: tuple[int, ...]) -> float:
    """Training throughput in images a second. Raises UserError on out of memory."""
    model = resolved(candidate, config.size)
    torch.manual_seed(config.seed)
    optimizer = partial(
        make_optimizer, config.optimizer, lr=LRS[config.optimizer], weight_decay=0.0, device=compute.device
    )
    shape = (model.in_channels, *sides)
    network = build_model(model).to(compute.device)
    # Throughput is compared at one batch size for all networks, without the search for the fastest.
    speed = trial(network, compute, shape, model.out_channels, optimizer)(config.batch_size or CPU_TRAIN_BATCH)
    if speed is None:
        raise UserError(f"there is not enough memory for {model.name}: give a smaller --batch-size, --size or --width")
    return speed
