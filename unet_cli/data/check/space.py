"""Whether the files of a volume and its mask lie in the same place, as far as they tell it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from unet_cli.config.spacing import describe_spacing
from unet_cli.data.formats.nifti import Geometry
from unet_cli.data.series import is_series
from unet_cli.data.source import Pair, Source
from unet_cli.data.spacing import in_space
from unet_cli.errors import UserError

TOLERANCE = 1e-3  # relative, of the steps from voxel to voxel
MAX_SHIFT = 0.1  # voxels, of the first voxel's position
OF_FILE = (
    "If the voxels of both belong together, give it the affine of the other, as nibabel's "
    "Nifti1Image(volume.dataobj, image.affine) does; if not, resample it onto the other"
)
OF_SERIES = "Export the mask again on the voxels of this series, as NIfTI or as slices beside those of the series"
FLOAT_MASK = "the mask is stored in floating point"


def compare_space(pair: Pair) -> tuple[str, tuple[str, ...]]:
    """The directions of the axes in which a NIfTI or DICOM image is stored, such as RAS, '' for other files; and notes
    for the user. Raises UserError where a file of the pair lies elsewhere than the first, or has voxels of another
    size."""
    first = in_space(pair.image)
    masks = () if pair.mask.is_blank else _volumes(pair.mask)
    notes: tuple[str, ...] = ()
    for source in (*_volumes(pair.image)[1:], *masks):
        other, path = in_space(source), source.path
        if first is None or other is None:
            continue
        difference = _difference(first, other)
        if difference:
            raise UserError(
                f"{path} {difference} {pair.image}. {OF_SERIES if is_series(pair.image) else OF_FILE}; or leave the "
                "pair out with --skip-bad"
            )
        if source in masks and other.is_float:
            notes = (FLOAT_MASK,)
    return first.stored if first else "", notes


def _volumes(source: Source) -> tuple[Source, ...]:
    """Each by itself, where several files are channels or parts of a mask."""
    return (source,) if is_series(source) else tuple(replace(source, paths=(path,)) for path in source.paths)


def _difference(first: Geometry, other: Geometry) -> str:
    """How the second lies in another place, as a phrase; '' where it doesn't. Volumes of different sizes are left to
    those who compare their pixels."""
    if first.shape != other.shape:
        return ""
    sizes = np.array([first.spacing, other.spacing])
    if (np.abs(sizes[1] - sizes[0]) > TOLERANCE * sizes[0]).any():
        return f"has voxels of {describe_spacing(other.spacing)}, other than the {describe_spacing(first.spacing)} of"
    steps = first.affine[:3, :3]
    turned = np.linalg.norm(other.affine[:3, :3] - steps, axis=0) > 2 * TOLERANCE * sizes[0]
    if turned.any():
        return "is turned against"
    shift = np.abs(np.linalg.solve(steps, other.affine[:3, 3] - first.affine[:3, 3]))
    if shift.max() > MAX_SHIFT:
        moved = "x".join(f"{step:.3g}" for step in shift[::-1])
        return f"is shifted by {moved} voxels against"
    return ""
