"""NIfTI volumes: read in one orientation however they are stored, written with the header of their image, and refused
with one clear error where they are damaged."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from unet_cli.data.formats import (
    count_pages,
    decode,
    extension_of,
    extras,
    lacking_packages,
    nifti,
    nifti_write,
    without_extension,
)
from unet_cli.data.imagefile import is_image_file, read_image
from unet_cli.data.maskfile import read_mask
from unet_cli.data.source import Source
from unet_cli.data.writing import is_ours
from unet_cli.errors import UserError
from unet_cli.system.files import whole_file

nibabel = pytest.importorskip("nibabel", reason="pip install nibabel, the extra medical")

# (D, H, W), in the orientation of reading: slices to superior, rows to posterior, columns to left.
VOLUME = np.random.default_rng(0).integers(-1000, 3000, (4, 5, 6)).astype(np.int16)
SPACING = (3.0, 0.5, 0.75)
# From (w, h, d) to mm towards right, anterior, superior.
AFFINE = np.array([[-0.75, 0, 0, 40], [0, -0.5, 0, 30], [0, 0, 3, -20], [0, 0, 0, 1.0]])


def stored_as(codes: str, volume: np.ndarray = VOLUME) -> "nibabel.Nifti1Image":
    """The same volume with the axes of its file in these directions."""
    orientations = nibabel.orientations
    wanted = orientations.axcodes2ornt(tuple(codes))
    return nibabel.Nifti1Image(volume.transpose(), AFFINE).as_reoriented(
        orientations.ornt_transform(orientations.axcodes2ornt("LPS"), wanted)
    )


def saved(path: Path, codes: str = "RAS", volume: np.ndarray = VOLUME) -> Path:
    nibabel.save(stored_as(codes, volume), path)
    return path


def volume_of(path: Path) -> Source:
    return Source((path,), is_volume=True)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR", "ASL", "SAR"])
def test_a_volume_is_read_alike_in_every_storage_orientation_whole_and_by_pages(tmp_path, codes, name):
    path = saved(tmp_path / name, codes)
    assert nibabel.aff2axcodes(nibabel.load(path).affine) == tuple(codes)
    assert (decode(path).pixels == VOLUME[:, None]).all()
    assert count_pages(path) == 4
    for page in (2, 0, 3):
        assert (decode(path, page).pixels == VOLUME[page, None, None]).all()
    image = read_image(volume_of(path))
    assert image.dtype == np.float32
    assert (image == VOLUME[None]).all()
    geometry = nifti.geometry_of(path)
    assert (geometry.shape, geometry.stored) == ((4, 5, 6), codes)
    assert geometry.spacing == pytest.approx(SPACING)
    np.testing.assert_allclose(geometry.affine @ [1, 2, 3, 1], AFFINE @ [3, 2, 1, 1], atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.float32, np.float64, np.int64])
def test_images_of_every_number_type_are_one_kind_and_masks_keep_their_numbers(tmp_path, dtype):
    labels = (np.arange(120) % 5).reshape(4, 5, 6).astype(dtype)
    image = nibabel.Nifti1Image(labels.transpose(), AFFINE, dtype=dtype)
    nibabel.save(image, tmp_path / "a.nii.gz")
    source = volume_of(tmp_path / "a.nii.gz")
    assert read_image(source).dtype == np.float32
    mask = read_mask(source)
    assert mask.values.dtype in (np.uint8, np.uint16)
    assert (mask.values == labels).all()


@pytest.mark.parametrize("kind", ["Nifti1Image", "Nifti2Image"])
@pytest.mark.parametrize("order", "<>")
def test_scale_and_byte_order_of_the_header_are_applied(tmp_path, kind, order):
    image = getattr(nibabel, kind)(VOLUME.transpose(), AFFINE)
    header = image.header.as_byteswapped(order)
    header.set_slope_inter(0.5, -1024)
    header["vox_offset"] = header.single_vox_offset
    content = header.binaryblock + bytes(4) + VOLUME.astype(order + "i2").tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    assert (read_image(volume_of(tmp_path / "a.nii"))[0] == VOLUME * 0.5 - 1024).all()


def test_pages_of_a_compressed_volume_are_unpacked_once_and_the_file_s_new_content_is_noticed(tmp_path, monkeypatch):
    paths = [saved(tmp_path / f"{name}.nii.gz", volume=VOLUME + number) for number, name in enumerate("ab")]
    unpacked = []
    real = nifti._unpack
    monkeypatch.setattr(nifti, "_unpack", lambda file, *rest: (unpacked.append(file.name), real(file, *rest)))
    for page in range(4):
        for number, path in enumerate(paths):
            assert (decode(path, page).pixels == VOLUME[page] + number).all()
    assert len(unpacked) == 2
    saved(paths[0], volume=VOLUME + 7)
    assert (decode(paths[0], 1).pixels == VOLUME[1] + 7).all()
    monkeypatch.setattr(nifti, "MAX_UNPACKED", 2)
    saved(tmp_path / "c.nii.gz")
    decode(tmp_path / "c.nii.gz", 0)
    assert len(nifti._UNPACKED) == 2
    monkeypatch.setattr(nifti, "MAX_KEPT", VOLUME.nbytes)
    saved(tmp_path / "d.nii.gz")
    assert (decode(tmp_path / "d.nii.gz", 2).pixels == VOLUME[2]).all()
    assert len(nifti._UNPACKED) == 1


def test_a_page_of_an_uncompressed_volume_reads_no_others(tmp_path):
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((64, 64, 1000))
    header.set_sform(np.diag([-1, -1, 1, 1]), 1)
    header["vox_offset"] = 352
    with open(tmp_path / "a.nii", "wb") as file:
        file.write(header.binaryblock)
        file.truncate(352 + 64 * 64 * 1000)
    pixels = decode(tmp_path / "a.nii", 999).pixels
    assert pixels.shape == (1, 1, 64, 64)
    assert pixels.base is None or pixels.base.nbytes <= 64 * 64


def test_a_last_axis_of_length_one_is_dropped_and_a_flat_image_has_one_slice(tmp_path):
    nibabel.save(nibabel.Nifti1Image(VOLUME.transpose()[..., None], AFFINE), tmp_path / "a.nii.gz")
    assert (decode(tmp_path / "a.nii.gz").pixels == VOLUME[:, None]).all()
    nibabel.save(nibabel.Nifti1Image(VOLUME[0].transpose(), AFFINE), tmp_path / "b.nii.gz")
    assert (decode(tmp_path / "b.nii.gz").pixels == VOLUME[:1, None]).all()


def changed(**fields) -> bytes:
    image = nibabel.Nifti1Image(VOLUME.transpose(), AFFINE)
    content = bytearray(image.to_bytes())
    offsets = {"magic": 344, "dim": 40, "datatype": 70, "bitpix": 72, "vox_offset": 108, "srow": 280, "slope": 112}
    for name, value in fields.items():
        content[offsets[name] : offsets[name] + len(value)] = value
    return bytes(content)


BAD = {
    "cut short": (changed()[:-10], "ends before its pixels do"),
    "header cut short": (changed()[:347], "is not an image"),
    "of a pair": (changed(magic=b"ni1\0"), "pair .hdr and .img: save the volume as one file"),
    "of a series in time": (
        changed(dim=struct.pack("<5h", 4, 2, 3, 1, 20)),
        "has 4 axes, 2x3x1x20: the fourth may hold",
    ),
    "too large": (changed(dim=struct.pack("<4h", 3, 30000, 30000, 30000)), "more than 500 million pixels"),
    "not that large": (changed(dim=struct.pack("<4h", 3, 600, 600, 600)), "is damaged"),
    "negative": (changed(dim=struct.pack("<4h", 3, -6, 5, 4)), "is damaged"),
    "of no size": (changed(dim=struct.pack("<4h", 0, 6, 5, 4)), "is damaged"),
    "of too many axes": (changed(dim=struct.pack("<4h", 900, 6, 5, 4)), "is damaged"),
    "complex": (changed(datatype=struct.pack("<2h", 32, 64)), "holds complex numbers: save each channel"),
    "in colour": (changed(datatype=struct.pack("<2h", 128, 24)), "holds colours: save each channel"),
    "of unknown type": (changed(datatype=struct.pack("<2h", 77, 16)), "is damaged"),
    "nowhere": (changed(srow=bytes(48)), "its affine is no position in space"),
    "at NaN": (changed(srow=struct.pack("<f", np.nan) * 12), "its affine is no position in space"),
    "before its header": (changed(vox_offset=struct.pack("<f", 8)), "is damaged"),
    "at an offset of NaN": (changed(vox_offset=struct.pack("<f", np.nan)), "is damaged"),
    "far behind its end": (changed(vox_offset=struct.pack("<f", 1e30)), "is damaged"),
    "at a negative offset": (changed(vox_offset=struct.pack("<f", -1e9)), "is damaged"),
    "nothing": (b"", "is empty"),
    "text": (b"no volume at all", "is not an image"),
}


@pytest.mark.parametrize("is_packed", [False, True], ids=["nii", "nii.gz"])
@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_one_error(tmp_path, content, message, is_packed):
    path = tmp_path / ("a.nii.gz" if is_packed else "a.nii")
    path.write_bytes(gzip.compress(content) if is_packed and content else content)
    for page in (None, 0):
        with pytest.raises(UserError, match=message) as caught:
            decode(path, page)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [5, 30, 150, -9, -2])
def test_a_truncated_archive_is_one_error(tmp_path, cut):
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(changed())[:cut])
    with pytest.raises(UserError, match="is damaged|is not an image"):
        decode(tmp_path / "a.nii.gz")


def test_an_archive_that_unpacks_to_far_more_than_it_holds_is_refused(tmp_path):
    content = changed(dim=struct.pack("<4h", 3, 700, 700, 700))
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match="its header claims 343,000,000 pixels, but the file has"):
        decode(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR", "SAR"])
def test_a_mask_is_written_into_the_space_of_its_image(tmp_path, codes, dtype, name):
    like = stored_as(codes)
    like.header.set_slope_inter(2, 5)
    like.header["xyzt_units"] = 2
    like.set_qform(like.affine, 2)
    like.set_sform(like.affine, 4)
    nibabel.save(like, tmp_path / "image.nii.gz")
    labels = (np.arange(120) % 7).reshape(4, 5, 6).astype(dtype)
    path = tmp_path / "out" / name
    path.parent.mkdir()
    with whole_file(path) as file:
        nifti_write.write_nifti(file, iter(labels), tmp_path / "image.nii.gz", dtype, is_packed=name.endswith("gz"))
    assert path.read_bytes().startswith(b"\x1f\x8b") == name.endswith("gz")
    written, image = nibabel.load(path), nibabel.load(tmp_path / "image.nii.gz")
    assert written.get_data_dtype() == dtype
    np.testing.assert_allclose(written.affine, image.affine, atol=1e-6)
    fields = ["dim", "pixdim", "sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"]
    fields += ["quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"]
    for field in fields:
        assert written.header[field].tobytes() == image.header[field].tobytes(), field
    with gzip.open(path) if name.endswith("gz") else open(path, "rb") as file:
        header = nibabel.Nifti1Header.from_fileobj(file)
    assert (header["scl_slope"], header["scl_inter"], header["vox_offset"]) == (1, 0, 352)
    back = written.as_reoriented(
        nibabel.orientations.ornt_transform(
            nibabel.io_orientation(written.affine), nibabel.orientations.axcodes2ornt("LPS")
        )
    )
    assert (np.asarray(back.dataobj).transpose() == labels).all()
    assert (read_mask(volume_of(path)).values == labels).all()
    assert is_ours(path)
    assert not is_ours(tmp_path / "image.nii.gz")


def test_a_mask_like_a_file_that_is_no_nifti_is_refused(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"no volume at all")
    with open(tmp_path / "b.nii", "wb") as file, pytest.raises(UserError, match=r"a\.nii is no NIfTI file"):
        nifti_write.write_nifti(file, [], tmp_path / "a.nii", np.uint8)
    assert not is_ours(tmp_path / "a.nii")


def test_two_extensions_are_one():
    assert [extension_of(name) for name in ("a.NII.gz", "a.nii", "a.b.TIF", "a.gz", "a")] == [
        ".nii.gz", ".nii", ".tif", ".gz", "",
    ]  # fmt: skip
    assert without_extension(Path("x/a.b.nii.gz")) == Path("x/a.b")
    assert [without_extension(name) for name in ("a.NII.GZ", "a.b.png", "a")] == ["a", "a.b", "a"]
    assert is_image_file(Path("a.nii.gz"))
    assert not is_image_file(Path("._a.nii.gz"))
    assert not is_image_file(Path("a.gz"))


def test_without_nibabel_it_is_said_what_to_install(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.nii.gz")
    monkeypatch.setattr(extras, "is_installed", lambda package: False)
    nifti._parsed.cache_clear()  # as in another process
    with pytest.raises(UserError, match=r"pip install nibabel \(the extra `medical`\)"):
        decode(path)
    assert lacking_packages([path, path]) == ["2 .nii.gz files can't be read (pip install nibabel, extra `medical`)"]
