"""The place of a volume in space, and the spacing of its voxels, as its files tell them."""

from __future__ import annotations

from pathlib import Path

from unet_cli.data.formats import is_volume_file
from unet_cli.data.formats.dicom_series import series_geometry, tells_spacing
from unet_cli.data.formats.geo import place_of
from unet_cli.data.formats.nifti import Geometry, geometry_of
from unet_cli.data.formats.tiff_spacing import tiff_pixel_size, tiff_spacing
from unet_cli.data.series import is_series
from unet_cli.data.source import Source


def in_space(source: Source) -> Geometry | None:
    """How a volume lies in space: NIfTI, or a DICOM series; None for others, and where the files don't tell. Of several
    files of channels, the first one's. Raises UserError."""
    if is_series(source):
        return series_geometry(source.paths) if tells_spacing(source.paths) else None
    return geometry_of(source.path) if is_volume_file(source.path) else None


def place_for_nifti(source: Source) -> Path | Geometry:
    """What a NIfTI of the same voxels lies in space like: the file, or the geometry of a series. Raises UserError."""
    return series_geometry(source.paths) if is_series(source) else source.path


def spacing_of(source: Source) -> tuple[float, float, float] | None:
    """Distance between the centres of voxels in mm, along (D, H, W) as they are read; None where the file doesn't tell.
    Raises UserError."""
    if is_series(source) or is_volume_file(source.path):
        geometry = in_space(source)
        return geometry.spacing if geometry else None
    return tiff_spacing(source.path) if len(source.paths) == 1 else None


def pixel_size(source: Source) -> tuple[tuple[float, ...], str] | None:
    """Size of a pixel along (H, W), or of a voxel along (D, H, W), and its unit; None where the file doesn't tell. That
    of an image which lies in the world is in the unit of its coordinate system. Raises UserError."""
    if source.is_volume:
        spacing = spacing_of(source)
        return (spacing, "mm") if spacing else None
    place = place_of(source.path, source.page)
    return place.pixel_size if place else tiff_pixel_size(source.path)
