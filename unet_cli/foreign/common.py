"""Shared code of the importers: renaming of tensors, and the other fields of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unet_cli.config.data import Preprocessing
from unet_cli.config.model import DEFAULT_SIZE, ModelConfig
from unet_cli.data.labels import LabelMap
from unet_cli.errors import UserError
from unet_cli.models import weightless
from unet_cli.system.console import few, sides


@dataclass(frozen=True)
class Foreign:
    """The fields of a Checkpoint that can be inferred from a foreign file."""

    model: ModelConfig
    preprocessing: Preprocessing
    labels: LabelMap
    weights: dict[str, Tensor]
    data: list[str]


def plain_tensors(state: dict[str, Tensor], head: str, tool: str) -> dict[str, Tensor]:
    """The tensors in float32. Raises UserError for tensors that no trained network has: sparse, empty, not finite."""
    for name, tensor in state.items():
        is_counter = name.endswith("num_batches_tracked")
        if tensor.layout != torch.strided or tensor.is_meta or not (tensor.is_floating_point() or is_counter):
            raise unlike(tool, f"{name} is a tensor of {tensor.dtype}, {tensor.layout}, on {tensor.device}")
        if not tensor.numel() or not bool(torch.isfinite(tensor).all()):
            raise unlike(tool, f"{name} holds {'values that are not finite' if tensor.numel() else 'nothing'}")
    tensor_of(state, head, 4, tool)
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def renamed(
    state: dict[str, Tensor], shapes: dict[str, torch.Size], their_name: Callable[[str], str], tool: str
) -> dict[str, Tensor]:
    """The tensors under our names. Raises UserError unless names and shapes are exactly the expected ones."""
    theirs = {name: their_name(name) for name in shapes}
    missing = [name for name in theirs.values() if name not in state]
    others = sorted(set(state) - set(theirs.values()))
    if missing:
        raise unlike(tool, f"{few(missing)} is missing")
    if others:
        raise unlike(tool, f"{few(others)} is not part of that")
    for ours, name in theirs.items():
        if state[name].shape != shapes[ours]:
            raise unlike(tool, f"{name} is {sides(state[name].shape)} and not {sides(shapes[ours])}")
    return {ours: state[name] for ours, name in theirs.items()}


def with_one_logit(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """For two classes, replace both logits by their difference, whose sigmoid is the softmax of the second class."""
    pairs = {name: weights[name] for name in ("head.weight", "head.bias") if len(weights[name]) == 2}
    return weights | {name: tensor[1:] - tensor[:1] for name, tensor in pairs.items()}


def shapes_of(config: ModelConfig) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weightless(config).state_dict().items()}


def preprocessing_of(
    config: ModelConfig, mean: tuple[float, ...], std: tuple[float, ...], scale: float
) -> Preprocessing:
    """The preprocessing. mean, std: for pixels in 0 to 1, one value for each channel or one for all."""
    mean, std = (tuple(255 * value for value in part * (config.in_channels // len(part))) for part in (mean, std))
    return Preprocessing(
        size=DEFAULT_SIZE,
        in_channels=config.in_channels,
        dtype="uint8",
        mean=mean,
        std=std,
        keep_alpha=config.in_channels in (2, 4),  # their tools read alpha as a channel
        scale=scale,
    )


def labels_of(logits: int, mask_values: object) -> tuple[LabelMap, list[str]]:
    """The label map, and a note where the file's mask_values don't match its classes."""
    classes = max(2, logits)
    default = (0, 255) if logits == 1 else tuple(range(classes))
    stored = mask_values if isinstance(mask_values, list) else []
    is_colour = any(isinstance(value, list) for value in stored)
    parsed = tuple(_colour(value) if is_colour else _number(value) for value in stored)
    values = tuple(value for value in parsed if value is not None)
    note = []
    if len(set(values)) != classes or len(values) != len(parsed):
        note = [f"its mask_values don't match its {classes} classes, which are numbered instead"] if stored else []
        values, is_colour = default, False
    names = [f"#{value:06x}" if is_colour else str(value) for value in values]
    names = names if classes > 2 else ["background", "foreground"]
    return LabelMap(values, tuple(names), "colours" if is_colour else "values"), note


def _number(value: object) -> int | None:
    """A mask value as an integer that can be written in a mask, 0 to 65,535; else None."""
    return int(value) if isinstance(value, (int, float)) and value in range(2**16) else None


def _colour(value: object) -> int | None:
    """[r, g, b] or [r, g, b, alpha] as 0xRRGGBB; None for anything else."""
    parts = [_number(part) for part in value] if isinstance(value, list) and len(value) in (3, 4) else []
    colour = bytes(part for part in parts[:3] if part is not None and part < 256)
    return int.from_bytes(colour) if len(colour) == 3 else None


def tensor_of(state: dict[str, Tensor], name: str, dims: int, tool: str) -> Tensor:
    if name not in state:
        raise unlike(tool, f"{name} is missing")
    if state[name].ndim != dims:
        raise unlike(tool, f"{name} has {state[name].ndim} dimensions and not {dims}")
    return state[name]


def unlike(tool: str, why: str, advice: str = "only what its own code builds, unchanged, can be imported") -> UserError:
    return UserError(f"holds weights that look like those of {tool}, but {why}: {advice}")
