"""Panels of a volume: three planes through its worst place, one below the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from unet_cli.config.model import IGNORED
from unet_cli.data.colours import ERROR_COLOURS, Colours
from unet_cli.data.nearest import nearest
from unet_cli.data.pictures import CUT, IGNORED_GRAY, averaged, stretched, to_rgb
from unet_cli.data.planes import plane_sizes, planes_through
from unet_cli.evaluation.panels import LEFT_OUT, PANEL, RIGHT, Panels, error_kinds, highest, jpeg, png

GAP = 6  # pixels between planes
BLOCKS = 8  # along each axis, of which the one with most errors is shown

Place = tuple[int, int, int]


def draw_planes(
    pixels: np.ndarray, target: np.ndarray, pred: np.ndarray, colours: Colours, spacing: Sequence[float]
) -> Panels:
    """(C, D, H, W) pixels as in the file; (D, H, W) uint8 class indices of the ground truth, with IGNORED, and of the
    prediction; size of a voxel along (D, H, W) -> files for the report, as `draw_panels` makes them of an image.

    Each shows three planes through `worst_place`, one below the other: its slice, then what runs through all slices
    along the width and along the height, with the last slice at the top. All have one scale, in which the longest side
    of the volume takes PANEL pixels at most.
    """
    kinds = error_kinds(target, pred, int(colours.background))
    place = worst_place(kinds)
    sizes = plane_sizes(target.shape, spacing, PANEL)
    ignored = colours.indices  # the last colour of the palette, which fills the gaps too
    palette = colours.area_palette()[: ignored + 1]
    truth = np.where(target == IGNORED, np.uint8(ignored), target)
    return Panels(
        image=jpeg(_image(pixels, place, sizes)),
        mask=png(_strip(nearest, truth, place, sizes, ignored), palette),
        pred=png(_strip(nearest, pred, place, sizes, ignored), palette),
        errors=png(
            _strip(highest, kinds, place, sizes, LEFT_OUT), np.array([colours.errors[kind] for kind in ERROR_COLOURS])
        ),
        place=place,
    )


def worst_place(kinds: np.ndarray) -> Place:
    """(D, H, W) of `error_kinds` -> a voxel amid the most errors: in the block with most of them, the one nearest to
    their centre. Without errors, the same of the foreground that was found; without any, the centre of the volume."""
    for shown in (kinds > RIGHT, kinds == RIGHT):
        if shown.any():
            return _amid(shown)
    depth, height, width = (side // 2 for side in kinds.shape)
    return depth, height, width


def _amid(shown: np.ndarray) -> Place:
    edges = [np.unique(np.arange(BLOCKS) * side // BLOCKS) for side in shown.shape]
    counts = np.stack([np.add.reduceat(np.add.reduceat(one, edges[1], 0, np.int64), edges[2], 1) for one in shown])
    counts = np.add.reduceat(counts, edges[0], 0)
    block = np.unravel_index(counts.argmax(), counts.shape)
    ends = [np.append(starts, side) for starts, side in zip(edges, shown.shape, strict=True)]
    box = tuple(slice(end[index], end[index + 1]) for end, index in zip(ends, block, strict=True))
    voxels = np.argwhere(shown[box])
    depth, height, width = voxels[((voxels - voxels.mean(0)) ** 2).sum(1).argmin()] + [part.start for part in box]
    return int(depth), int(height), int(width)


def _strip(
    resize: Callable[[np.ndarray, int, int], np.ndarray],
    volume: np.ndarray,
    place: Place,
    sizes: Sequence[tuple[int, int]],
    filling: int,
) -> np.ndarray:
    """(D, H, W) indices -> (rows, columns), the resized planes one below the other."""
    planes = planes_through([(0, volume)], place)
    return _stacked([resize(plane, *size) for plane, size in zip(planes, sizes, strict=True)], filling)


def _image(pixels: np.ndarray, place: Place, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """(C, D, H, W) -> (rows, columns, 3) uint8, with one contrast for all planes."""
    planes = [averaged(plane, *size) for plane, size in zip(planes_through([(0, pixels)], place), sizes, strict=True)]
    joined = stretched(np.concatenate([plane.reshape(len(plane), -1) for plane in planes], axis=1), CUT)
    ends = np.cumsum([plane[0].size for plane in planes])[:-1]
    shown = [part.reshape(-1, *size) for part, size in zip(np.split(joined, ends, axis=1), sizes, strict=True)]
    return to_rgb(np.stack([_stacked(layer, IGNORED_GRAY) for layer in zip(*shown, strict=True)]))


def _stacked(planes: Sequence[np.ndarray], filling: int) -> np.ndarray:
    """Planes one below the other, with a gap between them and beside the narrower ones."""
    width = max(plane.shape[1] for plane in planes)
    rows = [np.pad(plane, ((0, GAP), (0, width - plane.shape[1])), constant_values=filling) for plane in planes]
    return np.concatenate(rows)[:-GAP]
