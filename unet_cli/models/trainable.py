"""Whether a network can be trained as asked, told before anything is computed."""

from __future__ import annotations

from unet_cli.config.model import MAX_SIZE, ModelConfig
from unet_cli.errors import UserError
from unet_cli.models import Geometry, weightless


def check_trainable(model: ModelConfig, size: int, mode: str) -> None:
    """size: side of the samples; mode: 'resize', 'tile' or 'auto'. It takes neither memory nor time, whatever the
    network's size. Raises UserError where it can't learn from them."""
    network = weightless(model)
    if network.spatial_dims != 2:
        raise UserError(f"{model.name} is for volumes, which unet doesn't read yet: choose another --model")
    if network.only_whole and mode == "tile":
        raise UserError(f"{model.name} is for whole images only, as it was published: use --mode resize")
    if not is_trainable(network.geometry, size):
        least = next(side for side in range(size, 2 * MAX_SIZE) if is_trainable(network.geometry, side))
        raise UserError(
            f"--size {size} vanishes on the way to the bottom of {model.describe()}: give at least --size {least}"
            + (", or a smaller --depth" if model.depth else "")
        )


def only_whole(name: str) -> bool:
    """Whether a network of the table takes neither crops nor tiles. Raises UserError at a name that isn't in it."""
    return weightless(ModelConfig(name=name)).only_whole


def is_trainable(geometry: Geometry, size: int) -> bool:
    """Of samples of that side: whether there is a second pixel at the bottom, as batch norm needs it, and no more than
    half of it mirrored."""
    side = geometry.side(size + 2 * geometry.margin)
    return side >= 2 * geometry.stride and side - 2 * geometry.margin <= 2 * size
