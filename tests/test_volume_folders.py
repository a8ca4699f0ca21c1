"""Volumes in folders of slices: DICOM series in the order of their positions, others in that of their names."""

import shutil

import numpy as np
import pytest
from conftest import write_pairs
from PIL import Image
from test_extras import dicom_file
from volumes import SHAPE, drawn_volume, write_volume

from unet_cli.config.data import CheckConfig
from unet_cli.data.check.examine import examine
from unet_cli.data.folder.layout import layout_of
from unet_cli.data.imagefile import read_image
from unet_cli.data.maskfile import read_mask
from unet_cli.errors import UserError
from unet_cli.system.console import Console

QUIET = Console(quiet=True)


def card_of(folder, **options):
    config = CheckConfig(data=folder, volume_folders=True, **options)
    return examine(layout_of(config), config, QUIET)


# Of `dicom_set`, in NIfTI: from (w, h, d) to mm towards right, anterior, superior.
AFFINE = np.array([[-0.75, 0, 0, 5], [0, -0.5, 0, -8], [0, 0, 2.5, -100], [0, 0, 0, 1.0]])


def names(count: int) -> list[int]:
    """Numbers of files that are in another order than the slices."""
    return [(7 * index + 3) % count for index in range(count)]


def dicom_set(root, count: int = 3):
    """Series of slices whose names say nothing about their order; and their masks under the same names."""
    for index in range(count):
        image, mask = drawn_volume(index)
        folders = [root / kind / f"patient{index}" for kind in ("images", "masks")]
        for folder in folders:
            folder.mkdir(parents=True)
        for place, number in enumerate(names(SHAPE[0])):
            dicom_file(
                folders[0] / f"IM{number:03}.dcm",
                (image[place] + 1000).astype(np.uint16),
                RescaleSlope=1,
                RescaleIntercept=-1000,
                ImagePositionPatient=[-5, 8, -100 + 2.5 * place],
                ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
                PixelSpacing=[0.5, 0.75],
            )
            Image.fromarray(mask[place]).save(folders[1] / f"IM{number:03}.png")
    return root


def test_a_dicom_series_is_a_volume_in_the_order_of_its_positions(tmp_path):
    card = card_of(dicom_set(tmp_path / "set"))
    assert not card.refusals
    assert [pair.name for pair in card.pairs("train")] == ["patient0", "patient1", "patient2"]
    for index, pair in enumerate(card.pairs("train")):
        image, mask = drawn_volume(index)
        assert (read_image(pair.image) == image).all()
        assert (read_mask(pair.mask).values == mask).all()
    assert card.spacing(card.pairs("train")) == pytest.approx((2.5, 0.5, 0.75))
    assert card.is_volumetric


def test_a_mask_of_a_series_may_be_one_file(tmp_path):
    root = dicom_set(tmp_path / "set")
    shutil.rmtree(root / "masks")
    for index in range(3):
        write_volume(root / "masks" / f"patient{index}.nii.gz", drawn_volume(index)[1], AFFINE)
    card = card_of(root)
    assert not card.refusals
    for index, pair in enumerate(card.pairs("train")):
        assert (read_mask(pair.mask).values == drawn_volume(index)[1]).all()
    write_volume(root / "masks" / "patient1.nii.gz", drawn_volume(1)[1], AFFINE + 3 * np.eye(4, k=3))
    [problem] = card_of(root).refusals
    assert "patient1.nii.gz is shifted by 4x0x0 voxels against" in problem.text
    assert "Export the mask again on the voxels of this series" in problem.text


def slice_at(place: int) -> str:
    return f"IM{names(SHAPE[0])[place]:03}"


def test_a_missing_slice_is_refused_by_name(tmp_path):
    root = dicom_set(tmp_path / "set")
    for kind, extension in (("images", "dcm"), ("masks", "png")):
        (root / kind / "patient1" / f"{slice_at(4)}.{extension}").unlink()
    [problem] = card_of(root).refusals
    assert problem.text.startswith(
        f"{root / 'images' / 'patient1'}: 1 slice missing between {slice_at(3)}.dcm and {slice_at(5)}.dcm, which are "
        "5 mm apart where others are 2.5 mm"
    )
    assert len(card_of(root, skip_bad=True).pairs("train")) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ImagePositionPatient": [-5, 8, -100]}, "are at the same place: put each series"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}, "lies in another direction than"),
        ({"PixelSpacing": [1, 1]}, "or has pixels of another size"),
        ({"ImagePositionPatient": [-5, 8, -99]}, "another distance between|missing between"),
        ({"ImagePositionPatient": None}, "doesn't tell its position in the patient"),
    ],
)
def test_a_file_that_is_no_slice_of_its_series_is_refused_by_name(tmp_path, change, message):
    pydicom = pytest.importorskip("pydicom")
    root = dicom_set(tmp_path / "set")
    path = root / "images" / "patient0" / f"{slice_at(6)}.dcm"
    dataset = pydicom.dcmread(path)
    for name, value in change.items():
        setattr(dataset, name, value)
    dataset.save_as(path)
    [problem] = card_of(root).refusals
    assert path.name in problem.text
    assert message.split("|")[0] in problem.text or message.split("|")[-1] in problem.text


def test_masks_that_fit_the_slices_by_neither_name_nor_order_are_refused(tmp_path):
    root = dicom_set(tmp_path / "set")
    for number, path in enumerate(sorted((root / "masks" / "patient2").iterdir())):
        path.rename(path.with_name(f"label-{number:02}.png"))
    [problem] = card_of(root).refusals
    assert "it isn't clear which mask belongs to which slice" in problem.text


def test_other_slices_are_in_the_order_of_their_names(tmp_path):
    for index in range(3):
        image, mask = drawn_volume(index)
        for kind, values in (("images", image - image.min()), ("masks", mask)):
            folder = tmp_path / "set" / kind / f"v{index}"
            folder.mkdir(parents=True)
            for place, plane in enumerate(values.astype(np.uint16)):
                Image.fromarray(plane).save(folder / f"{place + 1}.png")
    card = card_of(tmp_path / "set")
    for index, pair in enumerate(card.pairs("train")):
        image, mask = drawn_volume(index)
        assert (read_image(pair.image)[0] == image - image.min()).all()
        assert (read_mask(pair.mask).values == mask).all()
    (tmp_path / "set" / "masks" / "v1" / "3.png").unlink()
    [problem] = card_of(tmp_path / "set").refusals
    assert "holds 11 masks but" in problem.text


def test_files_without_folders_of_their_own_and_rules_for_files_are_refused(tmp_path):
    write_pairs(tmp_path / "flat", 4)
    with pytest.raises(UserError, match="give every volume a folder of its own"):
        card_of(tmp_path / "flat")
    with pytest.raises(UserError, match="leave one of them out"):
        card_of(tmp_path / "flat", pair="images/{id}=masks/{id}")


def test_a_network_for_images_takes_no_volume_folders(tmp_path):
    config = CheckConfig(data=dicom_set(tmp_path / "set"), volume_folders=True)
    with pytest.raises(UserError, match="take a network for volumes"):
        examine(layout_of(config), config, QUIET, as_volumes=False)
