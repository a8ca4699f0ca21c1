"""Several networks on the same data, each for the same time or times: which one to take."""

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
from unet_cli.data.folder.layout import Layout, layout_of
from unet_cli.data.source import Pair, Source
from unet_cli.errors import UserError
from unet_cli.evaluation.evaluate import evaluate_network
from unet_cli.evaluation.scores import overall
from unet_cli.inference.predictor import Predictor
from unet_cli.models import MODELS, build_model, defaults_of, parameter_count, resolved, usual_width
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

REFERENCE = "unet"  # whose step the others' widths are chosen by
WIDTH_GRID = 4  # widths are multiples of it
TRIALS = 3  # of widths
TIMED = 32  # images
EXPONENT = 1.6  # about which power of the width a step's time grows with: less than 2, since some of it is memory


@dataclass(frozen=True)
class Result:
    """What became of one training of a network.

    minutes: that it was given with --minutes. part: of the data, that the scores are of: test or validation; '' where
    there is neither. dice, iou: mean over images and foreground classes, at original size, as set_dice, see
    metrics.set_dice; dice_interval: 95 %, None for a single image. seconds: of one image in prediction, from disk to
    mask. error: why there is nothing else.
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
    """The plain U-Net, by whose step the others' widths are chosen. speed: images a second in training."""

    width: int | None
    speed: float


def compare(config: CompareConfig, console: Console) -> Iterator[Result]:
    """Train each network for the time, each of the times or the epochs of the settings, one after the other, and score
    its best weights. What can't be trained comes first.

    Without --width, a network that has one gets that with which a training step takes about as long as that of the
    plain U-Net at the width that `train` would give it. Each is trained in a process of its own, so that one that
    fails, or dies, doesn't stop the others. Raises UserError before anything is trained, and Stopped.
    """
    if this_process() != (1, 1):
        raise UserError("compare trains in one process: start it without torchrun")
    names = chosen(config.models)
    refused = {name: reason for name in names if (reason := _refusal(name, config))}
    trainable = [name for name in names if name not in refused]
    layout = layout_of(config)
    pairs = _test_pairs(config, layout, console)
    mode = _mode(config, layout, console)
    times = config.minutes or (None,)
    chooses_width = config.width is None and len(names) > 1
    try:
        references = in_child(_references, config, times if chooses_width and trainable else ())
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
            row = Result(name, error=_with_way_on(error, settings))
        yield replace(row, minutes=minutes)


def _with_way_on(error: UserError, config: TrainConfig) -> str:
    """What went wrong, and of a run whose process has died how it may be gone on with."""
    run = config.output / str(config.name)
    if isinstance(error, ChildDied) and (run / "last.pth").exists():
        return f"{error}. To go on with it alone: {shlex.join(['unet', 'train', '--resume', str(run)])}"
    return str(error)


def chosen(names: str) -> list[str]:
    """'a,b' -> these; 'all,-c' -> all networks for images but c. Raises UserError at a name that isn't in the table."""
    wanted: dict[str, None] = {}
    for name in (part.strip() for part in names.split(",")):
        if not name:
            continue
        if name == "all":
            wanted |= dict.fromkeys(known for known in MODELS if not known.endswith("3d"))
        elif name == "-all":
            wanted.clear()
        elif name.startswith("-"):
            defaults_of(name[1:])
            wanted.pop(name[1:], None)
        else:
            defaults_of(name)
            wanted[name] = None
    if not wanted:
        raise UserError(f"--models {names} leaves no network: name some, or all")
    return list(wanted)


def _refusal(name: str, config: CompareConfig) -> str | None:
    """Why the network can't be trained as asked, if it can't."""
    try:
        model = resolved(ModelConfig(name=name, **config.network_settings), config.size)
        check_trainable(model, config.size, config.mode)
    except UserError as error:
        return str(error)
    return None


def _test_pairs(config: CompareConfig, layout: Layout, console: Console) -> Sequence[Pair]:
    """What networks are scored on, every file of it read once; nothing where it's the validation part. Raises
    UserError."""
    if config.test is None:
        return layout.splits.get("test", [])
    try:
        masks = config.masks if config.data else None
        held = layout_of(replace(config, data=config.test, images=None, masks=masks, pair=None))
        card = examine(held, config, console)
        card.refuse()
    except UserError as error:
        raise UserError(f"--test: {error}") from error
    return [pair for split in held.splits for pair in card.pairs(split)]


