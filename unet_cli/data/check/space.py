"""Whether the files of a volume and its mask lie in the same place, as far as they tell it."""

from __future__ import annotations

import numpy as np

from unet_cli.config.spacing import describe_spacing
from unet_cli.data.formats import is_volume_file
from unet_cli.data.formats.nifti import Geometry, geometry_of
from unet_cli.data.source import Pair
from unet_cli.errors import UserError

TOLERANCE = 1e-3  # relative, of the steps from voxel to voxel
MAX_SHIFT = 0.1  # voxels, of the first voxel's position
FLOAT_MASK = "the mask is stored in floating point"


def compare_space(pair: Pair) -> tuple[str, tuple[str, ...]]:
    """The directions of the axes in which a NIfTI image is stored, such as RAS, '' for other files; and notes for the
    user. Raises UserError where a file of the pair lies elsewhere than the first, or has voxels of another size."""
    if not is_volume_file(pair.image.path):
        return "", ()
    first = geometry_of(pair.image.path)
    masks = () if pair.mask.is_blank else pair.mask.paths
    notes: tuple[str, ...] = ()
    for path in (*pair.image.paths[1:], *masks):
        other = geometry_of(path) if is_volume_file(path) else None
        if first is None or other is None:
            continue
        difference = _difference(first, other)
        if difference:
            raise UserError(
                f"{path} {difference} {pair.image.path}. If the voxels of both belong together, give it the affine of "
                "the other, as nibabel's Nifti1Image(volume.dataobj, image.affine) does; if not, resample it onto the "
                "other; or leave the pair out with --skip-bad"
            )
        if path in masks and other.is_float:
            notes = (FLOAT_MASK,)
    return first.stored if first else "", notes


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
