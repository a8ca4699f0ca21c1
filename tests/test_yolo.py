"""Folders with the text files of YOLO segmentation are understood as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from annotated import COUNT, SIDE, SQUARE, card_of, learns, mask_of, outline, write_images

from unet_cli.data.annotations.yolo import names_in
from unet_cli.data.folder.layout import find_layout
from unet_cli.errors import UserError


def line(number: int, points: list[list[float]], width: int = SIDE, height: int = SIDE) -> str:
    return " ".join([str(number), *(f"{value:.6f}" for x, y in points for value in (x / width, y / height))]) + "\n"


def write_yolo(folder: Path, images: str = "images", labels: str = "labels", count: int = COUNT) -> Path:
    (folder / labels).mkdir(parents=True)
    for number, path in enumerate(write_images(folder / images, count)):
        (folder / labels / f"{path.stem}.txt").write_text(line(0, outline(number), SIDE + number))
    (folder / "data.yaml").write_text("train: ../train/images\nnc: 1\nnames: ['cell']  # one\n")
    return folder


def test_yolo_polygons_are_shares_of_the_image_from_its_corner(tmp_path):
    data = write_yolo(tmp_path / "data")
    card = card_of(data)
    assert card.labels.names == ("background", "cell")
    assert mask_of(card.layout, "cell2").values.sum() == 16 * 20
    assert not card.refusals
    assert not [note for note in card.layout.notes if note.startswith("passed over")]


@pytest.mark.parametrize(
    ("images", "labels"),
    [("train/images", "train/labels"), ("images/train", "labels/train"), ("train", "train")],
)
def test_yolo_splits_in_common_places(tmp_path, images, labels):
    write_yolo(tmp_path, images, labels, 4)
    write_yolo(tmp_path, images.replace("train", "val"), labels.replace("train", "val"), 2)
    write_images(tmp_path / "test/images", 3)
    layout = find_layout(tmp_path)
    assert {split: len(pairs) for split, pairs in layout.splits.items()} == {"train": 4, "val": 2}
    assert "left out: 3 images of a folder without text files" in layout.notes


def test_a_missing_or_empty_text_file_is_background(tmp_path):
    data = write_yolo(tmp_path / "data")
    (data / "labels/cell1.txt").unlink()
    (data / "labels/cell2.txt").write_text("")
    card = card_of(data)
    assert [pair.name for pair in card.empty_masks()] == ["cell1", "cell2"]
    assert not card.refusals
    assert "1 image without a text file: taken as background" in card.layout.notes


def test_a_line_of_five_numbers_is_a_box_that_is_filled_and_classes_may_have_no_names(tmp_path):
    data = write_yolo(tmp_path / "data")
    (data / "data.yaml").unlink()
    (data / "labels/cell0.txt").write_text("2 0.5 0.5 0.25 0.1\n0 0.1 0.1 0.2 0.2\n0 0.1 0.1\n")
    layout = find_layout(data)
    assert layout.classes == ("class 0", "class 2")
    values = mask_of(layout, "cell0").values[0]
    assert np.bincount(values.ravel())[1:].tolist() == [64, 40]
    assert layout.notes == (
        "YOLO: 7 annotations of 6 images (5 polygon, 2 box, filled)",
        "annotations that are left out: 1 polygon of fewer than 3 points",
    )


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("names: [cell, 'a, b', \"c\"]", ("cell", "a, b", "c")),
        ("names:\n  0: cell\n  1: wall # two\nval: x", ("cell", "wall")),
        ("names:\n- cell\n- 'wall'\n", ("cell", "wall")),
        ("names: {0: cell, 1: wall}", ("cell", "wall")),
        ("names: [cell,\n  wall]\nnc: 2", ("cell", "wall")),
        ("nc: 2", ()),
    ],
)
def test_names_are_read_from_simple_yaml(text, names):
    assert names_in(Path("data.yaml"), text) == names


@pytest.mark.parametrize("text", ["names: &a [b", "names: [d'or, c]", "names:\n  1: cell", "names: >\n cell"])
def test_other_yaml_is_refused_with_what_to_write(text):
    with pytest.raises(UserError, match=r"data.yaml: .*write them as names: \[cell, wall\]"):
        names_in(Path("data.yaml"), text)


def test_a_class_beyond_the_names_is_refused(tmp_path):
    data = write_yolo(tmp_path / "data")
    (data / "labels/cell0.txt").write_text(line(3, SQUARE))
    with pytest.raises(UserError, match="a class 3, but only 1 are named"):
        find_layout(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.1 0.1 0.2 0.2 0.3\n", "line 1 has 6 numbers"),
        (line(0, SQUARE) + "0 10 10 20 10 20 20\n", "line 2 has coordinates in pixels"),
        ("0 0.1 0.1 nan 0.2 0.3 0.3\n", "not finite"),
        ("cell 0.1 0.1 0.2 0.2 0.3 0.3\n", "no number of a class"),
    ],
)
def test_a_line_that_can_t_be_drawn_is_a_problem_of_its_image_alone(tmp_path, text, message):
    data = write_yolo(tmp_path / "data")
    (data / "labels/cell0.txt").write_text(text)
    [problem] = card_of(data).refusals
    assert message in problem.text
    assert "cell0.txt" in problem.text


@pytest.mark.slow  # as test_coco and test_annotations_all: formats differ up to the card only
def test_yolo_end_to_end(unet, tmp_path):
    learns(unet, write_yolo(tmp_path / "data"), ["cell"])
