"""Geometric augmentation of volumes: all transforms of a cube composed into one warp in space.

The ranges of rotation and zoom, see augment.IN_SPACE, are those of nnU-Net. Source: Isensee et al., "nnU-Net: a
self-configuring method for deep learning-based biomedical image segmentation", Nature Methods 18, 2021, supplement,
section 4. It differs in that there are quarter turns and elastic deformations as of images, and one interpolation,
linear, for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unet_cli.data.samples.warp import center_crop, cubic_weights, places_in, rotation


@dataclass(frozen=True, eq=False)
class SpaceWarp:
    """The mapping from the voxels of a result, a cube, to those of its source. Coordinates are relative to the cube: 0
    at its centre, -1 and 1 at its sides, in the order of the axes.

    axes: for each axis of the result the one of the source that it lies along; reversed: whether it runs backwards.
    linear: (3, 3) matrix of zoom and rotation from result to source, applied after these. shift: (3,), added to that.
    elastic: (3, G, G, G) displacements of control points with bicubic interpolation.
    """

    axes: tuple[int, ...] = (0, 1, 2)
    reversed: tuple[bool, ...] = (False, False, False)
    linear: np.ndarray | None = None
    shift: np.ndarray | None = None
    elastic: np.ndarray | None = None

    def matrix(self) -> np.ndarray:
        """(3, 3): from result to source, without the shift."""
        turned = np.zeros((3, 3))
        turned[self.axes, range(3)] = np.where(self.reversed, -1, 1)
        return turned if self.linear is None else self.linear @ turned


def rotation_in_space(radians: np.ndarray) -> np.ndarray:
    """(3, 3) matrix of rotations about the three axes, one after the other. radians: (3,)."""
    turns = []
    for axis, angle in enumerate(radians):
        turns.append(np.eye(3))
        turns[-1][np.ix_(*[[other for other in range(3) if other != axis]] * 2)] = rotation(angle)
    return reduce(np.matmul, turns)


def warped_in_space(image: Tensor, mask: Tensor, warp: SpaceWarp, size: int) -> tuple[Tensor, Tensor]:
    """Image (C, P, P, P) float and mask (P, P, P) integer -> (C, S, S, S) and (S, S, S), newly allocated.

    A warp of flips and quarter turns alone moves voxels without interpolation. Any other interpolates the image
    linearly and the mask by nearest neighbour at the same positions. Positions outside the patch are reflected.
    """
    if warp.linear is None and warp.elastic is None:
        sides, ends = (size, size, size), [axis - 3 for axis in range(3) if warp.reversed[axis]]
        pairs = (center_crop(image, sides).permute(0, *(axis + 1 for axis in warp.axes)), center_crop(mask, sides))
        return pairs[0].flip(ends).contiguous(), pairs[1].permute(warp.axes).flip(ends).contiguous()
    grid = _grid(warp, image.shape[-1], size, image.device)
    moved = F.grid_sample(image[None], grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    picked = F.grid_sample(
        mask[None, None].float(), grid, mode="nearest", padding_mode="reflection", align_corners=False
    )
    return moved[0], picked[0, 0].to(mask.dtype)


def _grid(warp: SpaceWarp, patch: int, size: int, device: torch.device) -> Tensor:
    """The source position of each voxel of the result: (1, S, S, S, 3), the last axis first, in the patch's coordinates
    from -1 to 1."""
    share, window, place = places_in(patch, size)
    # Each axis of the result adds its part to each coordinate.
    along = share * warp.matrix()[:, :, None] * place
    shift = window + share * (np.zeros(3) if warp.shift is None else warp.shift)
    along[:, 0] += shift[:, None]
    first, second, third = torch.from_numpy(along[::-1].astype(np.float32)).to(device).unbind(1)
    grid = first[:, :, None, None] + second[:, None, :, None] + third[:, None, None, :]
    if warp.elastic is not None:
        weights = torch.from_numpy(cubic_weights(size, warp.elastic.shape[-1])).to(device)
        moves = torch.from_numpy((share * warp.elastic[::-1]).astype(np.float32)).to(device)
        for _ in range(3):  # an axis of control points becomes one of voxels, and the last
            moves = torch.tensordot(moves, weights, dims=([1], [1]))
        grid += moves
    return grid.movedim(0, -1)[None]
