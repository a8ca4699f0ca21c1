"""Distance maps of a target, computed on the CPU in any number of dimensions.

Distances are between the centres of pixels; the border of an object is its outermost pixels.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import distance_transform_cdt, distance_transform_edt, find_objects

from unet_cli.config.model import IGNORED
from unet_cli.data.objects import components

W0, SIGMA = 10.0, 5.0  # parameters of the paper's weight map; sigma in pixels
NEGLIGIBLE = 1e-4  # weights below this are set to 0
FAR = math.floor(SIGMA * math.sqrt(2 * math.log(W0 / NEGLIGIBLE)))  # d1 + d2 beyond which the weight is negligible


def border_weights(target: np.ndarray) -> np.ndarray:
    """w0 exp(-(d1 + d2)^2 / (2 sigma^2)), w0 = 10, sigma = 5 pixels: (*spatial) class indices -> (*spatial) float32.

    d1, d2: distances to the border of the nearest and second nearest object, see data/objects.py. The weight applies to
    background only, and is 0 within objects: the paper doesn't say, but means "the small separation borders". It is 0
    with fewer than two objects, at ignored pixels, and where it would be below 1e-4.

    Source: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, equation 2 without its first term. A border is that of the
    object next to it, so a gap one pixel wide has d1 = d2 = 1.
    """
    numbers, _ = components(np.where(target == IGNORED, 0, target).astype(np.uint8))
    nearest, second = np.full((2, *target.shape), np.inf, dtype=np.float32)
    # Each object's distance map is limited to a window beyond which its weight is negligible: linear time in objects.
    for number, box in enumerate(find_objects(numbers), 1):
        window = tuple(slice(max(side.start - FAR, 0), side.stop + FAR) for side in box)
        distance = distance_transform_edt(numbers[window] != number).astype(np.float32)
        second[window] = np.minimum(second[window], np.maximum(nearest[window], distance))
        nearest[window] = np.minimum(nearest[window], distance)
    return np.where(target == 0, W0 * np.exp(-((nearest + second) ** 2) / np.float32(2 * SIGMA**2)), np.float32(0))


def signed_distances(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Signed distances (*spatial) in pixels, float32: outside an object the distance to its nearest pixel; inside,
    minus the distance to the nearest pixel outside, plus 1, so that its outermost pixels have 0. All are 0 where inside
    or outside is empty; ignored pixels, which are neither, have 0 and no distance is measured to them.

    Source: the distance maps of Kervadec et al., "Boundary loss for highly unbalanced segmentation", MIDL 2019, section
    2, as their published code makes them.
    """
    if not (inside.any() and outside.any()):
        return np.zeros(inside.shape, dtype=np.float32)
    # Ignored pixels are in neither array, so both transforms measure to known pixels only.
    beyond, within = distance_transform_edt(~inside), distance_transform_edt(~outside)
    return np.where(inside, 1 - within, beyond * outside).astype(np.float32)


def radius(inside: np.ndarray, outside: np.ndarray) -> int:
    """Number of erosions with the 4-neighbourhood (6 in 3D) after which an object has vanished.

    0 where inside or outside is empty. The object is taken to continue beyond the image and into ignored pixels.
    """
    if not (inside.any() and outside.any()):
        return 0
    return int(distance_transform_cdt(~outside, "taxicab")[inside].max())
