"""Volumes as users have them, by the command line: folders of slices, names of other tools, and what is wrong with
them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import Run, assert_failed, json_lines
from PIL import Image
from test_extras import dicom_file
from test_predict_volumes import CPU, RULE, checkpoint_of
from volumes import drawn_volume, write_set, write_volume

from unet_cli.checkpoint import load_checkpoint, save_checkpoint
from unet_cli.data.formats.nifti import geometry_of
from unet_cli.inference.predictor import Predictor

nibabel = pytest.importorskip("nibabel", reason="pip install nibabel, the extra medical")
pytest.importorskip("pydicom", reason="pip install pydicom, the extra medical")

# From (w, h, d) to mm towards right, anterior, superior, as volumes are read.
AFFINE = np.array([[-0.75, 0, 0, 5], [0, -0.5, 0, -8], [0, 0, 2.5, -100], [0, 0, 0, 1.0]])
QUICK = ("--epochs", 1, "--width", 2, "--device", "cpu")


def write_series(folder: Path, volume: np.ndarray, codes: str = "LPS", **tags: object) -> Path:
    """(D, H, W), in the orientation of reading, as slices whose columns, rows and numbers run in these directions."""
    folder.mkdir(parents=True)
    orientations = nibabel.orientations
    turn = orientations.ornt_transform(*(orientations.axcodes2ornt(tuple(axes)) for axes in ("LPS", codes)))
    stored = nibabel.Nifti1Image(volume.transpose(), AFFINE).as_reoriented(turn)
    columns, rows, through, origin = (stored.affine[:3] * [[-1], [-1], [1]]).T
    for place, plane in enumerate(np.asarray(stored.dataobj).transpose(2, 1, 0)):
        lengths = [float(np.linalg.norm(step)) for step in (rows, columns)]
        dicom_file(
            folder / f"IM{(7 * place + 3) % 100:03}.dcm",
            (plane + 1000).astype(np.uint16),
            RescaleSlope=1,
            RescaleIntercept=-1000,
            ImagePositionPatient=(origin + through * place).tolist(),
            ImageOrientationPatient=[*(columns / lengths[1]).tolist(), *(rows / lengths[0]).tolist()],
            PixelSpacing=lengths,
            **tags,
        )
    return folder


def weights_of(path: Path, **training: object) -> Path:
    save_checkpoint(path, replace(checkpoint_of(replace(RULE, intensity="image")), training=training))
    return path


def test_series_of_any_direction_and_nifti_of_the_same_body_have_the_same_mask(unet: Run, tmp_path):
    image, _ = drawn_volume(0)
    weights = weights_of(tmp_path / "weights.pth")
    expected = Predictor([load_checkpoint(weights)], CPU)(image.astype(np.float32))
    assert 0.01 < expected.mean() < 0.99
    codes = {"axial": "LPS", "reversed": "RAI", "sagittal": "PIR", "coronal": "LIA"}
    for name, code in codes.items():
        write_series(tmp_path / "in" / name, image, code)
    write_volume(tmp_path / "in" / "nifti.nii.gz", image, AFFINE, "RAS")
    write_series(tmp_path / "in" / "gap", image)
    (tmp_path / "in" / "gap" / "IM031.dcm").unlink()
    write_series(tmp_path / "in" / "one", image[:1])
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "in" / "photo.png")
    done = unet("predict", "--weights", weights, "--input", "in", "--output", "out", "--overlay", "--json")
    assert_failed(
        done, 3, "in/gap: 1 slice missing between IM024.dcm and IM038.dcm", "in/one/IM003.dcm is one slice",
        "in/photo.png is an image, and these weights predict volumes", "3 images failed",
    )  # fmt: skip
    names = {*codes, "nifti"}
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {f"{name}.nii.gz" for name in names}
    assert len([line for line in json_lines(done.stdout) if "output" in line]) == len(names)
    for name in names:
        mask = nibabel.as_closest_canonical(nibabel.load(tmp_path / "out" / f"{name}.nii.gz"))
        assert (np.asarray(mask.dataobj).transpose(2, 1, 0)[:, ::-1, ::-1] == expected).all(), name
        geometry = geometry_of(tmp_path / "out" / f"{name}.nii.gz")
        assert np.allclose(geometry.affine, geometry_of(tmp_path / "in" / "nifti.nii.gz").affine), name
    one = unet("predict", "--weights", weights, "--input", "in/sagittal", "--output", "one", "--format", "tif")
    assert one.returncode == 0, one.stderr
    assert (tifffile.imread(tmp_path / "one" / "sagittal.tif") == expected).all()
    assert (Predictor([load_checkpoint(weights)], CPU)(tmp_path / "in" / "coronal") == expected).all()
    again = unet("predict", "--weights", weights, "--input", "in/axial", "--output", "out", "--skip-existing")
    assert "1 already done" in again.stderr + again.stdout


def test_folders_of_images_are_volumes_for_weights_that_were_trained_on_them(unet: Run, tmp_path):
    volume = drawn_volume(1)[0].clip(0).astype(np.uint8)
    rule = replace(RULE, dtype="uint8")
    save_checkpoint(tmp_path / "w.pth", replace(checkpoint_of(rule), training={"volume_folders": True}))
    for folder, count in (("in/a", 12), ("in/b", 11)):
        (tmp_path / folder).mkdir(parents=True)
        for place in range(count):
            Image.fromarray(volume[place]).save(tmp_path / folder / f"{place + 1}.png")
    Image.fromarray(volume[0, :9]).save(tmp_path / "in" / "b" / "12.png")
    tifffile.imwrite(tmp_path / "in" / "c.tif", volume, photometric="minisblack")
    done = unet("predict", "--weights", "w.pth", "--input", "in", "--output", "out")
    assert_failed(done, 3, "b/12.png has slices of 16x9 uint8 and others of 16x20 uint8")
    expected = Predictor([load_checkpoint(tmp_path / "w.pth")], CPU)(volume)
    for name in ("a.tif", "c.tif"):
        assert (tifffile.imread(tmp_path / "out" / name) == expected).all()
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_cases_of_nnunet_and_channels_by_words_have_the_names_of_their_masks(unet: Run, tmp_path):
    root = write_set(tmp_path / "nn", count=4)
    trained = unet("train", "--data", root, *QUICK, "--name", "nn_run", "--val-fraction", 0.25)
    assert trained.returncode == 0, trained.stderr
    words = ("flair", "t1", "t1ce", "t2")
    for index in range(5):
        image, mask = drawn_volume(index)
        case = tmp_path / ("brats" if index < 4 else "new") / f"BraTS_{index:03}"
        for channel, word in enumerate(words):
            write_volume(case / f"{case.name}_{word}.nii.gz", image + np.int16(100 * channel))
        write_volume(case / f"{case.name}_seg.nii.gz", np.where(mask == 2, 4, mask).astype(np.uint8))
    trained = unet("train", "--data", "brats", *QUICK, "--name", "brats_run", "--val-fraction", 0.25)
    assert trained.returncode == 0, trained.stderr
    assert "ID_flair, ID_t1, ID_t1ce, ID_t2" in trained.stdout + trained.stderr
    checkpoint = load_checkpoint(tmp_path / "checkpoints" / "brats_run" / "best.pth")
    assert (checkpoint.preprocessing.files, checkpoint.preprocessing.in_channels) == (4, 4)
    for run, folder, name in (
        ("nn_run", "nn/imagesTs", "case_004.nii.gz"),
        ("brats_run", "new", "BraTS_004/BraTS_004.nii.gz"),
        ("brats_run", "new/BraTS_004", "BraTS_004.nii.gz"),
    ):
        out = f"{run}_{folder.replace('/', '_')}"
        done = unet("predict", "--weights", f"checkpoints/{run}", "--input", folder, "--output", out)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / out / name).exists(), done.stdout
    done = unet("evaluate", "--data", root, "--weights", "checkpoints/nn_run", "--json")
    assert done.returncode == 0, done.stderr
    (tmp_path / "new" / "BraTS_004" / "BraTS_004_t2.nii.gz").unlink()
    lacking = unet("predict", "--weights", "checkpoints/brats_run", "--input", "new", "--output", "out")
    assert_failed(lacking, 3, "has 3 channels, but the network was trained on 4")


def test_the_fourth_axis_of_an_image_holds_channels_and_that_of_a_mask_is_refused(unet: Run, tmp_path):
    for index in range(4):
        image, mask = drawn_volume(index)
        both = np.stack([image, 2 * image], axis=-1).transpose(2, 1, 0, 3)
        for folder, values in (("images", both), ("masks", mask.transpose())):
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / "set" / folder / f"{index}.nii.gz")
    trained = unet("train", "--data", "set", *QUICK, "--name", "run", "--val-fraction", 0.25)
    assert trained.returncode == 0, trained.stderr
    assert load_checkpoint(tmp_path / "checkpoints" / "run" / "best.pth").preprocessing.in_channels == 2
    done = unet("predict", "--weights", "checkpoints/run", "--input", "set/images", "--output", "out")
    assert done.returncode == 0, done.stderr
    mask = nibabel.load(tmp_path / "out" / "3.nii.gz")
    assert (mask.shape, mask.header.get_zooms()) == ((16, 20, 12), (0.75, 0.5, 2.5))
    image, mask = drawn_volume(0)
    one_hot = np.eye(3, dtype=np.uint8)[mask].transpose(2, 1, 0, 3)
    nibabel.save(nibabel.Nifti1Image(one_hot, AFFINE), tmp_path / "set" / "masks" / "2.nii.gz")
    refused = unet("train", "--data", "set", *QUICK)
    assert_failed(refused, 1, "2.nii.gz has 4 axes, 3 volumes, and is a mask: save it as one volume of class numbers")
