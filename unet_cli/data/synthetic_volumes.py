"""Generate a synthetic data set of volumes, CT of an organ with lesions, for first experiments and for tests.

Slices are thicker than they are wide, as in most CT. Values are Hounsfield units: a body of soft tissue and fat in air,
a spine, vessels as bright as the organ, the organ, and in some organs lesions that are hardly darker. The mask marks
the organ with 1 and its lesions with 2.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from unet_cli.data.formats.extras import NIFTI, needed
from unet_cli.data.formats.nifti import Geometry
from unet_cli.data.synthetic import fresh_folders
from unet_cli.data.writing import write_volume
from unet_cli.system.files import whole_file

SLICES, SIDES = (20, 32), (72, 112)  # voxels
THICKNESS, WIDTHS = (2.5, 4.0), (0.8, 1.2)  # mm
AIR, FAT, TISSUE, ORGAN, LESION, BONE = -1000, -90, 35, 110, 55, 600  # Hounsfield units
OFFSET = 1024  # of the values in a TIFF, which are unsigned

Spacing = tuple[float, float, float]


def write_volumes(folder: Path, count: int, seed: int, form: str) -> None:
    """Write `count` pairs as folder/images/ct_00.nii.gz and folder/masks/ct_00.nii.gz (0, 1 and 2). form: 'nii.gz', or
    'tif' for stacks with a spacing as ImageJ writes it.

    Raises UserError as write_sample does, and where nibabel is missing.
    """
    if form == "nii.gz":
        needed(NIFTI)
    folders = fresh_folders(folder)
    digits = max(2, len(str(count - 1)))
    for index in range(count):
        *pair, spacing = draw_volume(seed, index)
        for into, values in zip(folders, pair, strict=True):
            _write(into / f"ct_{index:0{digits}d}.{form}", values, spacing)


def draw_volume(seed: int, index: int) -> tuple[np.ndarray, np.ndarray, Spacing]:
    """One volume (D, H, W) int16 in Hounsfield units, its mask (D, H, W) uint8, and the spacing along these axes in mm,
    determined by seed and index."""
    draw = np.random.default_rng((seed, index))
    sides = tuple(int(draw.integers(*range_, endpoint=True)) for range_ in (SLICES, SIDES, SIDES))
    width = round(draw.uniform(*WIDTHS), 2)
    spacing = (round(draw.uniform(*THICKNESS), 1), width, width)
    mm = [(np.arange(side) - side / 2) * step for side, step in zip(sides, spacing, strict=True)]
    places = np.stack(np.meshgrid(*mm, indexing="ij"))
    reach = np.array([side * step / 2 for side, step in zip(sides, spacing, strict=True)])

    image = np.full(sides, float(AIR))
    trunk = np.array([1e4, *(draw.uniform(0.8, 0.92, 2) * reach[1:])])
    outline = _ball(places, np.zeros(3), trunk)
    image[outline < 1], image[outline < 0.85] = FAT, TISSUE
    image += (outline < 1) * 25 * _clouds(draw, sides, spacing, 12)
    image[_ball(places, reach * (0, 0.55, 0), np.array([1e4, 9, 8])) < 1] = BONE
    for _ in range(4):
        image[(outline < 0.85) & (_tube(draw, places, reach) < draw.uniform(1.5, 3))] = ORGAN + 20

    radii = draw.uniform(0.28, 0.4, 3) * reach
    center = reach * np.array([0, -0.1, 0.25]) + draw.normal(size=3) * 0.05 * reach
    organ = _ball(places, center, radii) + 0.25 * _clouds(draw, sides, spacing, 18) < 1
    image[organ] = ORGAN
    lesions = np.zeros(sides, bool)
    for _ in range(int(draw.integers(0, 4))):
        place = center + draw.uniform(-0.6, 0.6, 3) * radii
        lesions |= _ball(places, place, draw.uniform(0.2, 0.4) * radii) + 0.2 * _clouds(draw, sides, spacing, 8) < 1
    lesions &= organ
    image[lesions] = LESION
    image += draw.normal(size=sides) * draw.uniform(10, 25)
    return np.rint(image).clip(-1024, 3071).astype(np.int16), organ.astype(np.uint8) + lesions, spacing


def _ball(places: np.ndarray, center: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """(D, H, W): distance from the centre in radii along each axis."""
    return np.sqrt((((places.T - center) / radii) ** 2).sum(-1)).T


def _tube(draw: np.random.Generator, places: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """(D, H, W): distance in mm from a straight line through the volume."""
    start, direction = draw.uniform(-0.4, 0.4, 3) * reach, draw.normal(size=3)
    direction /= np.linalg.norm(direction)
    along = places.T - start
    return np.linalg.norm(along - (along @ direction)[..., None] * direction, axis=-1).T


def _clouds(draw: np.random.Generator, sides: tuple[int, ...], spacing: Spacing, scale: float) -> np.ndarray:
    """(D, H, W) smooth noise of mean 0 and standard deviation of about 0.6, with a correlation length of `scale` mm."""
    from scipy.ndimage import zoom

    coarse = [max(2, round(side * step / scale) + 2) for side, step in zip(sides, spacing, strict=True)]
    factors = [side / count for side, count in zip(sides, coarse, strict=True)]
    return np.asarray(zoom(draw.normal(size=coarse), factors, order=1, grid_mode=True, mode="nearest"))


def _write(path: Path, values: np.ndarray, spacing: Spacing) -> None:
    if path.suffix == ".gz":
        affine = np.zeros((4, 4))
        # Slices to superior, rows to posterior, columns to left, in a frame of right, anterior and superior.
        affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = spacing[0], -spacing[1], -spacing[2], 1
        depth, height, width = values.shape
        write_volume(path, ([one] for one in values), Geometry((depth, height, width), affine, "LPS", is_float=False))
        return
    stored = (values + OFFSET).astype(np.uint16) if values.dtype == np.int16 else values
    with whole_file(path) as file:
        tifffile.imwrite(
            file,
            stored,
            imagej=True,
            resolution=(1 / spacing[2], 1 / spacing[1]),
            metadata={"axes": "ZYX", "spacing": spacing[0], "unit": "mm"},
        )
