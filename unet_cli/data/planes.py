"""A picture of a volume for people: three planes that cross in the middle of what was found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from unet_cli.data.colours import Colours
from unet_cli.data.imagefile import Bands
from unet_cli.data.pictures import GAP, PAPER, outlined, with_legend

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
    steps = np.ones(3) if spacing is None else np.minimum(np.asarray(spacing) / min(spacing), MAX_STRETCH)
    pictures = []
    for axis, pixels in enumerate(_planes(bands, place)):
        first, second = (_stretched(length, step) for length, step in _sides(pixels.shape[1:], steps, axis))
        grid = np.ix_(first if axis == 0 else first[::-1], second)
        plane = np.ascontiguousarray(indices.take(place[axis], axis)[grid])
        pictures.append(outlined(np.stack([channel[grid] for channel in pixels]), plane, colours, has_legend=False))
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
    found = indices > 0
    if not found.any():
        return tuple(length // 2 for length in indices.shape)
    others = [tuple(other for other in range(indices.ndim) if other != axis) for axis in range(indices.ndim)]
    totals = [np.cumsum(np.count_nonzero(found, axis=axes)) for axes in others]
    return tuple(int(np.searchsorted(total, total[-1] / 2)) for total in totals)


def _planes(bands: Bands, place: tuple[int, ...]) -> list[np.ndarray]:
    """(C, H, W), (C, D, W) and (C, D, H) pixels of the planes through a voxel."""
    across, rows, columns = [], [], []
    for start, slab in bands.rows():
        if start <= place[0] < start + slab.shape[1]:
            across = [slab[:, place[0] - start].copy()]
        rows.append(slab[:, :, place[1]].copy())
        columns.append(slab[:, :, :, place[2]].copy())
    return [across[0], np.concatenate(rows, axis=1), np.concatenate(columns, axis=1)]


def _sides(lengths: Sequence[int], steps: np.ndarray, axis: int) -> zip[tuple[int, float]]:
    """The sides of the plane across an axis, with the step between voxels along each."""
    return zip(lengths, np.delete(steps, axis).tolist(), strict=True)


def _stretched(length: int, step: float) -> np.ndarray:
    """Indices that stretch `length` pixels by the nearest one."""
    count = max(1, round(length * step))
    return np.minimum((np.arange(count) / step).astype(int), length - 1)
