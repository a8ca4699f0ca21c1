"""What a network sees at once: a square of an image, or a patch of a volume that fits its voxels and the memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from unet_cli.config.model import ModelConfig
from unet_cli.data.check.card import Card
from unet_cli.data.samples.warp import is_cube
from unet_cli.data.source import Pair
from unet_cli.models import Geometry, weightless

VOXELS = {"CPU": 2**18, "GPU": 2**21}  # of a patch, about


def sides_for(card: Card, train: Sequence[Pair], model: ModelConfig, size: int, kind: str) -> tuple[int, ...]:
    """Sides of the network's input: (size, size) for images, else (D, S, S) as in `patch_for`. kind: 'CPU' or 'GPU'.
    Raises UserError."""
    if not card.is_volumetric:
        return (size, size)
    geometry = weightless(model).geometry
    return patch_for(card.network_sizes(train), card.voxel_spacing or (1.0, 1.0, 1.0), geometry, VOXELS[kind], size)


def patch_for(
    sizes: Sequence[Sequence[int]], spacing: Sequence[float], geometry: Geometry, voxels: int, largest: int
) -> tuple[int, int, int]:
    """(D, S, S) of patches of about so many voxels: physically a cube, unless the volumes are thinner.

    sizes, spacing: of the volumes along (D, H, W). largest: maximum of S. Slices are square, so that they can be
    turned.
    """
    depth, height, width = np.median(np.asarray(sizes, np.float64), axis=0).tolist()
    ratio = spacing[0] / math.sqrt(spacing[1] * spacing[2])  # a cube has D * ratio = S
    side = min((voxels * ratio) ** (1 / 3), math.sqrt(height * width), largest)
    slices = min(side / ratio, depth)
    # What a thin volume leaves of the voxels goes into the slices, and the other way round.
    side = min(math.sqrt(voxels / slices), math.sqrt(height * width), largest)
    if side < largest:
        slices = min(max(slices, voxels / side**2), depth)
    return _valid(slices, geometry.along(0)), *(_valid(side, geometry.along(1)),) * 2


def _valid(side: float, along: Geometry) -> int:
    """The side that fits the network, of which half fits too where that is no great change."""
    whole = along.side(math.ceil(side))
    halved = 2 * along.side(math.ceil(whole / 2))
    return halved if halved <= 1.1 * whole else whole


def smaller(sides: tuple[int, ...], side: int, geometry: Geometry) -> tuple[int, ...]:
    """Sides of a crop of the shape of `sides` whose last side is `side`, as the network's input may be."""
    if is_cube(sides):
        return (side,) * len(sides)
    shrunk = (geometry.along(axis).side(round(full * side / sides[-1])) for axis, full in enumerate(sides[:-1]))
    return *(min(full, own) for full, own in zip(sides, shrunk, strict=False)), side