def _mode(config: CompareConfig, layout: Layout, console: Console) -> Mode:
    """Of all networks, as the masks alone have it: each might choose another."""
    if config.mode != "auto":
        return config.mode
    card = examine(layout, config, console)
    card.refuse()
    return mode_for("auto", stretch_cost(card, config.size, config, console))[0]


def _settings(config: CompareConfig, network: str, minutes: float | None, folder: Path, mode: Mode) -> TrainConfig:
    """Of one training, whose run lies in the folder. mode: of all networks that can be trained on crops."""
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
    """Train, and score on the pairs; without any, the scores are those of the validation part. reference: see
    `_width_like`; None where the width is given. Raises UserError, and Stopped."""
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
    predictor = Predictor([checkpoint], replace(compute, precision=checkpoint.training["precision"]), Inference())
    try:
        found = evaluate_network(predictor, pairs, config.workers, console)
        seconds = _seconds(predictor, [pair.image for pair in pairs[:TIMED]])
    except UserError as error:
        return replace(trained, error=f"trained in {report.run}, but not scored: {error}")
    score = overall(found, "dice")
    return replace(
        trained,
        part="test",
        dice=score.value,
        dice_interval=score.interval,
        set_dice=found.scores["set_dice"],
        iou=found.scores["iou"],
        seconds=seconds,
    )


def _seconds(predictor: Predictor, images: Sequence[Source]) -> float:
    """Of one image, from disk to probabilities of its size; the network has seen images before."""
    start = time.monotonic()
    for image in images:
        for band in predictor.bands(predictor.read(image)):
            band.combined()
    return (time.monotonic() - start) / len(images)


def _reference_width(config: TrainConfig, compute: Compute, seconds: float | None) -> int | None:
    """Of the plain U-Net: the one that a training of so many seconds would plan with."""
    if seconds is None or config.epochs or compute.device.type != "cpu":
        return usual_width(REFERENCE, compute.kind)
    model = resolved(ModelConfig(name=REFERENCE), config.size)
    return affordable(model, True, compute, config, seconds)[0].base_channels


def _references(config: CompareConfig, times: Sequence[float | None]) -> dict[float | None, Reference]:
    """Of the plain U-Net in a training of each of the times. Raises UserError, also where there is no such device."""
    compute, found = choose_compute(config.device, config.precision), {}
    for minutes in times:
        width = _reference_width(config, compute, config.max_time if minutes is None else 60 * minutes)
        found[minutes] = Reference(width, _speed(ModelConfig(name=REFERENCE, base_channels=width), config, compute))
    return found


def _width_like(reference: Reference, config: TrainConfig, compute: Compute) -> int | None:
    """That with which a step of the network takes about as long as one of the reference; None where it has none."""
    if config.model == REFERENCE:
        return reference.width
    width = usual_width(config.model, compute.kind)
    if width is None:
        return None
    speeds: dict[int, float] = {}
    while len(speeds) < TRIALS and width not in speeds:
        asked = config.network_settings | {"base_channels": width}
        speeds[width] = _speed(ModelConfig(name=config.model, **asked), config, compute)
        better = width * (speeds[width] / reference.speed) ** (1 / EXPONENT)
        width = max(WIDTH_GRID, round(better / WIDTH_GRID) * WIDTH_GRID)
    return min(speeds, key=lambda tried: abs(speeds[tried] / reference.speed - 1))


def _speed(asked: ModelConfig, config: TrainConfig, compute: Compute) -> float:
    """Images a second in training."""
    model = resolved(asked, config.size)
    torch.manual_seed(config.seed)
    optimizer = partial(
        make_optimizer, config.optimizer, lr=LRS[config.optimizer], weight_decay=0.0, device=compute.device
    )
    shape = (model.in_channels, config.size, config.size)
    network = build_model(model).to(compute.device)
    speed = trial(network, compute, shape, model.num_classes, optimizer)(config.batch_size or CPU_TRAIN_BATCH)
    if speed is None:
        raise UserError(
            f"the memory doesn't suffice to try {model.name}: give a smaller --batch-size, --size or --width"
        )
    return speed
