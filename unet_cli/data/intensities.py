"""Statistics of whole files for the rules by which intensities are normalised."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
from torch import Tensor

from unet_cli.config.data import Preprocessing
from unet_cli.data.imagefile import Bands, open_bands
from unet_cli.data.preprocess import measured_intensities, measured_step
from unet_cli.data.source import Source

MAX_KEPT = 4096  # volumes whose statistics are kept for their next slice


def sampled(bands: Bands) -> np.ndarray:
    """(C, *spatial) pixels of an image or volume: of a large one every nth slice, row and column. Raises UserError."""
    step = measured_step(bands.channels, *bands.spatial)
    every = (slice(None, None, step),) * (len(bands.spatial) - 1)
    # Copied, since a view would keep its whole block in memory.
    parts = [block[(slice(None), slice(-top % step, None, step), *every)].copy() for top, block in bands.rows()]
    return np.concatenate(parts, axis=1)


def volume_intensities(source: Source, preprocessing: Preprocessing) -> Tensor | None:
    """(4,) statistics of the file that a slice belongs to, see preprocess.own_intensities; None where each image has
    its own. Raises UserError."""
    if preprocessing.statistics == "image" or preprocessing.intensity == "dataset":
        return None
    stats = [path.stat() for path in source.paths if path.exists()]  # a missing one is reported when it is read
    stamp = tuple((one.st_size, one.st_mtime_ns) for one in stats)
    return _of_volume(replace(source, page=None, is_volume=True, around=0), stamp, preprocessing)


@lru_cache(MAX_KEPT)
def _of_volume(volume: Source, stamp: tuple[tuple[int, int], ...], preprocessing: Preprocessing) -> Tensor | None:
    channels = preprocessing.in_channels // preprocessing.slices
    mean, std = preprocessing.mean[:channels], preprocessing.std[:channels]
    of_slice = replace(preprocessing, slices=1, in_channels=channels, mean=mean, std=std)
    return measured_intensities(sampled(open_bands(volume, preprocessing.keep_alpha)), of_slice)
