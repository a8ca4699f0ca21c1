"""The checkpoint: one file with weights and all that is needed to use them, tensors and plain values without code."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from unet_cli.config.base import plain, types_of
from unet_cli.config.data import Preprocessing
from unet_cli.config.model import ModelConfig
from unet_cli.config.training import METRICS, TrainConfig
from unet_cli.data.labels import LabelMap
from unet_cli.data.source import CHANNEL_WORDS, CLASS_FOLDERS, MASKS_BESIDE
from unet_cli.errors import UserError, explain
from unet_cli.exported import Exported, is_exported, read_exported
from unet_cli.foreign import recognised
from unet_cli.models import Network, build_model, weightless
from unet_cli.system.console import few, sides
from unet_cli.system.files import whole_file
from unet_cli.system.schema import Misfit, json_of, parsed
from unet_cli.system.tensors import Unreadable, load_tensors
from unet_cli.version import __version__

FORMAT = "unet-checkpoint"
# In Checkpoint.training: see Card.image_marks, and runs.division for the last.
LEARNED, VALIDATED, DIVIDED = "learned_images", "validated_images", "divided_volumes"
BESIDE_SETTINGS = {
    "device_kind": str, "data_fingerprint": str, LEARNED: list[str], VALIDATED: list[str], DIVIDED: list[str],
    MASKS_BESIDE: list[str], CHANNEL_WORDS: list[str], CLASS_FOLDERS: bool,
}  # fmt: skip
MAX_NAME = 100  # characters
REQUIRED = {"model", "preprocessing", "labels", "training", "data", "metrics", "threshold", "version"}
# Format 1 had fewer settings of networks and of preprocessing; 2 had no temperature; in 3 the first class was always
# background; in 4 label maps used values as stored, each on its own, and images had no orientation; 5 had no volumes;
# in 6 no classes overlapped, and objects had no cores.
FORMAT_VERSION = 7


@dataclass(frozen=True)
class Checkpoint:
    """A trained network with all that is needed to use it.

    core_threshold: probability from which a pixel is of an object's core, see data/cores.py; smallest_object: pixels of
    the smallest that is kept; split_cores: whether cores are separated at their necks. temperature: divisor of the
    logits that calibrates the probabilities, 1 where none was fitted; thresholds are on calibrated probabilities.
    threshold: default probability from which a pixel is foreground; best_threshold: the one that scored best on the
    validation part at original size (None before the end of a run, without a validation part and for several classes).
    training: the settings as plain values; data: description of the training data; metrics: those of the epoch of the
    weights, and with the prefix 'final_' those at original size; resume: state of optimizer, epoch and step, in
    last.pth only. exported: the network in a file for another runtime, which has no weights here.
    """

    model: ModelConfig
    preprocessing: Preprocessing
    labels: LabelMap
    weights: dict[str, Tensor]
    training: dict[str, Any] = field(default_factory=dict)
    data: list[str] = field(default_factory=list)
    metrics: dict[str, float | bool] = field(default_factory=dict)
    threshold: float = 0.5
    best_threshold: float | None = None
    temperature: float = 1.0
    core_threshold: float = 0.5
    smallest_object: int = 0
    split_cores: bool = False
    version: str = __version__
    resume: dict[str, Any] | None = None
    exported: Exported | None = None

    def build(self) -> Network:
        """The network with the weights, on the CPU."""
        model = build_model(self.model)
        model.load_state_dict(self.weights)
        return model


def described(checkpoint: Checkpoint) -> dict[str, Any]:
    """All that a checkpoint says beside its weights and the state for resuming, as plain values: what an exported file
    holds as JSON."""
    return {
        "format_version": FORMAT_VERSION,
        "version": checkpoint.version,
        "model": plain(checkpoint.model),
        "preprocessing": plain(checkpoint.preprocessing),
        "labels": checkpoint.labels.plain(),
        "threshold": checkpoint.threshold,
        "best_threshold": checkpoint.best_threshold,
        "temperature": checkpoint.temperature,
        "core_threshold": checkpoint.core_threshold,
        "smallest_object": checkpoint.smallest_object,
        "split_cores": checkpoint.split_cores,
        "training": checkpoint.training,
        "data": checkpoint.data,
        "metrics": checkpoint.metrics,
    }


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint atomically and flush it to disk; on failure the old file is unchanged. Raises UserError
    where writing fails."""
    beside = {"weights": checkpoint.weights, "resume": checkpoint.resume}
    content = {"format": FORMAT, **described(checkpoint), **beside}
    memory = io.BytesIO()  # torch hides the reason of a failed write, such as a full disk; Python's file tells it
    torch.save(content, memory)
    with whole_file(path, durable=True) as file:  # a temporary file, renamed when it is complete and on the disk
        file.write(memory.getbuffer())


