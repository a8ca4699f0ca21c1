"""A volume of another spacing than the networks', which is resampled for them, and whose probabilities are resampled to
its own grid."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from unet_cli.config.spacing import describe_spacing
from unet_cli.data.imagefile import Bands
from unet_cli.data.preprocess import converted
from unet_cli.data.resample import Resampler
from unet_cli.inference.member import Member
from unet_cli.inference.missing import Missing
from unet_cli.inference.views import Band, Tiled, View

SLICES_AT_ONCE = 16  # of a volume that is read whole: its resampled slices are not all in memory


class Resampled:
    """See Picture. Both ways the slices are resampled as they come, so that memory is bounded as that of Tiled is."""

    views_are = "tile"

    def __init__(self, members: Sequence[Member], bands: Bands, size: tuple[int, ...], overlap: float) -> None:
        """bands: the volume on its own grid. size: (D, H, W) of the grid of the networks, all of which have the same
        spacing."""
        self.shape: tuple[int, ...] = bands.spatial
        self.size = (math.prod(self.shape[:-1]), self.shape[-1])
        self._missing = Missing()
        self._bands, self._within = self._missing.noted(bands), size
        self._preprocessing = members[0].preprocessing
        inside = Bands(self._preprocessing.in_channels, size, bands.dtype, bands.notes, self._slabs)
        self._tiled = Tiled(members, inside, overlap, measured=bands)
        self.notes = self._tiled.notes
        self.notes.add(f"resampled to the network's voxels of {describe_spacing(self._preprocessing.spacing)}")
        self.view_count = self._tiled.view_count
        self._back: Resampler | None = None

    def views(self, top: int = 0) -> Generator[View]:
        self._back = Resampler(self._within, self.shape, top // self.shape[1])
        yield from self._tiled.views(self._back.first * self._within[1])

    def add(self, view: View, probs: list[Tensor]) -> Band | None:
        assert self._back is not None
        band = self._tiled.add(view, probs)
        if band is None:
            return None
        height = self._within[1]
        done = self._back.add(band.top // height, band.combined().unflatten(1, (-1, height)))
        if done is None:
            return None
        first, complete = done
        rows, missing = complete.flatten(1, -2), self._missing.taken(first, complete.shape[1:])
        return Band(first * self.shape[1], (rows.shape[1], rows.shape[2]), [rows], missing)

    def _slabs(self, top: int) -> Iterator[tuple[int, np.ndarray]]:
        """The resampled volume from slice `top` on, see Bands."""
        there = Resampler(self.shape, self._within, top)
        for start, block in self._bands.rows(there.first):
            for place in range(0, block.shape[1], SLICES_AT_ONCE):
                # NaN is filled before, since it would spread.
                image, note = converted(block[:, place : place + SLICES_AT_ONCE], self._preprocessing)
                self.notes.update([note] if note else [])
                done = there.add(start + place, torch.from_numpy(image))
                if done is not None:
                    yield done[0], done[1].numpy()
