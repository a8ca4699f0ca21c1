"""What one object of a mask is, in training, prediction and evaluation alike: pixels of one class that are joined at
their sides or corners, 8-connected in two dimensions and 26-connected in three.

Only the scores of the ISBI 2012 challenge join at sides alone, as its own script does: see metrics/membranes.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import torch
from torch import Tensor

CLASSES = 256  # a numbered mask holds class + 256 * number of the object


def numbered(classes: np.ndarray, numbers: np.ndarray, ignored: int) -> np.ndarray:
    """(H, W) uint8 class indices and (H, W) numbers of objects -> (H, W) int32 that holds both, numbers from 1 on in
    their order, 0 where there is background or the class is `ignored`."""
    _, places = np.unique(np.where((classes == 0) | (classes == ignored), 0, numbers), return_inverse=True)
    inside = (classes != 0) & (classes != ignored)
    return (classes + CLASSES * np.where(inside, places.reshape(classes.shape) + 1, 0)).astype(np.int32)


def parted(mask: Tensor) -> Tensor:
    """A numbered mask (N, H, W) int32 -> its classes, uint8, with background between objects that touch."""
    values = mask.cpu().numpy()
    lines = np.stack([(separated(one // CLASSES) == 0) & (one >= CLASSES) for one in values])
    return torch.from_numpy(np.where(lines, 0, values % CLASSES).astype(np.uint8)).to(mask.device)


def separated(numbers: np.ndarray) -> np.ndarray:
    """(H, W) numbers of objects, 0 being background -> the same with a line of background where objects touch, at a
    side or a corner.

    The line is one pixel wide and is taken from the larger of the two, of equals from the one with the higher number.
    A part of an object that is nothing but border towards smaller ones vanishes. Any number of dimensions.

    Source: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, section 3 and figure 3: "touching cells" get "small
    separation borders", which the paper computes with morphological operations that it doesn't name.
    """
    found, ranks = _ranked(numbers)
    touches = np.zeros(numbers.shape, dtype=bool)
    for step in product((-1, 0, 1), repeat=numbers.ndim):
        if step <= (0,) * numbers.ndim:  # of a pixel and its neighbour, one way is enough
            continue
        before, after = _neighbours(step)
        first, second = ranks[before], ranks[after]
        meet = (first != second) & found[before] & found[after]
        touches[before] |= meet & (first > second)
        touches[after] |= meet & (first < second)
    return np.where(touches, numbers.dtype.type(0), numbers)


def components(classes: np.ndarray) -> tuple[np.ndarray, int]:
    """Class indices of any number of dimensions, 0 where nothing is -> int32 numbers of objects from 1 on, class by
    class, and how many there are."""
    numbers, total = np.zeros(classes.shape, dtype=np.int32), 0
    for box, of_class, count in components_by_class(classes):
        np.add(of_class, total, out=of_class, where=of_class > 0)
        numbers[box] += of_class
        total += count
    return numbers, total


def components_by_class(classes: np.ndarray) -> Iterator[tuple[tuple[slice, ...], np.ndarray, int]]:
    """For each class above 0 its bounding box, the int32 numbers from 1 of its objects in there, and their count."""
    from scipy.ndimage import find_objects, label

    corners_too = np.ones((3,) * classes.ndim, dtype=np.uint8)
    for index, box in enumerate(find_objects(classes), start=1):
        if box is not None:
            of_class, count = label(classes[box] == index, corners_too)
            yield box, of_class, count


def _ranked(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether a pixel is of an object; and for each pixel its object's place among all, the smallest object first."""
    values, places, sizes = np.unique(numbers, return_inverse=True, return_counts=True)
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[np.lexsort((values, sizes))] = np.arange(len(values))
    return numbers != 0, ranks[places].reshape(numbers.shape)


def _neighbours(step: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The places of all pixels that have one at this step from them, of -1, 0 or 1 along each axis; and of these."""
    from_first, from_second, to_last = slice(None, None), slice(1, None), slice(None, -1)
    ways = {-1: (from_second, to_last), 0: (from_first, from_first), 1: (to_last, from_second)}
    return tuple(ways[along][0] for along in step), tuple(ways[along][1] for along in step)
