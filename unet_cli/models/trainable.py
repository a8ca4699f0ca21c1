"""Checks whether a network can be trained with given settings, before anything is computed."""

from __future__ import annotations

from unet_cli.config.model import MAX_SIZE, ModelConfig
from unet_cli.errors import UserError
from unet_cli.models import Geometry, weightless


def check_trainable(model: ModelConfig, size: int, mode: str) -> None:
    """Raises UserError where the network can't be trained on such samples. size: side of the samples; mode: 'resize',
    'tile' or 'auto'. The check takes neither memory nor time, whatever the network's size."""
    network = weightless(model)
    if network.spatial_dims != 2:
        raise UserError(f"{model.name} is for volumes, which unet doesn't read yet: choose another --model")
    if network.only_whole and mode == "tile":
        raise UserError(f"{model.name} is for whole images only, as published: use --mode resize")
    if not is_trainable(network.geometry, size):
        least = next(side for side in range(size, 2 * MAX_SIZE) if is_trainable(network.geometry, side))
        raise UserError(
            f"--size {size} is too small for the depth of {model.describe()}: give at least --size {least}"
            + (", or a smaller --depth" if model.depth else "")
        )


def only_whole(name: str) -> bool:
    """Whether a network of the table takes neither crops nor tiles. Raises UserError for a name that isn't in it."""
    return weightless(ModelConfig(name=name)).only_whole


def is_trainable(geometry: Geometry, size: int) -> bool:
    """Whether samples of that side leave a second pixel at the bottom, as batch norm needs, and at most half of the
    network's input is reflection."""
    side = geometry.side(size + 2 * geometry.margin)
    return side >= 2 * geometry.stride and side - 2 * geometry.margin <= 2 * size
