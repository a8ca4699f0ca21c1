"""What a target says of distances: maps of it, made on the processor in any number of dimensions.

A distance goes from the middle of a pixel to that of another one; the border of an object is its outermost pixels.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import distance_transform_cdt, distance_transform_edt, find_objects

from unet_cli.config.model import IGNORED
from unet_cli.data.objects import components

W0, SIGMA = 10.0, 5.0  # of the paper's weight map; sigma in pixels
NEGLIGIBLE = 1e-4  # what is left out of a weight map
FAR = math.floor(SIGMA * math.sqrt(2 * math.log(W0 / NEGLIGIBLE)))  # d1 + d2 from which on it is


def border_weights(target: np.ndarray) -> np.ndarray:
    """w0 exp(-(d1 + d2)^2 / (2 sigma^2)), w0 = 10, sigma = 5 pixels: (*spatial) class indices -> (*spatial) float32.

    d1, d2: distances to the border of the nearest and second nearest object, see data/objects.py. It holds on
    background only, and is 0 within objects: the paper leaves it open, but means "the small separation borders". It is
    0 with fewer than two objects, where ignored, and where it would be less than 1e-4.

    Source: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, equation 2 without its first term. A border is that of the
    object next to it, so a gap one pixel wide has d1 = d2 = 1.
    """
    numbers, _ = components(np.where(target == IGNORED, 0, target).astype(np.uint8))
    nearest, second = np.full((2, *target.shape), np.inf, dtype=np.float32)
    for number, box in enumerate(find_objects(numbers), 1):
        window = tuple(slice(max(side.start - FAR, 0), side.stop + FAR) for side in box)
        distance = distance_transform_edt(numbers[window] != number).astype(np.float32)
        second[window] = np.minimum(second[window], np.maximum(nearest[window], distance))
        nearest[window] = np.minimum(nearest[window], distance)
    return np.where(target == 0, W0 * np.exp(-((nearest + second) ** 2) / np.float32(2 * SIGMA**2)), np.float32(0))


def signed_distances(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """(*spatial) float32, in pixels: outside of an object the distance to its nearest pixel; within, that to the
    nearest pixel outside less 1, and negative, so that its outermost pixels have 0. 0 throughout where there are no
    two sides, and where ignored, that is neither inside nor outside; ignored pixels are near nothing.

    Source: the distance maps of Kervadec et al., "Boundary loss for highly unbalanced segmentation", MIDL 2019, section
    2, as their published code makes them.
    """
    if not (inside.any() and outside.any()):
        return np.zeros(inside.shape, dtype=np.float32)
    beyond, within = distance_transform_edt(~inside), distance_transform_edt(~outside)
    return np.where(inside, 1 - within, beyond * outside).astype(np.float32)


def radius(inside: np.ndarray, outside: np.ndarray) -> int:
    """How many times an object can lose its outermost pixels, joined at their sides, until nothing is left.

    0 where there is none, or nothing but it. Where it reaches the border of the image or what is ignored, it goes on.
    """
    if not (inside.any() and outside.any()):
        return 0
    return int(distance_transform_cdt(~outside, "taxicab")[inside].max())
