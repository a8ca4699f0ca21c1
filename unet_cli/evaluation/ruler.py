"""The unit of distances in an evaluation, and the size of a pixel or voxel of each image in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from unet_cli.config.evaluation import Scoring
from unet_cli.config.spacing import along_axes
from unet_cli.data.source import Pair
from unet_cli.data.spacing import spacing_of
from unet_cli.system.console import counted

TOLERANCE = 2  # pixels
BAND = 0.02  # fraction of the diagonal


@dataclass(frozen=True)
class Ruler:
    """How distances are measured.

    unit: in words. step: size of a pixel or voxel along each axis, in this unit; own: that of volumes whose files tell
    it, by their names. tolerance: how far borders may lie apart for the surface Dice. band: width of the inner border,
    None for a fraction of the image's diagonal. note: for the user; '' if there is nothing to say.
    """

    unit: str = "px"
    step: tuple[float, ...] = (1.0, 1.0)
    own: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    tolerance: float = float(TOLERANCE)
    band: float | None = None
    note: str = ""

    def step_of(self, name: str) -> tuple[float, ...]:
        """Size of a pixel or voxel of an image."""
        return self.own.get(name, self.step)

    def diagonal(self, name: str, size: tuple[int, ...]) -> float:
        """Of an image of (H, W) pixels or (D, H, W) voxels."""
        return math.hypot(*(side * step for side, step in zip(size, self.step_of(name), strict=True)))

    def band_of(self, name: str, size: tuple[int, ...]) -> float:
        """Width of the inner border of an image of (H, W) pixels or (D, H, W) voxels."""
        return BAND * self.diagonal(name, size) if self.band is None else self.band

    @property
    def described(self) -> str:
        """The size of a pixel or voxel, in words; '' where it is 1."""
        if self.own:
            return f"distances in {self.unit}, by the spacing in each file"
        kind = "pixels" if len(self.step) == 2 else "voxels"
        if set(self.step) == {1.0} and self.unit in ("px", "voxels"):
            return ""
        return f"{kind} of {' x '.join(f'{step:g}' for step in self.step)} {self.unit}"


def ruler_of(scoring: Scoring, pairs: Sequence[Pair]) -> Ruler:
    """The ruler for these images or volumes: by --spacing, else in mm if all the volumes' files tell their spacing,
    else in pixels or voxels. Raises UserError where --spacing has another number of axes."""
    is_volumetric = any(pair.image.is_volume for pair in pairs)
    dims = 3 if is_volumetric else 2
    if scoring.spacing is not None:
        steps, unit = along_axes(scoring.spacing, dims)
        return _ruler(scoring, unit, steps)
    if not is_volumetric:
        return _ruler(scoring, "px", (1.0, 1.0))
    own = {pair.name: spacing for pair in pairs if (spacing := spacing_of(pair.image)) is not None}
    if len(own) == len(pairs):
        typical = tuple(np.median(list(own.values()), axis=0).tolist())
        return _ruler(scoring, "mm", typical, own)
    files = "the files" if not own else f"the files of {counted(len(pairs) - len(own), 'volume')}"
    note = f"Distances are in voxels, since {files} don't tell their spacing: give --spacing SLICES,ROWS,COLUMNS"
    return _ruler(scoring, "voxels", (1.0, 1.0, 1.0), note=note)


def _ruler(
    scoring: Scoring,
    unit: str,
    step: tuple[float, ...],
    own: Mapping[str, tuple[float, ...]] | None = None,
    note: str = "",
) -> Ruler:
    # Slices are often several times as thick as voxels are wide: borders that far apart are no agreement.
    of_step = max(step) if len(step) == 2 else min(step)
    tolerance = TOLERANCE * of_step if scoring.tolerance is None else scoring.tolerance
    return Ruler(unit, step, own or {}, tolerance, scoring.band, note)
