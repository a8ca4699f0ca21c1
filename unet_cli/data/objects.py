"""Objects of a mask, in training, prediction and evaluation alike: connected components of one class, 8-connected in
two dimensions and 26-connected in three.

Only the scores of the ISBI 2012 challenge use 4-connectivity, as its own script does: see metrics/membranes.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import torch
from torch import Tensor

CLASSES = 256  # a numbered mask stores class + 256 * object number


def numbered(classes: np.ndarray, numbers: np.ndarray, ignored: int) -> np.ndarray:
    """(H, W) uint8 class indices and (H, W) object numbers -> (H, W) int32 that encodes both, with numbers from 1 in
    ascending order, 0 for background and `ignored`."""
    _, places = np.unique(np.where((classes == 0) | (classes == ignored), 0, numbers), return_inverse=True)
    inside = (classes != 0) & (classes != ignored)
    return (classes + CLASSES * np.where(inside, places.reshape(classes.shape) + 1, 0)).astype(np.int32)


def parted(mask: Tensor) -> Tensor:
    """A numbered mask (N, H, W) int32 -> its classes, uint8, with background between touching objects."""
    values = mask.cpu().numpy()
    lines = np.stack([(separated(one // CLASSES) == 0) & (one >= CLASSES) for one in values])
    return torch.from_numpy(np.where(lines, 0, values % CLASSES).astype(np.uint8)).to(mask.device)


def separated(numbers: np.ndarray) -> np.ndarray:
    """(H, W) object numbers, 0 for background -> the same with a line of background where objects touch, at a side or a
    corner.

    The line is one pixel wide and taken from the larger object, or from the higher number if both have the same size.
    Parts of an object that are nothing but border towards smaller ones vanish. Any number of dimensions.

    Source: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, section 3 and figure 3: "touching cells" get "small
    separation borders", which the paper computes with morphological operations that it doesn't specify.
    """
    found, ranks = _ranked(numbers)
    touches = np.zeros(numbers.shape, dtype=bool)
    for step in steps_to_neighbours(numbers.ndim):
        before, after = neighbours(step)
        first, second = ranks[before], ranks[after]
        meet = (first != second) & found[before] & found[after]
        touches[before] |= meet & (first > second)
        touches[after] |= meet & (first < second)
    return np.where(touches, numbers.dtype.type(0), numbers)


def components(classes: np.ndarray) -> tuple[np.ndarray, int]:
    """Class indices of any number of dimensions, 0 for background -> int32 object numbers from 1, class by class, and
    their count."""
    numbers, total = np.zeros(classes.shape, dtype=np.int32), 0
    for box, of_class, count in components_by_class(classes):
        np.add(of_class, total, out=of_class, where=of_class > 0)
        numbers[box] += of_class
        total += count
    return numbers, total


def components_by_class(classes: np.ndarray) -> Iterator[tuple[tuple[slice, ...], np.ndarray, int]]:
    """For each class above 0 its bounding box, the int32 numbers from 1 of its objects within the box, and their
    count."""
    from scipy.ndimage import find_objects, label

    corners_too = np.ones((3,) * classes.ndim, dtype=np.uint8)
    for index, box in enumerate(find_objects(classes), start=1):
        if box is not None:
            of_class, count = label(classes[box] == index, corners_too)
            yield box, of_class, count


def first_pixels(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The object numbers above 0 in an array, ascending, and where each comes first in its flat form."""
    flat = numbers.ravel()
    starts = np.flatnonzero(np.append(True, flat[1:] != flat[:-1])) if flat.size else np.zeros(0, np.int64)
    values, places = np.unique(flat[starts], return_index=True)
    return values[values > 0], starts[places[values > 0]]


def look_up(table: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """table[labels], row by row, or slice by slice, since numpy's index takes 8 bytes a pixel."""
    values = np.empty(labels.shape, dtype=table.dtype)
    for line, row in zip(values, labels, strict=True):
        line[:] = table[row]
    return values


def _ranked(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Foreground pixels, bool; and for each pixel the rank of its object by size, the smallest first."""
    values, places, sizes = np.unique(numbers, return_inverse=True, return_counts=True)
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[np.lexsort((values, sizes))] = np.arange(len(values))
    return numbers != 0, ranks[places].reshape(numbers.shape)


def steps_to_neighbours(dims: int) -> list[tuple[int, ...]]:
    """Steps from a pixel to its neighbours of which each pair is once: those at sides first, then at edges and
    corners."""
    steps = [step for step in product((-1, 0, 1), repeat=dims) if step > (0,) * dims]
    return sorted(steps, key=lambda step: (sum(map(abs, step)), [-along for along in step]))


def neighbours(step: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of all pixels that have a neighbour at offset `step` (-1, 0 or 1 along each axis), and slices of these
    neighbours."""
    from_first, from_second, to_last = slice(None, None), slice(1, None), slice(None, -1)
    ways = {-1: (from_second, to_last), 0: (from_first, from_first), 1: (to_last, from_second)}
    return tuple(ways[along][0] for along in step), tuple(ways[along][1] for along in step)
