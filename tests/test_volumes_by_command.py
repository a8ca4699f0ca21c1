"""Volumes as users have them, by the command line: folders of slices, names of other tools, and what is wrong with
them."""

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import volumes
from conftest import Run, assert_failed, json_lines, start_unet, wait_for
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
    for weights, folder, name in (
        (weights_of(tmp_path / "one.pth"), "nn/imagesTr", "case_001.nii.gz"),
        ("checkpoints/brats_run", "new", "BraTS_004/BraTS_004.nii.gz"),
        ("checkpoints/brats_run", "new/BraTS_004", "BraTS_004.nii.gz"),
    ):
        out = "out_" + folder.replace("/", "_")
        done = unet("predict", "--weights", weights, "--input", folder, "--output", out)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / out / name).exists(), done.stdout
    scored = unet("evaluate", "--data", root, "--pred", "out_nn_imagesTr", "--classes", "background,organ,core")
    assert "out_nn_imagesTr: 4 masks, images and masks of the same name" in scored.stderr + scored.stdout
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


def test_dicom_folders_from_training_to_scores(unet: Run, tmp_path):
    for index in range(4):
        image, mask = drawn_volume(index)
        write_series(tmp_path / "set" / "images" / f"p{index}", image, "PIR" if index % 2 else "LPS")
        write_volume(tmp_path / "set" / "masks" / f"p{index}.nii.gz", mask, AFFINE, "RAS")
    trained = unet("train", "--data", "set", "--volume-folders", *QUICK, "--name", "run", "--val-fraction", 0.25)
    assert trained.returncode == 0, trained.stderr
    assert "volumes  16x20x12 (4), voxels of 0.75x0.5x2.5 mm" in trained.stderr + trained.stdout
    beside = unet("predict", "--weights", "checkpoints/run", "--input", "set/images/p1")
    assert beside.returncode == 0, beside.stderr
    assert (tmp_path / "set" / "images" / "p1_masks" / "p1.nii.gz").exists()
    done = unet("predict", "--weights", "checkpoints/run", "--input", "set/images", "--output", "out")
    assert "left out: 1 mask beside the folders of their slices" in done.stderr + done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"p{index}.nii.gz" for index in range(4)}
    scored = unet("evaluate", "--data", "set", "--volume-folders", "--pred", "out", "--json")
    assert scored.returncode == 0, scored.stderr
    refused = unet("evaluate", "--data", "set", "--weights", "checkpoints/run")
    assert_failed(refused, 1, "If each folder of images holds the slices of one volume, say so with --volume-folders")


def test_everything_that_is_wrong_with_volumes_is_listed_at_once(unet: Run, tmp_path):
    root = write_set(tmp_path / "set", count=10, is_numbered=False)
    names = [f"case_{index:03}.nii.gz" for index in range(10)]
    images, masks = ([root / kind / name for name in names] for kind in ("imagesTr", "labelsTr"))
    image, mask = drawn_volume(0)
    whole = gzip.decompress(images[0].read_bytes())
    images[0].write_bytes(images[0].read_bytes()[:2000])
    images[1].write_bytes(gzip.compress(whole[:42] + np.array([900, 900, 900], "<i2").tobytes() + whole[48:]))
    images[2].write_bytes(gzip.compress(bytes(348) + whole[348:]))
    write_volume(masks[3], mask, volumes.AFFINE + 5 * np.eye(4, k=3))
    write_volume(masks[4], mask[:-1])
    write_volume(masks[5], mask * np.float32(1.25))
    write_volume(images[6], np.where(mask == 2, np.float32(np.inf), image))
    nibabel.save(nibabel.Nifti1Image(np.zeros((16, 20, 12, 40), np.int16), AFFINE), images[7])
    write_volume(masks[8], mask * np.float64(1.0000001))
    write_volume(images[9], np.where(mask == 2, np.float32(np.nan), image))
    done = unet("train", "--data", "set", *QUICK)
    assert_failed(
        done, 1, "8 problems with the files", "case_000.nii.gz is damaged (it ends before its pixels do)",
        "case_001.nii.gz has more than 500 million pixels", "case_002.nii.gz is not an image",
        "case_003.nii.gz is shifted by 10x0x0 voxels against", "case_004.nii.gz is 16x20x11 but its image",
        "case_005.nii.gz holds numbers that are not whole", "case_006.nii.gz holds infinite values",
        "case_007.nii.gz has 4 axes, 16x20x12x40: the fourth may hold up to 16 channels",
        "leave them out with --skip-bad",
    )  # fmt: skip
    for path in masks:
        write_volume(path, np.zeros_like(mask))
    assert_failed(unet("train", "--data", "set", "--skip-bad", *QUICK), 1, "no mask holds anything but background")
    for index in range(3):
        for kind, values in (("images", image[index].clip(0, 255)), ("masks", mask[6])):
            (tmp_path / "flat" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(tmp_path / "flat" / kind / f"{index}.png")
    assert_failed(unet("train", "--data", "flat", *QUICK, "--model", "unet3d"), 1, "say so with --volume-folders")


def test_thin_volumes_of_several_types_are_trained_on_and_a_killed_run_continues_to_the_same_weights(unet, tmp_path):
    for index in range(4):
        image, mask = drawn_volume(index)
        part = slice(5, 6 + 2 * (index % 2))
        name = f"Bäuche/{{}}/Fäll #{index}.nii" + ".gz" * (index % 2)
        values = image[part].astype((np.int16, np.float32, np.float64, np.int32)[index])
        write_volume(tmp_path / name.format("images"), values, codes=("LPS", "RAS", "PIR", "LPS")[index])
        write_volume(tmp_path / name.format("masks"), mask[part], codes=("RAS", "LPS", "LPS", "ASL")[index])
    flags = ("train", "--data", "Bäuche", "--epochs", 3, "--width", 2, "--device", "cpu", "--val-fraction", 0.25)
    process = start_unet(*flags, "--name", "broken", cwd=tmp_path)
    wait_for(tmp_path / "checkpoints" / "broken" / "last.pth", process)
    process.kill()
    process.wait()
    runs = [unet(*flags, "--name", "whole"), unet("train", "--resume", "checkpoints/broken")]
    if "has finished training" not in runs[1].stderr:  # killed too late
        assert [run.returncode for run in runs] == [0, 0], runs[1].stderr
    whole, broken = (load_checkpoint(tmp_path / "checkpoints" / name / "last.pth") for name in ("whole", "broken"))
    assert all((whole.weights[name] == broken.weights[name]).all() for name in whole.weights)
    done = unet("predict", "--weights", "checkpoints/whole", "--input", "Bäuche/images", "--output", "out put")
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / "Bäuche" / "images").iterdir():
        mask = nibabel.load(tmp_path / "out put" / path.name)
        assert (mask.shape, mask.affine.tolist()) == (nibabel.load(path).shape, nibabel.load(path).affine.tolist())


def test_a_full_disk_leaves_no_part_of_a_mask(full_disk: Run, tmp_path):
    image = np.random.default_rng(0).normal(size=(40, 64, 64)).astype(np.float32)
    write_volume(tmp_path / "in" / "a.nii", image)
    weights_of(tmp_path / "w.pth")
    flags = ("predict", "--weights", "w.pth", "--input", "in", "--output", "out")
    assert_failed(full_disk(100_000, *flags), 3, "a.nii")
    assert [path for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")] == []
