"""The cores of objects, by which objects that touch are told apart.

The depth of a pixel is its distance to the border of its object, divided by the largest distance in that object: 1 at
the object's middle, and near 0 along its border, where another object may begin. The core of an object is where its
depth is above DEEP: the cores of touching objects are apart, whatever their size. A network learns them beside the
foreground, and from the cores the objects are grown back.

Source: distances to the border as targets beside the foreground are those of Naylor, Laé, Reyal, Walter, "Segmentation
of Nuclei in Histopathology Images by Deep Regression of the Distance Map", IEEE TMI 38 (2019); inner regions instead of
distances are those of Bai, Urtasun, "Deep Watershed Transform for Instance Segmentation", CVPR 2017, section 3.
"""

from __future__ import annotations

import numpy as np

from unet_cli.config.model import CORE, IGNORED
from unet_cli.data.objects import neighbours

DEEP = 1 / 3  # depth of the border of cores


def depth_of(numbers: np.ndarray) -> np.ndarray:
    """([D,] H, W) object numbers, 0 for background -> float32 of the same shape: 0 in the background, up to 1 within
    objects. Objects are taken to continue beyond the image."""
    from scipy.ndimage import distance_transform_edt

    at_border = np.zeros(numbers.shape, bool)
    for axis in range(numbers.ndim):
        before, after = neighbours(tuple(int(one == axis) for one in range(numbers.ndim)))
        differ = numbers[before] != numbers[after]
        at_border[before] |= differ
        at_border[after] |= differ
    if not at_border.any():
        return (numbers > 0).astype(np.float32)
    distance = np.where(numbers > 0, distance_transform_edt(~at_border) + 1, 0).astype(np.float32)
    _, places = np.unique(numbers, return_inverse=True)
    largest = np.zeros(int(places.max()) + 1, np.float32)
    np.maximum.at(largest, places.ravel(), distance.ravel())
    return distance / np.where(largest > 0, largest, 1)[places].reshape(numbers.shape)


def with_cores(classes: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Uint8 class indices and the object numbers, 0 where there is no object -> the indices with cores marked."""
    return marked(classes, depth_of(np.where(classes == IGNORED, 0, numbers)) > DEEP)


def marked(classes: np.ndarray, cores: np.ndarray) -> np.ndarray:
    """Uint8 class indices, and bool where cores are -> the indices, plus CORE in cores. There is none in the background
    or where pixels are ignored."""
    return classes | np.where((classes != 0) & cores, np.uint8(CORE), np.uint8(0))


def cores_in(indices: np.ndarray) -> np.ndarray:
    """Where cores are marked: uint8, 0 or 1."""
    return ((indices >= CORE) & (indices != IGNORED)).astype(np.uint8)
