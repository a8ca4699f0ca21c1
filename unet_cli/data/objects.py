"""What one object of a mask is: pixels of one class that are joined at their sides, 4-connected in two dimensions.

Pixels that meet at a corner only belong to different objects, so that a line of background one pixel wide separates,
also a diagonal one.
"""

from __future__ import annotations

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
    """(H, W) numbers of objects, 0 being background -> the same with a line of background where objects touch.

    The line is one pixel wide and is taken from the larger of the two, of equals from the one with the higher number.
    Those that meet at a corner are separate already, see above. A part of an object that is nothing but border towards
    smaller ones vanishes. Any number of dimensions.

    Source: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, section 3 and figure 3: "touching cells" get "small
    separation borders", which the paper computes with morphological operations that it doesn't name.
    """
    found, ranks = _ranked(numbers)
    touches = np.zeros(numbers.shape, dtype=bool)
    for axis in range(numbers.ndim):
        before, after = _neighbours(numbers.ndim, axis)
        first, second = ranks[before], ranks[after]
        meet = (first != second) & found[before] & found[after]
        touches[before] |= meet & (first > second)
        touches[after] |= meet & (first < second)
    return np.where(touches, numbers.dtype.type(0), numbers)


def components(classes: np.ndarray) -> tuple[np.ndarray, int]:
    """Class indices of any number of dimensions, 0 where nothing is -> numbers of objects from 1 on, and how many."""
    from scipy.ndimage import label

    numbers, count = np.zeros(classes.shape, dtype=np.int32), 0
    for index in np.unique(classes[classes > 0]):
        inside = classes == index
        of_class, more = label(inside)  # joined at their sides unless told otherwise
        numbers[inside] = of_class[inside] + count
        count += more
    return numbers, count


def _ranked(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether a pixel is of an object; and for each pixel its object's place among all, the smallest object first."""
    values, places, sizes = np.unique(numbers, return_inverse=True, return_counts=True)
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[np.lexsort((values, sizes))] = np.arange(len(values))
    return numbers != 0, ranks[places].reshape(numbers.shape)


def _neighbours(ndim: int, axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The places of all pixels that have one after them along an axis, and of these."""
    before, after = [slice(None)] * ndim, [slice(None)] * ndim
    before[axis], after[axis] = slice(None, -1), slice(1, None)
    return tuple(before), tuple(after)
