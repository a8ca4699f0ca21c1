"""Mixtures of colours, as produced by soft edges, resizing and JPEG."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from unet_cli.data.labels.stats import unpacked

EXACT = 12.0  # maximum distance in RGB of a mixture from the line segment between two colours


def is_mixture(colour: int, others: Sequence[int]) -> bool:
    """Whether the colour lies on the line segment between two others."""
    return len(others) > 1 and bool(off_mixtures(np.array([colour]), others)[0] <= EXACT)


def off_mixtures(colours: np.ndarray, others: Sequence[int]) -> np.ndarray:
    """(n) packed colours -> (n) distance in RGB of each from the nearest other colour or mixture of two of them."""
    points = np.stack(unpacked(colours), 1).astype(np.float32)
    ends = np.stack(unpacked(np.array(others)), 1).astype(np.float32)
    nearest = np.linalg.norm(points[:, None] - ends, axis=2).min(1)
    for start, end in combinations(ends, 2):
        share = (points - start) @ (end - start) / np.sum((end - start) ** 2)
        mixed = start + share.clip(0, 1)[:, None] * (end - start)
        nearest = np.minimum(nearest, np.linalg.norm(points - mixed, axis=1))
    return nearest
