"""Checks whether a network can be trained with given settings, before anything is computed."""

from __future__ import annotations

from unet_cli.config.model import MAX_SIZE, ModelConfig
from unet_cli.errors import UserError
from unet_cli.models import Geometry, weightless
from unet_cli.system.console import sides as spelled


def check_trainable(model: ModelConfig, sides: tuple[int, ...], mode: str) -> None:
    """Raises UserError where the network can't be trained on such samples.

    sides: of the samples, (H, W) or (D, H, W); a network for images is trained on the sections (H, W) of volumes.
    mode: 'resize', 'tile' or 'auto'. The check takes neither memory nor time, whatever the network's size.
    """
    network = weightless(model)
    if network.spatial_dims > len(sides):
        raise UserError(f"{model.name} is for volumes, and these are images: choose another --model")
    if network.only_whole and mode == "tile":
        raise UserError(f"{model.name} is for whole images only, as published: use --mode resize")
    sides = sides[-network.spatial_dims :]
    if is_trainable(network.geometry, sides):
        return
    least = tuple(_least_side(network.geometry.along(axis), side) for axis, side in enumerate(sides))
    if len(sides) == 2:
        raise UserError(
            f"--size {sides[-1]} is too small for the depth of {model.describe()}: give at least --size {max(least)}"
            + (", or a smaller --depth" if model.depth else "")
        )
    raise UserError(
        f"samples of {spelled(reversed(sides))} voxels are too small for the depth of {model.describe()}, which needs "
        f"{spelled(reversed(least))}: give a smaller --depth, or a --model for images, which is trained on slices"
    )


def only_whole(name: str) -> bool:
    """Whether a network of the table takes neither crops nor tiles. Raises UserError for a name that isn't in it."""
    return weightless(ModelConfig(name=name)).only_whole


def is_trainable(geometry: Geometry, sides: tuple[int, ...]) -> bool:
    """Whether samples of these sides leave a second pixel at the bottom, as batch norm needs, and at most half of the
    network's input along each axis is reflection."""
    at_bottom = 1
    for axis, side in enumerate(sides):
        along = geometry.along(axis)
        padded = along.side(side + 2 * along.margin)
        if padded - 2 * along.margin > 2 * side:
            return False
        at_bottom *= padded // along.stride
    return at_bottom > 1


def _least_side(geometry: Geometry, side: int) -> int:
    """The smallest side from that one on which is enough whatever the other sides are."""
    return next(longer for longer in range(side, 2 * MAX_SIZE) if is_trainable(geometry, (longer,)))