def load_checkpoint(path: Path, exported: bool = False) -> Checkpoint:
    """Read a checkpoint, or the best one of a run's folder. Weights of other tools are imported where foreign/ supports
    them. exported: whether exported files are read too, which have no weights, for use in prediction. Raises
    UserError."""
    path = find_checkpoint(path)
    if is_exported(path):
        return _of_exported(path, exported)
    try:
        content = load_tensors(path)
    except OSError as error:
        raise explain(error, path) from error
    except Unreadable as error:
        if path.suffix == ".bin" and path.with_suffix(".xml").is_file():
            raise UserError(
                f"{path} is the half of an OpenVINO network: give the other, {path.with_suffix('.xml')}"
            ) from error
        raise UserError(
            f"{path} is not a checkpoint of unet: it is damaged, of another kind, or holds more than tensors and plain "
            f"values, which could run code when opened ({error}). Give a best.pth or last.pth that `unet train` wrote, "
            "or a state dict of Pytorch-UNet or segmentation_models_pytorch"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return _foreign(content, path)
    try:
        return _checked(content)
    except _Newer as error:
        raise UserError(f"{path} {error}") from error
    except (Misfit, UserError) as error:
        raise UserError(f"{path} is damaged, or not a checkpoint that `unet train` wrote: {error}") from error


def _of_exported(path: Path, exported: bool) -> Checkpoint:
    """A checkpoint from the description in an exported file's metadata. Raises UserError."""
    if not exported:
        raise UserError(
            f"{path} is an exported network, which `unet predict`, `unet evaluate` and `unet info` read; here weights "
            "are needed: give the checkpoint that it was exported from, such as the best.pth of its run"
        )
    text, network = read_exported(path)
    try:
        content = json_of(text)
        return _checked(content if isinstance(content, dict) else {}, network)
    except _Newer as error:
        raise UserError(f"{path} {error}") from error
    except (ValueError, UserError) as error:  # Misfit is a ValueError
        raise UserError(
            f"{path} is damaged, or not as `unet export` wrote it: {error}: export it again: unet export --weights RUN"
        ) from error


class _Newer(UserError):
    """The checkpoint was written by a newer version of unet."""


def _checked(content: dict[Any, Any], exported: Exported | None = None) -> Checkpoint:
    """The checkpoint, after every value has been checked. exported: its network, instead of weights. Raises UserError,
    and Misfit."""
    version = parsed(str, content.get("version"), "version")
    if not version.isprintable() or len(version) > MAX_NAME:
        raise Misfit(f"version is {ascii(version[:MAX_NAME])}")
    # Before the other fields are parsed, any of which a newer format may have changed.
    if parsed(int, content.get("format_version"), "format_version") > FORMAT_VERSION:
        raise _Newer(f"was written by unet {version}, which is newer than this one: update unet")
    if exported is not None:
        content = {**content, "weights": {}, "resume": None}
    parts = {spec.name: content[spec.name] for spec in fields(Checkpoint) if spec.name in content}
    parts.pop("exported", None)
    resume = parts.pop("resume", None)  # checked by runs/resume.py, since only a resumed run needs it
    if resume is not None and not isinstance(resume, dict):
        raise Misfit(f"resume is a {type(resume).__name__}")
    if missing := REQUIRED - parts.keys():
        raise Misfit(f"{min(missing)} is missing")
    checkpoint = replace(parsed(Checkpoint, parts), resume=resume, exported=exported)
    for name, low, high in (
        ("threshold", 0, 1),
        ("best_threshold", 0, 1),
        ("temperature", 1e-6, 1e6),
        ("core_threshold", 0, 1),
    ):
        number = getattr(checkpoint, name)
        if number is not None and not low <= number <= high:  # false for NaN, so it is refused too
            raise Misfit(f"{name} is {number:g}, and not {low:g} to {high:g}")
    if checkpoint.smallest_object < 0:
        raise Misfit(f"smallest_object is {checkpoint.smallest_object}")
    model, labels, preprocessing = checkpoint.model, checkpoint.labels, checkpoint.preprocessing
    if labels.num_classes != model.num_classes:
        raise Misfit(f"labels has {labels.num_classes} classes, and model {model.num_classes}")
    if (labels.overlapping, labels.cores) != (model.overlapping, model.cores):
        raise Misfit("labels and model differ in what they say of classes that overlap, or of objects")
    if preprocessing.in_channels != model.in_channels:
        raise Misfit(f"preprocessing has {preprocessing.in_channels} channels, model {model.in_channels}")
    _check_training(checkpoint.training)
    expected = _expected(model)
    if exported is None:
        _check_weights(model, checkpoint.weights, expected)
    return checkpoint


def _check_training(training: dict[str, Any]) -> None:
    """Check that settings have the types of their flags, with paths as strings, and the values stored beside them too.
    Raises Misfit."""
    hints = types_of(TrainConfig) | BESIDE_SETTINGS
    for name, value in training.items():
        kinds = (hints.get(name), *get_args(hints.get(name)))
        if isinstance(value, float) and float in kinds:  # `parsed` refuses infinity, which a flag may have
            continue
        if value is not None and name in hints:
            parsed(hints[name], value, f"training.{name}")


def _expected(model: ModelConfig) -> dict[str, Tensor]:
    """The network's weights on the meta device, so that a damaged width can't exhaust the memory. Raises UserError, and
    Misfit."""
    try:
        return weightless(model).state_dict()
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:  # settings that give impossible shapes
        raise Misfit(f"there is no such network as {model.describe()}: {error}") from error


def _check_weights(model: ModelConfig, weights: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Check that the weights are exactly those of the network, dense and finite. Raises Misfit."""
    if expected.keys() != weights.keys():
        raise Misfit(f"weights are not those of {model.describe()}: {few(sorted(expected.keys() ^ weights.keys()))}")
    for name, tensor in weights.items():
        like = expected[name]
        matches = tensor.shape == like.shape and tensor.is_floating_point() == like.is_floating_point()
        if not matches or tensor.layout != torch.strided or tensor.is_meta or tensor.is_complex():
            raise Misfit(f"{name} is a tensor of {sides(tensor.shape)}, {tensor.dtype}, and not {sides(like.shape)}")
        # A stride of 0 lets a tiny file expand to any amount of memory.
        if any(stride == 0 and side > 1 for stride, side in zip(tensor.stride(), tensor.shape, strict=True)):
            raise Misfit(f"{name} holds one value many times")
        if not bool(torch.isfinite(tensor).all()):
            raise Misfit(f"{name} holds values that are not finite, so every mask would be empty: train again")


def _foreign(content: Any, path: Path) -> Checkpoint:
    try:
        foreign = recognised(content) if isinstance(content, dict) else None
    except UserError as error:
        raise UserError(f"{path} {error}") from error
    if foreign is None:
        raise UserError(
            f"{path} holds weights of a tool that unet doesn't know: give a best.pth or last.pth that `unet train` "
            "wrote, or weights of Pytorch-UNet or segmentation_models_pytorch"
        )
    return Checkpoint(**vars(foreign))


def find_checkpoint(path: Path) -> Path:
    """The file itself, or the best.pth of a run's folder. Raises UserError that names the newest run where there is
    none."""
    found = find_checkpoints([path])
    if len(found) > 1:
        raise UserError(f"{path} holds {len(found)} runs: give one, such as {found[0]}")
    return found[0]


def find_checkpoints(paths: Iterable[Path]) -> list[Path]:
    """For each path the file itself, the best.pth of a run's folder, or those of all runs in a folder. Raises
    UserError."""
    found: list[Path] = []
    for path in paths:
        in_runs = sorted(path.glob("*/best.pth")) if path.is_dir() else []
        if path.is_file():
            found.append(path)
        elif (path / "best.pth").is_file():
            found.append(path / "best.pth")
        elif in_runs:
            found += in_runs
        elif networks := _exported_in(path):
            raise UserError(f"{path} holds no best.pth, but {few(networks)}: give the file, such as {networks[0]}")
        elif (path / "last.pth").is_file():
            raise UserError(
                f"{path} has no best.pth yet, it was stopped in its first epoch: resume it: unet train --resume {path}"
            )
        else:
            runs = sorted(Path("checkpoints").glob("*/best.pth"), key=lambda run: run.stat().st_mtime)
            hint = (
                f"the newest run's is {runs[-1]}"
                if runs
                else "check the path, or train a network first: unet train --data DIR"
            )
            raise UserError(f"{path / 'best.pth' if path.is_dir() else path} does not exist: {hint}")
    return found


def _exported_in(folder: Path) -> list[str]:
    """The exported files of a folder, which may hold other XML too: of OpenVINO those with a .bin beside them."""
    files = sorted(path for path in folder.glob("*") if is_exported(path))
    return [str(path) for path in files if path.suffix.lower() == ".onnx" or path.with_suffix(".bin").exists()]


def describe_unfinished(paths: Iterable[Path]) -> list[str]:
    """A line for each unfinished run, of the runs that these weights belong to or that are in these folders."""
    runs: list[Path] = []
    for path in paths:
        folder = path if path.is_dir() else path.parent
        is_run = path.is_file() or (folder / "best.pth").exists()
        runs += [folder] if is_run else sorted(folder.glob("*/"))
    unfinished = [run for run in runs if (run / "split.json").exists() and not (run / METRICS).exists()]
    weights = {True: "its weights are the best so far", False: "it has no weights yet, and is left out"}
    return [f"{run} hasn't finished training: {weights[(run / 'best.pth').exists()]}" for run in unfinished]
