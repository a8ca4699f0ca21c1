"""The family: a table of networks. To add one, write its file and its row."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from unet_cli.config import ModelConfig
from unet_cli.errors import UserError
from unet_cli.models.geometry import Geometry
from unet_cli.models.unet import UNet

__all__ = ["MODELS", "Geometry", "build_model", "geometry_of", "parameter_count"]

MODELS: dict[str, Callable[[ModelConfig, bool], nn.Module]] = {
    "unet": UNet,
}


def build_model(config: ModelConfig, gradient_checkpointing: bool = False) -> nn.Module:
    """The network with fresh weights. Raises UserError at a name that is not in the table.

    gradient_checkpointing: compute activations again for the gradient instead of keeping them; results are the same.
    """
    if config.name not in MODELS:
        raise UserError(f"there is no network '{config.name}': choose one of {', '.join(MODELS)}, or update unet")
    return MODELS[config.name](config, gradient_checkpointing)


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def geometry_of(model: nn.Module) -> Geometry:
    """What the network says of its input's sides."""
    geometry = model.geometry
    assert isinstance(geometry, Geometry)
    return geometry
