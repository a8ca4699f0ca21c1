"""Where 255 lies that stands beside small numbers: within other values, as objects do, or between them."""

from __future__ import annotations

import numpy as np

SMALL = 200  # numbers below may be classes that 255 is not one of
SURROUNDED = 0.9  # of an outline is of one value, where a part lies within it


def is_beside_small_numbers(counts: dict[int, int]) -> bool:
    """Whether 255 stands beside small numbers; nobody asks in masks of 0 and 255 alone."""
    others = counts.keys() - {255}
    return 255 in counts and min(counts) >= 0 < max(others, default=0) < SMALL


def enclosed(values: np.ndarray) -> int:
    """Pixels of 255 in connected parts whose outline, the image's border included, is nearly all of one other value.

    values: (H, W). Vessels within a field of view are such parts; unlabelled pixels lie along the image's border and
    between values, as around the objects of PASCAL VOC.
    """
    from scipy.ndimage import label

    framed = np.pad(values, 1, constant_values=254)  # which is none of the small numbers
    is_255 = framed == 255
    parts, _ = label(is_255, np.ones((3, 3)))
    outline = []
    for step in (1, framed.shape[1]):
        before = np.flatnonzero(is_255.ravel()[step:] != is_255.ravel()[:-step])
        # Of two neighbours one has a part and no small number, the other one a small number and no part.
        part = parts.ravel()[before] + parts.ravel()[before + step]
        beside = np.minimum(framed.ravel()[before], framed.ravel()[before + step])
        outline.append(part.astype(np.int64) << 8 | beside)
    pairs, lengths = np.unique(np.concatenate(outline), return_counts=True)
    longest, whole = np.zeros(parts.max() + 1, np.int64), np.zeros(parts.max() + 1, np.int64)
    np.maximum.at(longest, pairs >> 8, np.where(pairs & 255 == 254, 0, lengths))
    np.add.at(whole, pairs >> 8, lengths)
    sizes = np.bincount(parts[is_255])
    return int(sizes[(longest > 0) & (longest >= SURROUNDED * whole)].sum())
