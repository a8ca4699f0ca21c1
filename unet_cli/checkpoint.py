"""One file holds weights and all that is needed to use them: tensors and plain values, nothing that runs code."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unet_cli.config import METRICS, ModelConfig, Preprocessing, plain
from unet_cli.data.labels import LabelMap
from unet_cli.errors import UserError, explain
from unet_cli.files import whole_file
from unet_cli.foreign import recognised
from unet_cli.models import Network, build_model
from unet_cli.version import __version__

FORMAT = "unet-checkpoint"
LEARNED, VALIDATED = "learned_images", "validated_images"  # in Checkpoint.training: see Card.image_marks
FORMAT_VERSION = 3  # 1 had fewer settings of networks and of preprocessing, 2 no temperature


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and what it needs.

    temperature: what logits are divided by so that probabilities say how often they are right, 1 where none was fitted;
    what follows is in such probabilities. threshold: from which a pixel is foreground unless the user says otherwise;
    best_threshold: the one that scored best on the validation part, at original size (None before the end of a run,
    without a validation part and for several classes). training: the settings as plain values; data: what it was
    trained on, in words; metrics: of the epoch that the weights are from, and at original size with a 'final_' before
    the name; resume: optimiser, epoch and step, in last.pth only.
    """

    model: ModelConfig
    preprocessing: Preprocessing
    labels: LabelMap
    weights: dict[str, Tensor]
    training: dict[str, Any] = field(default_factory=dict)
    data: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    threshold: float = 0.5
    best_threshold: float | None = None
    temperature: float = 1.0
    version: str = __version__
    resume: dict[str, Any] | None = None

    def build(self) -> Network:
        """The network with these weights, on the CPU."""
        model = build_model(self.model)
        model.load_state_dict(self.weights)
        return model


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write it whole and flushed to disk, or leave the old file as it was. Raises UserError where the disk refuses."""
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "version": checkpoint.version,
        "model": plain(checkpoint.model),
        "preprocessing": plain(checkpoint.preprocessing),
        "labels": checkpoint.labels.plain(),
        "threshold": checkpoint.threshold,
        "best_threshold": checkpoint.best_threshold,
        "temperature": checkpoint.temperature,
        "training": checkpoint.training,
        "data": checkpoint.data,
        "metrics": checkpoint.metrics,
        "weights": checkpoint.weights,
        "resume": checkpoint.resume,
    }
    memory = io.BytesIO()  # torch reports a full disk as a failure of its own; Python's file tells why
    torch.save(content, memory)
    with whole_file(path, durable=True) as file:
        file.write(memory.getbuffer())


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, or the best one of a run's folder. Weights of other tools are read too, where foreign.py knows
    them. Raises UserError."""
    path = find_checkpoint(path)
    try:
        file = io.BytesIO(path.read_bytes())
    except OSError as error:
        raise explain(error, path) from error
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is not a checkpoint of unet: it is damaged, of another kind, or holds more than tensors and plain "
            "values, which could run code when opened. Give a best.pth or last.pth that `unet train` wrote, or a state "
            "dict of Pytorch-UNet or segmentation_models_pytorch"
        ) from error
    except Exception as error:  # what is no checkpoint may make the unpickler fail in any way
        raise UserError(
            f"{path} is not a checkpoint, or is damaged: give a best.pth that `unet train` wrote"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return _foreign(content, path)
    if content["format_version"] > FORMAT_VERSION:
        raise UserError(f"{path} was written by unet {content['version']}, which is newer than this one: update unet")
    preprocessing, temperature = content["preprocessing"], content.get("temperature", 1.0)
    if not 0 < temperature < math.inf:
        raise UserError(f"{path} is damaged: its temperature is {temperature}")
    return Checkpoint(
        model=ModelConfig(**content["model"]),
        preprocessing=Preprocessing(
            **{**preprocessing, "mean": tuple(preprocessing["mean"]), "std": tuple(preprocessing["std"])}
        ),
        labels=LabelMap.from_plain(content["labels"]),
        weights=content["weights"],
        training=content["training"],
        data=content["data"],
        metrics=content["metrics"],
        threshold=content["threshold"],
        best_threshold=content["best_threshold"],
        temperature=temperature,
        version=content["version"],
        resume=content["resume"],
    )


def _foreign(content: Any, path: Path) -> Checkpoint:
    try:
        found = recognised(content) if isinstance(content, dict) else None
    except UserError as error:
        raise UserError(f"{path} {error}") from error
    if found is None:
        raise UserError(
            f"{path} holds weights of a tool that unet doesn't know: give a best.pth or last.pth that `unet train` "
            "wrote, or weights of Pytorch-UNet or segmentation_models_pytorch"
        )
    return Checkpoint(**vars(found))


def find_checkpoint(path: Path) -> Path:
    """The file itself, or a run folder's best.pth. Raises UserError that names the newest run where there is none."""
    found = find_checkpoints([path])
    if len(found) > 1:
        raise UserError(f"{path} holds {len(found)} runs: give one, such as {found[0]}")
    return found[0]


def find_checkpoints(paths: Iterable[Path]) -> list[Path]:
    """Each file itself, a run folder's best.pth, or the best.pth of all runs in a folder. Raises UserError."""
    found: list[Path] = []
    for path in paths:
        of_runs = sorted(path.glob("*/best.pth")) if path.is_dir() else []
        if path.is_file():
            found.append(path)
        elif (path / "best.pth").is_file():
            found.append(path / "best.pth")
        elif of_runs:
            found += of_runs
        elif (path / "last.pth").is_file():
            raise UserError(
                f"{path} has no best.pth yet, it was stopped in its first epoch: unet train --resume {path} goes on"
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


def describe_unfinished(paths: Iterable[Path]) -> list[str]:
    """A line for each run that these weights are of, or that lies in these folders, and hasn't come to its end."""
    runs: list[Path] = []
    for path in paths:
        folder = path if path.is_dir() else path.parent
        is_run = path.is_file() or (folder / "best.pth").exists()
        runs += [folder] if is_run else sorted(folder.glob("*/"))
    begun = [run for run in runs if (run / "split.json").exists() and not (run / METRICS).exists()]
    weights = {True: "its weights are the best so far", False: "it has no weights yet, and is left out"}
    return [f"{run} hasn't been trained to its end: {weights[(run / 'best.pth').exists()]}" for run in begun]
