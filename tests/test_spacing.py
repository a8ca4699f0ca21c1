"""The spacing of voxels, in mm along (D, H, W), from the files that tell it."""

import numpy as np
import pytest
import tifffile

from unet_cli.data.source import Source
from unet_cli.data.spacing import spacing_of

STACK = np.zeros((3, 4, 5), np.uint8)


def spacing(path):
    return spacing_of(Source((path,), is_volume=True))


@pytest.mark.parametrize(
    ("unit", "factor"), [("um", 1e-3), ("micron", 1e-3), ("\\u00B5m", 1e-3), ("mm", 1), ("nm", 1e-6)]
)
def test_imagej_tells_the_distance_of_slices_and_pixels_for_each_unit(tmp_path, unit, factor):
    metadata = {"spacing": 2.0, "unit": unit}
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True, metadata=metadata, resolution=(4, 2))
    assert spacing(tmp_path / "a.tif") == pytest.approx((2 * factor, 0.5 * factor, 0.25 * factor))


@pytest.mark.parametrize(
    "metadata", [{"unit": "um"}, {"spacing": 2.0}, {"spacing": 2.0, "unit": "pixel"}, {"spacing": -1.0, "unit": "um"}]
)
def test_without_a_unit_or_a_distance_nothing_is_told(tmp_path, metadata):
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True, metadata=metadata, resolution=(4, 2))
    assert spacing(tmp_path / "a.tif") is None


@pytest.mark.parametrize(("units", "factors"), [((), (1e-3, 1e-3, 1e-3)), (("nm", "mm", "µm"), (1e-6, 1, 1e-3))])
def test_ome_tells_it_in_micrometres_or_the_unit_of_each_axis(tmp_path, units, factors):
    metadata = {"axes": "ZYX", "PhysicalSizeZ": 50, "PhysicalSizeY": 4, "PhysicalSizeX": 5}
    metadata |= {f"PhysicalSize{axis}Unit": unit for axis, unit in zip("ZYX", units, strict=False)}
    tifffile.imwrite(tmp_path / "a.ome.tif", STACK, metadata=metadata)
    expected = tuple(size * factor for size, factor in zip((50, 4, 5), factors, strict=True))
    assert spacing(tmp_path / "a.ome.tif") == pytest.approx(expected)


def test_other_files_tell_nothing(tmp_path):
    np.save(tmp_path / "a.npy", STACK)
    tifffile.imwrite(tmp_path / "a.tif", STACK, resolution=(300, 300), photometric="minisblack")
    assert spacing(tmp_path / "a.npy") is None
    assert spacing(tmp_path / "a.tif") is None


@pytest.mark.parametrize(("unit", "factor"), [(0, 1), (1, 1000), (2, 1), (3, 0.001)])
def test_nifti_tells_it_in_the_orientation_of_reading_and_in_the_unit_of_its_header(tmp_path, unit, factor):
    nibabel = pytest.importorskip("nibabel", reason="pip install nibabel, the extra medical")
    affine = np.array(
        [[0, 0, 2, 0], [0.5, 0, 0, 0], [0, 3, 0, 0], [0, 0, 0, 1.0]]
    )  # stored as anterior, superior, right
    image = nibabel.Nifti1Image(STACK, affine)
    image.header["xyzt_units"] = unit
    nibabel.save(image, tmp_path / "a.nii.gz")
    assert spacing(tmp_path / "a.nii.gz") == pytest.approx((3 * factor, 0.5 * factor, 2 * factor))
