"""Geometric augmentation: all transforms of a sample composed into one warp of image and mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class Warp:
    """The mapping from the result's pixels to the source's. Coordinates (x, y) are relative to the window: 0 at its
    centre, -1 and 1 at its sides.

    turns: quarter turns. mirror: whether left and right are exchanged after them. linear: (2, 2) matrix of zoom,
    rotation and shear from result to source, applied after mirror and turns. shift: (2,), added to that. elastic: (2,
    G, G) displacements of control points with bicubic interpolation; G is the same in all warps of a batch.
    """

    turns: int = 0
    mirror: bool = False
    linear: np.ndarray | None = None
    shift: np.ndarray | None = None
    elastic: np.ndarray | None = None

    @property
    def interpolates(self) -> bool:
        """Whether source positions lie between pixels."""
        return any(part is not None for part in (self.linear, self.shift, self.elastic))

    def matrix(self) -> np.ndarray:
        """(2, 2): from result to source, without the shift."""
        mirrored = rotation(self.turns * math.pi / 2) @ np.diag([-1 if self.mirror else 1, 1])
        return mirrored if self.linear is None else self.linear @ mirrored


def rotation(radians: float) -> np.ndarray:
    """(2, 2) rotation matrix."""
    cos, sin = math.cos(radians), math.sin(radians)
    return np.array([[cos, -sin], [sin, cos]])


def center_crop(pixels: Tensor, sides: Sequence[int]) -> Tensor:
    """The centre (..., *sides) of (..., *spatial); a view."""
    for axis, side in enumerate(sides, start=-len(sides)):
        pixels = pixels.narrow(axis, (pixels.shape[axis] - side) // 2, side)
    return pixels


def is_cube(sides: Sequence[int]) -> bool:
    """Whether all sides are equal; always so of images."""
    return len(set(sides)) == 1


def warped(image: Tensor, mask: Tensor, warps: Sequence[Warp], size: int) -> tuple[Tensor, Tensor]:
    """Image (N, C, P, P) float and mask (N, ..., P, P) integer -> (N, C, S, S) and (N, ..., S, S), newly
    allocated.

    Warps of flips and quarter turns alone move pixels without interpolation. Others interpolate the image bilinearly
    and the mask by nearest neighbour at the same positions. Positions outside the patch are reflected.
    """
    chosen = [number for number, warp in enumerate(warps) if warp.interpolates]
    if len(chosen) == len(warps):
        return _sampled(image, mask, warps, size)
    sides = (size, size)
    pairs = [_turned(center_crop(image[n], sides), center_crop(mask[n], sides), warp) for n, warp in enumerate(warps)]
    if chosen:
        images, masks = (torch.stack([tensor[n] for n in chosen]) for tensor in (image, mask))
        sampled = _sampled(images, masks, [warps[n] for n in chosen], size)
        for n, *pair in zip(chosen, *sampled, strict=True):
            pairs[n] = (pair[0], pair[1])
    return torch.stack([image for image, _ in pairs]), torch.stack([mask for _, mask in pairs])


def _turned(image: Tensor, mask: Tensor, warp: Warp) -> tuple[Tensor, Tensor]:
    image, mask = (torch.rot90(tensor, warp.turns, (-2, -1)) for tensor in (image, mask))
    return (image.flip(-1), mask.flip(-1)) if warp.mirror else (image, mask)


def _sampled(image: Tensor, mask: Tensor, warps: Sequence[Warp], size: int) -> tuple[Tensor, Tensor]:
    grid = _grid(warps, image.shape[-1], size, image.device)
    image = F.grid_sample(image, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    planes = mask.reshape(len(mask), -1, *mask.shape[-2:]).float()
    picked = F.grid_sample(planes, grid, mode="nearest", padding_mode="reflection", align_corners=False)
    return image, picked.view(*mask.shape[:-2], size, size).to(mask.dtype)


def _grid(warps: Sequence[Warp], patch: int, size: int, device: torch.device) -> Tensor:
    """The source position of each pixel of the result: (N, S, S, 2), in the patch's coordinates from -1 to 1."""
    points = max(0 if warp.elastic is None else len(warp.elastic[0]) for warp in warps)
    factors = torch.from_numpy(np.stack([_factors(warp, patch, size, points) for warp in warps])).to(device)
    # The displacements of all pixels are a product of two thin matrices; the linear part, a sum of a row and a column,
    # is kept out of that product, which a GPU may compute in TF32, too coarse for positions.
    across, down, columns = factors[:, :, :1], factors[:, :, 1:2], factors[:, :, 2:]
    grid = (across + down.transpose(-1, -2)).flatten(0, 1)
    if points:
        rows = torch.from_numpy(cubic_weights(size, points)).to(device)
        grid.baddbmm_(rows.expand(len(grid), -1, -1), columns.flatten(0, 1))
    return grid.unflatten(0, (-1, 2)).movedim(1, -1)


def _factors(warp: Warp, patch: int, size: int, points: int) -> np.ndarray:
    """(2, 2 + points, S) float32, for x and y: the part of the source position that depends on the column, the part
    that depends on the row, and the displacements along the columns for each row of control points."""
    share, window, place = places_in(patch, size)
    matrix, shift = warp.matrix(), np.zeros(2) if warp.shift is None else warp.shift
    factors = np.zeros((2, 2 + points, size))
    factors[:, 0] = share * (matrix[:, :1] * place + shift[:, None]) + window
    factors[:, 1] = share * matrix[:, 1:] * place
    if warp.elastic is not None:
        factors[:, 2:] = share * warp.elastic @ cubic_weights(size, points).T
    return factors.astype(np.float32)


def places_in(patch: int, size: int) -> tuple[float, float, np.ndarray]:
    """How a window of `size` pixels lies amid a patch along one axis: its share of the patch, its centre in the
    coordinates of the patch, and (S,) where its pixels are in its own."""
    share = size / patch
    window = 2 * ((patch - size) // 2) / patch - (1 - share)  # off by half a pixel if one side is odd
    return share, window, (2 * np.arange(size) + 1 - size) / size


@lru_cache
def cubic_weights(size: int, points: int) -> np.ndarray:
    """(S, points) float32: the bicubic weight of each control point at each pixel of a row."""
    each = torch.eye(points)[None, None]
    return F.interpolate(each, (size, points), mode="bicubic", align_corners=True)[0, 0].numpy()
