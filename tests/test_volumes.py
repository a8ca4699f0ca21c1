"""`unet check` on sets of volumes: nnU-Net's and the Decathlon's folders, what their files say, and what is wrong."""

import json

import numpy as np
import pytest
import tifffile
from test_card import card_of
from volumes import AFFINE, SHAPE, drawn_volume, write_set, write_volume

from unet_cli.cli.check import check
from unet_cli.config.data import CheckConfig
from unet_cli.data.check.examine import examine
from unet_cli.data.check.thumbnails import mask_thumbnail, thumbnail
from unet_cli.data.folder.layout import find_layout, layout_of
from unet_cli.data.imagefile import read_image
from unet_cli.data.maskfile import read_mask
from unet_cli.errors import UserError
from unet_cli.system.console import Console

pytest.importorskip("nibabel", reason="pip install nibabel, the extra medical")

LABELS = {"background": 0, "liver": 1, "tumour": 2}
OLDER = {"0": "background", "1": "liver", "2": "tumour"}


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_channels_in_files_of_their_own_make_one_volume(tmp_path, channels):
    card = card_of(write_set(tmp_path / "set", channels=channels))
    for index, pair in enumerate(card.pairs("train")):
        image, mask = drawn_volume(index)
        expected = np.stack([image + 100 * channel for channel in range(channels)])
        assert (read_image(pair.image) == expected).all()
        assert (read_mask(pair.mask).values == mask).all()
    assert card.in_channels == channels
    assert card.sizes(card.pairs("train")) == [SHAPE] * 6
    assert card.spacing(card.pairs("train")) == pytest.approx((2, 0.5, 0.5))


def test_images_of_the_decathlon_have_the_names_of_their_masks(tmp_path):
    layout = find_layout(write_set(tmp_path / "set", is_numbered=False))
    assert layout.rule == "images and masks of the same name"
    assert [pair.name for pair in layout.splits["train"]] == [f"case_{index:03}" for index in range(6)]
    assert list(layout.splits) == ["train"]
    assert any("test folder has no pairs" in note and "2 image files" in note for note in layout.notes)


@pytest.mark.parametrize("rule", ["imagesTr/{id}_0000=labelsTr/{id}", "imagesTr/{id}_*.nii.gz=labelsTr/{id}.nii.gz"])
def test_a_rule_by_hand_may_give_the_extension_or_not(tmp_path, rule):
    layout = find_layout(write_set(tmp_path / "set"), pair=rule)
    assert [pair.mask.path.name for pair in layout.splits["train"]] == [f"case_{index:03}.nii.gz" for index in range(6)]


@pytest.mark.parametrize("labels", [LABELS, OLDER])
def test_dataset_json_names_the_classes_unless_they_are_given(tmp_path, labels):
    root = write_set(tmp_path / "set", labels=labels)
    card = card_of(root)
    assert card.labels.names == ("background", "liver", "tumour")
    assert not any("passed over" in line for line in card.describe())
    assert card_of(root, classes="none,organ,lesion").labels.names == ("none", "organ", "lesion")


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        ({"background": 0, "liver": 1}, "the masks hold other values"),
        ({"background": 0, "whole": [1, 2], "core": [2]}, "regions of several values"),
        ({"background": 0, "liver": "one"}, "no names with a whole number each"),
        ({"background": 0, "liver": 1, "tumour": 1}, "no names with a whole number each"),
    ],
)
def test_a_dataset_json_that_does_not_fit_is_said_and_left(tmp_path, labels, note):
    card = card_of(write_set(tmp_path / "set", labels=labels))
    assert card.labels.names == ("0", "1", "2")
    assert any(note in line for line in card.describe())


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"labels": 3}', "\0", "[" * 100_000])
def test_another_dataset_json_says_nothing(tmp_path, text):
    root = write_set(tmp_path / "set")
    (root / "dataset.json").write_text(text)
    assert card_of(root).labels.names == ("0", "1", "2")


