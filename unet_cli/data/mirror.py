"""Places beyond the end of an axis, as reflection continues it."""

from __future__ import annotations

import numpy as np


def mirrored(start: int, stop: int, length: int) -> np.ndarray:
    """Positions `start` to `stop` of an axis with reflection padding (the edge pixel is not repeated) -> (stop - start)
    int64 indices in 0 to length - 1."""
    positions = np.abs(np.arange(start, stop)) % max(2 * (length - 1), 1)
    # Reflection has period 2 (length - 1), so any distance from the image is valid, not only one reflection.
    return np.minimum(positions, 2 * (length - 1) - positions) if length > 1 else np.zeros(stop - start, np.int64)
