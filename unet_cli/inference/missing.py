"""Missing pixels of an image that is being predicted, NaN in any channel, as no-data values are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from unet_cli.data.imagefile import Bands


class Missing:
    """Where pixels are missing, from when they are read until their rows, or slices, are finished. One thread may read
    while another asks."""

    def __init__(self) -> None:
        self._rows: dict[int, np.ndarray] = {}  # those in which any are

    def noted(self, bands: Bands) -> Bands:
        """The same bands, of which is noted what is missing when they are read."""

        def read(top: int) -> Iterator[tuple[int, np.ndarray]]:
            for start, pixels in bands.rows(top):
                self.note(start, pixels)
                yield start, pixels

        return replace(bands, read=read)

    def note(self, start: int, pixels: np.ndarray) -> None:
        """pixels: (C, h, *rest) from row, or slice, `start` on."""
        if pixels.dtype == np.float32:
            missing = np.isnan(pixels).any(0)
            for row in np.flatnonzero(missing.reshape(len(missing), -1).any(1)).tolist():
                self._rows[start + row] = missing[row].copy()

    def taken(self, start: int, sides: Sequence[int]) -> np.ndarray | None:
        """(h * ..., W) bool for `sides` (h, ..., W) from row, or slice, `start` on, which is then forgotten; None where
        nothing is missing."""
        rows = range(start, start + sides[0])
        found = {row - start: self._rows.pop(row) for row in rows if row in self._rows}
        if not found:
            return None
        missing = np.zeros(tuple(sides), bool)
        for row, own in found.items():
            missing[row] = own
        return missing.reshape(-1, sides[-1])
