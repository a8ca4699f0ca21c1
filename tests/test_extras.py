"""JPEG XL, .mat, HEIF, DICOM, and TIFF under other names: the pixels that were written, or what to install."""

import imagecodecs
import numpy as np
import pytest
import scipy.io
import tifffile

from unet_cli.data.formats import count_pages, decode, extras, lacking_packages
from unet_cli.data.maskfile import read_mask
from unet_cli.data.source import Source
from unet_cli.errors import UserError

NOISE = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)


def channels_last(decoded):
    return np.moveaxis(decoded.pixels[0], 0, -1)


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (NOISE, {}),
        (NOISE[..., :1], {"usecontainer": True}),
        (NOISE.repeat(3, 1)[:32, :128], {}),
        (NOISE.astype(np.uint16) * 200, {}),
    ],
)
def test_jpeg_xl_is_read_losslessly(tmp_path, pixels, options):
    path = tmp_path / "a.jxl"
    path.write_bytes(imagecodecs.jpegxl_encode(pixels.squeeze(), lossless=True, **options))
    decoded = decode(path)
    assert decoded.pixels.dtype == pixels.dtype
    assert (channels_last(decoded) == pixels).all()


def test_a_jpeg_xl_that_claims_too_much_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "a.jxl"
    bits, at = 0, 0  # the large form, height and width in 30 bits each
    for value, count in ((0, 1), (3, 2), (99_999, 30), (0, 3), (3, 2), (99_999, 30)):
        bits |= value << at
        at += count
    path.write_bytes(b"\xff\n" + bits.to_bytes(16, "little"))
    with pytest.raises(UserError, match="500 million pixels"):
        decode(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.uint16])
@pytest.mark.parametrize("packed", [False, True])
def test_a_mat_file_is_read_as_the_one_array_that_it_holds(tmp_path, dtype, packed):
    mask = (NOISE[..., 0] % 3).astype(dtype)
    scipy.io.savemat(tmp_path / "m.mat", {"labels": mask, "count": 3.0}, do_compression=packed)
    assert (read_mask(Source((tmp_path / "m.mat",))).values[0] == mask).all()
    assert count_pages(tmp_path / "m.mat") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": np.eye(4), "b": np.eye(5)}, r"several arrays \(a, b\): save one"),
        ({"groundTruth": {"Segmentation": np.eye(4)}}, "holds no array of numbers"),
    ],
)
def test_a_mat_file_that_is_no_mask_is_explained(tmp_path, content, message):
    scipy.io.savemat(tmp_path / "m.mat", content)
    with pytest.raises(UserError, match=message):
        decode(tmp_path / "m.mat")
    (tmp_path / "m.mat").write_bytes(b"MATLAB 7.3 MAT-file" + bytes(600))
    with pytest.raises(UserError, match="MATLAB 7.3.*-v7"):
        decode(tmp_path / "m.mat")


@pytest.mark.parametrize("extension", ["svs", "ndpi", "scn", "qptiff", "bif"])
def test_a_slide_is_the_first_level_of_its_pyramid(tmp_path, extension):
    path = tmp_path / f"slide.{extension}"
    with tifffile.TiffWriter(path) as writer:
        writer.write(NOISE[:32, :48], tile=(16, 16), photometric="rgb", subfiletype=0)
        writer.write(NOISE[:16, :24].copy(), tile=(16, 16), photometric="rgb", subfiletype=1)
    assert count_pages(path) == 1
    assert (channels_last(decode(path)) == NOISE[:32, :48]).all()


def heif_file(path):
    pillow_heif = pytest.importorskip("pillow_heif", reason="pip install pillow-heif, the extra heif")
    flat = np.zeros((64, 80, 3), np.uint8)
    flat[:, 40:] = 200
    pillow_heif.from_bytes("RGB", (80, 64), flat.tobytes()).save(path, quality=95)
    return flat


def test_heif_is_read(tmp_path):
    flat = heif_file(tmp_path / "a.heic")
    found = channels_last(decode(tmp_path / "a.heic"))
    assert found.shape == flat.shape
    assert abs(found.astype(int) - flat).mean() < 3


def dicom_file(path, values, **tags):
    pydicom = pytest.importorskip("pydicom", reason="pip install pydicom, the extra medical")
    secondary = "1.2.840.10008.5.1.4.1.1.7"
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = secondary
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = pydicom.uid.generate_uid()
    dataset.Rows, dataset.Columns = values.shape[-2:]
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = values.astype("<u2").tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)


def test_dicom_is_read_in_the_units_of_its_modality(tmp_path):
    ramp = np.arange(600).reshape(20, 30)
    dicom_file(tmp_path / "a.dcm", ramp)
    assert (decode(tmp_path / "a.dcm").pixels[0, 0] == ramp).all()
    dicom_file(tmp_path / "b.dcm", ramp, RescaleSlope=2, RescaleIntercept=-1024)
    assert (decode(tmp_path / "b.dcm").pixels[0, 0] == 2 * ramp - 1024).all()
    dicom_file(tmp_path / "c.dcm", ramp, PhotometricInterpretation="MONOCHROME1")
    assert (decode(tmp_path / "c.dcm").pixels[0, 0] == 599 - ramp).all()


def test_a_dicom_volume_is_refused(tmp_path):
    dicom_file(tmp_path / "a.dcm", np.zeros((3, 20, 30)), NumberOfFrames=3)
    with pytest.raises(UserError, match="holds 3 frames, a volume or a movie"):
        decode(tmp_path / "a.dcm")


def test_what_a_package_is_lacking_for_is_counted_and_the_package_named(tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "is_installed", lambda package: False)
    (tmp_path / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM" + bytes(99))
    with pytest.raises(UserError, match=r"a.HEIC can't be read without a package: pip install pillow-heif .*`heif`"):
        decode(tmp_path / "a.HEIC")
    with pytest.raises(UserError, match=r"a.dcm can't be read without a package: pip install pydicom .*`medical`"):
        decode(tmp_path / "a.dcm")
    assert lacking_packages([tmp_path / "a.HEIC", tmp_path / "b.HEIC", tmp_path / "a.dcm", tmp_path / "c.png"]) == [
        "2 .HEIC files can't be read (pip install pillow-heif, extra `heif`)",
        "1 .dcm file can't be read (pip install pydicom, extra `medical`)",
    ]


@pytest.mark.parametrize("kind", ["jxl", "mat", "heic", "dcm"])
def test_a_file_that_ends_too_early_is_no_image(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "jxl":
        path.write_bytes(imagecodecs.jpegxl_encode(NOISE, lossless=True))
    elif kind == "mat":
        scipy.io.savemat(path, {"labels": NOISE[..., 0]})
    elif kind == "heic":
        heif_file(path)
    else:
        dicom_file(path, NOISE[..., 0])
    content = path.read_bytes()
    for length in range(140, len(content) - 8, len(content) // 9):
        path.write_bytes(content[:length])
        with pytest.raises(UserError):
            decode(path)
