"""A picture of a volume for people: three planes that cross in the middle of what was found."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from unet_cli.data.colours import Colours
from unet_cli.data.imagefile import Bands
from unet_cli.data.nearest import nearest
from unet_cli.data.pictures import GAP, PAPER, is_foreground, outlined, with_legend

MAX_STRETCH = 10.0  # of an axis whose voxels are longer


def crossing_planes(
    bands: Bands, indices: np.ndarray, colours: Colours, spacing: Sequence[float] | None = None
) -> Image.Image:
    """Three planes through the middle of the foreground side by side, with outlines and a legend: a slice, then what
    runs through all slices along the width and along the height, with the last slice at the top.

    bands: the volume, read slab by slab. indices: (D, H, W) uint8 class indices. spacing: of its voxels, along which
    planes are stretched. Raises UserError as reading does.
    """
    place = middle_of(indices)
    sizes = plane_sizes(indices.shape, spacing or (1.0, 1.0, 1.0))
    pictures = []
    for pixels, found, size in zip(
        planes_through(bands.rows(), place), planes_through([(0, indices)], place), sizes, strict=True
    ):
        pictures.append(outlined(nearest(pixels, *size), nearest(found, *size), colours, has_legend=False))
    width = sum(picture.width for picture in pictures) + GAP * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, max(picture.height for picture in pictures)), PAPER)
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + GAP
    legend = colours.line_legend()
    return with_legend(sheet, legend) if len(legend) > 1 else sheet


def middle_of(indices: np.ndarray) -> tuple[int, ...]:
    """The median of the foreground along each axis; the middle of the volume where there is no foreground."""
    found = is_foreground(indices)
    if not found.any():
        return tuple(length // 2 for length in indices.shape)
    others = [tuple(other for other in range(indices.ndim) if other != axis) for axis in range(indices.ndim)]
    totals = [np.cumsum(np.count_nonzero(found, axis=axes)) for axes in others]
    return tuple(int(np.searchsorted(total, total[-1] / 2)) for total in totals)


def planes_through(slabs: Iterable[tuple[int, np.ndarray]], place: Sequence[int]) -> list[np.ndarray]:
    """The planes (..., H, W), (..., D, W) and (..., D, H) through a voxel, the latter two with the last slice at the
    top. slabs: (first slice, (..., d, H, W) voxels), as in Bands.rows; an array is one slab."""
    across, rows, columns = [], [], []
    for start, slab in slabs:
        if start <= place[0] < start + slab.shape[-3]:
            across = [slab[..., place[0] - start, :, :].copy()]
        rows.append(slab[..., place[1], :].copy())
        columns.append(slab[..., place[2]].copy())
    return [across[0], *(np.concatenate(parts, axis=-2)[..., ::-1, :] for parts in (rows, columns))]


def plane_sizes(sides: Sequence[int], spacing: Sequence[float], longest: float = math.inf) -> list[tuple[int, int]]:
    """Height and width in pixels of the three planes of (D, H, W), to one scale, in which no side is longer than
    `longest`."""
    steps = [min(step / min(spacing), MAX_STRETCH) for step in spacing]
    depth, height, width = (side * step for side, step in zip(sides, steps, strict=True))
    scale = min(1, longest / max(depth, height, width))
    planes = ((height, width), (depth, width), (depth, height))
    return [(max(1, round(rows * scale)), max(1, round(columns * scale))) for rows, columns in planes]
