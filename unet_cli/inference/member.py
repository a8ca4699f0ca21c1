"""A trained network in the form that predicts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from unet_cli.checkpoint import Checkpoint
from unet_cli.config import Inference, Preprocessing
from unet_cli.device import DTYPES, Compute
from unet_cli.models import Geometry, geometry_of
from unet_cli.models.fold import fold_batch_norm


@dataclass(frozen=True)
class Member:
    """One of the networks whose probabilities are averaged; mostly the only one. geometry: of its input."""

    checkpoint: Checkpoint
    preprocessing: Preprocessing
    geometry: Geometry
    model: nn.Module

    def input_side(self, output: int) -> int:
        """What it has to see for an output of at least that side: the margin before it, and at the end what is left."""
        return self.geometry.side(output + 2 * self.geometry.margin)


def make_member(checkpoint: Checkpoint, compute: Compute, settings: Inference) -> Member:
    """Batch norm folded, channels last, in the device's number format, and compiled if asked for."""
    model = checkpoint.build()
    geometry = geometry_of(model)
    model = fold_batch_norm(model).to(compute.device, DTYPES[compute.precision])
    model = model.to(memory_format=torch.channels_last)
    preprocessing = checkpoint.preprocessing
    if settings.size:
        preprocessing = replace(preprocessing, size=settings.size)
    if settings.compile:
        model.compile(dynamic=False)
    return Member(checkpoint, preprocessing, geometry, model)
