"""Where 255 lies in masks of small numbers: enclosed by other values, as objects are, or between them."""

from __future__ import annotations

import numpy as np

SMALL = 200  # lower numbers may be classes, with 255 as ignore index
SURROUNDED = 0.9  # minimum fraction of a component's outline with one value, for an enclosed component


def is_beside_small_numbers(counts: dict[int, int]) -> bool:
    """Whether 255 occurs beside small numbers; masks of 0 and 255 alone are excluded."""
    others = counts.keys() - {255}
    return 255 in counts and min(counts) >= 0 < max(others, default=0) < SMALL


def enclosed(values: np.ndarray) -> int:
    """Number of pixels of 255 in connected components whose outline, the image border included, has nearly only one
    other value.

    values: (H, W). Vessels within a field of view are such components; unlabelled pixels are along the image border and
    between values, as around the objects of PASCAL VOC.
    """
    from scipy.ndimage import label

    framed = np.pad(values, 1, constant_values=254)  # marks the outside, since it is none of the small numbers
    is_255 = framed == 255
    parts, _ = label(is_255, np.ones((3, 3)))
    outline = []
    for step in (1, framed.shape[1]):
        before = np.flatnonzero(is_255.ravel()[step:] != is_255.ravel()[:-step])
        # One of the two neighbours has a component number, the other one a small number: sum and minimum select these.
        part = parts.ravel()[before] + parts.ravel()[before + step]
        beside = np.minimum(framed.ravel()[before], framed.ravel()[before + step])
        outline.append(part.astype(np.int64) << 8 | beside)
    # Each key packs a component and a neighbouring value; their counts are the lengths of the outline with that value.
    pairs, lengths = np.unique(np.concatenate(outline), return_counts=True)
    longest, whole = np.zeros(parts.max() + 1, np.int64), np.zeros(parts.max() + 1, np.int64)
    np.maximum.at(longest, pairs >> 8, np.where(pairs & 255 == 254, 0, lengths))
    np.add.at(whole, pairs >> 8, lengths)
    sizes = np.bincount(parts[is_255])
    return int(sizes[(longest > 0) & (longest >= SURROUNDED * whole)].sum())