def test_the_label_ignore_of_dataset_json_counts_nowhere(tmp_path):
    root = write_set(tmp_path / "set", labels={"background": 0, "liver": 1, "ignore": 2})
    labels = card_of(root).labels
    assert (labels.names, labels.ignore) == (("background", "liver"), 2)


def test_a_rare_and_thin_value_is_a_class(tmp_path):
    root = write_set(tmp_path / "set")
    mask = drawn_volume(0)[1]
    mask[5, 3, 4:6] = 117
    mask[6, 8, 9] = 90
    write_volume(root / "labelsTr" / "case_000.nii.gz", mask)
    labels = card_of(root).labels
    assert labels.values == (0, 1, 2, 90, 117)
    assert not labels.strays


def test_a_value_of_no_class_is_refused(tmp_path):
    root = write_set(tmp_path / "set")
    mask = drawn_volume(4)[1]
    mask[6, 8, 9] = 3
    bad = write_volume(root / "labelsTr" / "case_004.nii.gz", mask)
    [problem] = card_of(root, classes="background=0,liver=1,tumour=2").refusals
    assert f"3 (1 voxel, as in {bad})" in problem.text


def test_a_set_is_described_in_volumes_and_voxels(tmp_path, capsys):
    root = write_set(tmp_path / "set", labels=LABELS)
    check(CheckConfig(data=root, pictures=tmp_path / "look"), Console(quiet=False))
    text = capsys.readouterr().out
    assert "volumes  16x20x12 (6), voxels of 0.5x0.5x2 mm; gray, floating point" in text
    assert "voxels   background 8" in text
    assert "size     16x20x12: 6 volumes" in text
    assert "way up" not in text
    assert (tmp_path / "look" / "contact_sheet.png").exists()
    check(CheckConfig(data=root), Console(json=True))
    found = json.loads(capsys.readouterr().out)
    assert found["volumes"]
    assert found["spacing"] == pytest.approx([2, 0.5, 0.5])
    assert found["can_train"]


def moved(by: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] = by
    return affine


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (moved(0.25), "is shifted by 0.5x0x0 voxels against"),
        (AFFINE * [[1.0], [1.0], [1.25], [1.0]], "has voxels of 0.5x0.5x2.5 mm, other than the 0.5x0.5x2 mm of"),
        (AFFINE @ [[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "is turned against"),
    ],
)
def test_a_mask_that_lies_elsewhere_than_its_image_is_refused_with_what_to_do(tmp_path, affine, message):
    root = write_set(tmp_path / "set")
    bad = write_volume(root / "labelsTr" / "case_003.nii.gz", drawn_volume(3)[1], affine)
    [problem] = card_of(root).refusals
    assert problem.text.startswith(f"{bad} {message}")
    assert "--skip-bad" in problem.text
    assert len(card_of(root, skip_bad=True).pairs("train")) == 5


def test_a_mask_stored_in_another_orientation_or_rounded_lies_where_its_image_does(tmp_path):
    card = card_of(write_set(tmp_path / "set", codes="RAS", affine=AFFINE * (1 + 1e-5)))
    assert not card.refusals
    for index, pair in enumerate(card.pairs("train")):
        assert (read_mask(pair.mask).values == drawn_volume(index)[1]).all()


def test_a_channel_that_lies_elsewhere_is_refused(tmp_path):
    root = write_set(tmp_path / "set", channels=2)
    bad = write_volume(root / "imagesTr" / "case_001_0001.nii.gz", drawn_volume(1)[0], moved(5))
    [problem] = card_of(root).refusals
    assert str(bad) in problem.text


def test_a_mask_of_another_size_is_one_error(tmp_path):
    root = write_set(tmp_path / "set")
    bad = write_volume(root / "labelsTr" / "case_002.nii.gz", drawn_volume(2)[1][:-1])
    [problem] = card_of(root).refusals
    assert problem.text.startswith(f"{bad} is 16x20x11 but its image")
    assert "16x20x12" in problem.text


