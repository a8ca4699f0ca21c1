"""The spacing of a volume's voxels, as its file tells it."""

from __future__ import annotations

from unet_cli.data.formats import DICOM_EXTENSIONS, extension_of, is_volume_file
from unet_cli.data.formats.dicom_series import series_spacing
from unet_cli.data.formats.nifti import geometry_of
from unet_cli.data.formats.tiff_spacing import tiff_spacing
from unet_cli.data.source import Source


def spacing_of(source: Source) -> tuple[float, float, float] | None:
    """Distance between the centres of voxels in mm, along (D, H, W) as they are read; None where the file doesn't tell.
    Raises UserError."""
    if extension_of(source.path) in DICOM_EXTENSIONS:
        return series_spacing(source.paths)
    if not is_volume_file(source.path):
        return tiff_spacing(source.path) if len(source.paths) == 1 else None
    geometry = geometry_of(source.path)
    return geometry.spacing if geometry else None
