"""Thumbnails of images and masks, to compare pairs without reading them again."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

THUMBNAIL = 8  # pixels a side
SAMPLED = 4 * THUMBNAIL  # rows and columns of an image that are averaged to its thumbnail


def thumbnail(channel: np.ndarray, low: float, high: float) -> bytes:
    """(H, W) -> 8 x 8 bytes, brightness from `low` to `high`."""
    sampled = _sampled(channel).astype(np.float32)
    return _shrunk((sampled - low) * (255 / max(high - low, 1e-30)))


def mask_thumbnail(values: np.ndarray) -> bytes:
    """(H, W) -> 8 x 8 bytes, the fraction of pixels in the upper half of the values."""
    sampled = _sampled(values)
    low, high = int(sampled.min()), int(sampled.max())
    return _shrunk((sampled > (low + high) / 2 if low < high else sampled > 0).astype(np.float32) * 255)


def _sampled(pixels: np.ndarray) -> np.ndarray:
    """(H, W) -> (SAMPLED, SAMPLED), evenly spaced pixels."""
    return pixels[_places(*pixels.shape)]


@lru_cache(maxsize=256)
def _places(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = (np.arange(SAMPLED) * side // SAMPLED for side in (height, width))
    return rows[:, None], columns


def _shrunk(sampled: np.ndarray) -> bytes:
    blocks = sampled.reshape(THUMBNAIL, SAMPLED // THUMBNAIL, THUMBNAIL, SAMPLED // THUMBNAIL)
    return (blocks.mean((1, 3)) + 0.5).astype(np.uint8).tobytes()