def test_orientations_that_differ_and_masks_in_floating_point_are_noted(tmp_path):
    root = write_set(tmp_path / "set")
    write_volume(root / "imagesTr" / "case_001_0000.nii.gz", drawn_volume(1)[0], codes="RAS")
    write_volume(root / "labelsTr" / "case_002.nii.gz", drawn_volume(2)[1].astype(np.float32))
    card = card_of(root)
    text = "\n".join(card.describe())
    assert not card.refusals
    assert "volumes are stored in different orientations, LPS (5), RAS (1): all are read as LPS" in text
    assert "the mask is stored in floating point in 1 volume" in text
    assert (read_image(card.pairs("train")[1].image) == drawn_volume(1)[0]).all()


def test_a_truncated_volume_is_one_problem(tmp_path):
    root = write_set(tmp_path / "set")
    bad = root / "imagesTr" / "case_004_0000.nii.gz"
    bad.write_bytes(bad.read_bytes()[:-100])
    [problem] = card_of(root).refusals
    assert problem.text == f"{bad} is damaged (it ends before its pixels do): replace or remove it"


def test_a_series_in_time_is_refused_with_what_to_do(tmp_path):
    root = write_set(tmp_path / "set", is_numbered=False)
    nibabel = pytest.importorskip("nibabel")
    for path in (root / "imagesTr").glob("case*"):
        nibabel.save(nibabel.Nifti1Image(np.zeros((16, 20, 12, 30), np.int16), AFFINE), path)
    with pytest.raises(UserError, match=r"has 4 axes, 16x20x12x30: .* is a series in time: save one volume"):
        card_of(root)


def test_thumbnails_are_of_the_middle_slice(tmp_path):
    for index, (_, facts) in enumerate(card_of(write_set(tmp_path / "set")).everything):
        image, mask = drawn_volume(index)
        assert facts.mask_thumbnail == mask_thumbnail(mask[6])
        assert facts.thumbnail == thumbnail(image[6].astype(np.float32), facts.low, facts.high)


def test_a_network_for_images_is_given_the_slices(tmp_path):
    root = write_set(tmp_path / "set", channels=2)
    config = CheckConfig(data=root)
    card = examine(layout_of(config), config, Console(quiet=True), as_volumes=False)
    pairs = card.pairs("train")
    assert len(pairs) == 6 * 12
    image, mask = drawn_volume(1)
    assert (read_image(pairs[15].image) == np.stack([image[3], image[3] + 100])).all()
    assert (read_mask(pairs[15].mask).values == mask[3]).all()
    bad = write_volume(root / "labelsTr" / "case_003.nii.gz", drawn_volume(3)[1], moved(3))
    card = examine(layout_of(config), config, Console(quiet=True), as_volumes=False)
    assert [problem.text.split(" ", 1)[0] for problem in card.refusals] == [str(bad)]


def test_tiff_stacks_are_volumes_where_a_network_for_volumes_is_asked_for(tmp_path):
    for index in range(4):
        for kind, values in zip(("images", "masks"), drawn_volume(index), strict=True):
            (tmp_path / "set" / kind).mkdir(parents=True, exist_ok=True)
            metadata = {"axes": "ZYX", "spacing": 3.0, "unit": "mm"}
            path = tmp_path / "set" / kind / f"{index}.tif"
            tifffile.imwrite(path, values.astype(np.uint16), imagej=True, metadata=metadata, resolution=(2, 2))
    config = CheckConfig(data=tmp_path / "set")
    card = examine(layout_of(config), config, Console(quiet=True), as_volumes=True)
    assert card.spacing(card.pairs("train")) == pytest.approx((3, 0.5, 0.5))
    assert len(card.pairs("train")) == 4
    assert len(card_of(tmp_path / "set").pairs("train")) == 48
