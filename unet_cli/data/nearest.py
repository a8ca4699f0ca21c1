"""Resizing by nearest neighbour."""

from __future__ import annotations

import numpy as np


def nearest(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (..., H, W) to (..., height, width) by nearest neighbour, at pixel centres."""
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip((height, width), pixels.shape[-2:], strict=True)
    )
    return pixels[..., rows[:, None], columns]
