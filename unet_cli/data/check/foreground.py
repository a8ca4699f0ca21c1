"""The values of the foreground of CT volumes, by which they are normalised."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unet_cli.config.model import IGNORED
from unet_cli.data.check.facts import Facts, Known, value_range
from unet_cli.data.imagefile import read_image
from unet_cli.data.labels import LabelMap
from unet_cli.data.maskfile import one_mask, read_mask
from unet_cli.data.source import Pair, spread
from unet_cli.errors import UserError

AIR, BONE = -900.0, 300.0  # Hounsfield units: below and above what every CT of a body has
LOWEST, HIGHEST = -4100.0, 33000.0  # of scanners, with what lies outside of their field and with metal
MAX_VOLUMES, MAX_SLICES, MAX_VALUES = 40, 400, 2**16  # volumes or slices, and voxels of each, that are measured
PERCENTILES = (0.5, 99.5)

Measured = tuple[tuple[float, float], np.ndarray, np.ndarray]


def is_tomography(known: Sequence[Known]) -> bool:
    """Whether volumes, or the slices of volumes, are of CT: of one channel, and all files in a range of Hounsfield
    units."""
    of_file: defaultdict[Path, list[Facts]] = defaultdict(list)
    for pair, facts in known:
        of_file[pair.image.path].append(facts)
    ranges = [value_range(facts) for facts in of_file.values()]
    return all(LOWEST <= low <= AIR and BONE <= high <= HIGHEST for low, high in ranges) and all(
        facts.channels == 1 and not facts.notes for _, facts in known
    )


def foreground_values(train: Sequence[Pair], labels: LabelMap) -> Measured:
    """The 0.5th and 99.5th percentile of the foreground's values, and the mean and variance (1,) within; of a sample of
    the volumes or slices, all of which hold foreground, and of every nth foreground voxel. Raises UserError where a
    file can't be read."""
    samples = []
    for pair in spread(train, MAX_SLICES if train[0].image.page is not None else MAX_VOLUMES):
        try:
            image = read_image(pair.image)[0]
            classes = one_mask(labels.encode(read_mask(pair.mask)), pair.mask)
        except UserError as error:
            raise pair.image.named(error) from error
        values = image[(classes > 0) & (classes != IGNORED)]
        samples.append(values[:: max(1, len(values) // MAX_VALUES)])
    values = np.concatenate(samples).astype(np.float64)
    low, high = np.percentile(values, PERCENTILES)
    values = values.clip(low, high)
    return (float(low), float(high)), values.mean(keepdims=True), values.var(keepdims=True)
