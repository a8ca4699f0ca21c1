"""Folders with labelme's JSON files, beside the images or apart, are understood as they are."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import COUNT, SIDE, SQUARE, card_of, learns, mask_of, outline, write_images
from conftest import assert_failed
from PIL import Image

from unet_cli.data.annotations import parsed
from unet_cli.data.folder.layout import find_layout
from unet_cli.errors import UserError


def labelme(path: Path, *shapes: dict[str, Any], image: str = "", size: tuple[int, int] | None = None) -> None:
    height, width = size or (None, None)
    content = {"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": image, "imageData": None}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | {"imageHeight": height, "imageWidth": width}))


def shape(label: str, points: list[list[float]], kind: str = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}} | more


def write_labelme(folder: Path, count: int = COUNT) -> Path:
    for number, path in enumerate(write_images(folder, count)):
        labelme(path.with_suffix(".json"), shape("cell", outline(number)), image=path.name)
    return folder


def test_labelme_files_beside_the_images_give_masks_and_names(tmp_path):
    data = write_labelme(tmp_path / "data")
    card = card_of(data)
    assert card.labels.names == ("background", "cell")
    assert [len(card.pairs(split)) for split in ("train", "val")] == [COUNT, 0]
    assert mask_of(card.layout, "cell2").values.sum() == 17 * 21  # the outline is of the object
    assert not card.refusals
    assert not [note for note in card.layout.notes if note.startswith("passed over")]


def test_labelme_files_in_a_folder_of_their_own_by_name_or_by_imagepath(tmp_path):
    images = write_images(tmp_path / "images")
    for number, path in enumerate(images):
        labelme(tmp_path / f"labels/{path.stem}.json", shape("cell", outline(number)))
    assert len(find_layout(tmp_path).splits["train"]) == COUNT
    for number, path in enumerate(images):
        (tmp_path / f"labels/{path.stem}.json").unlink()
        labelme(
            tmp_path / f"labels/note{number}.json", shape("cell", outline(number)), image=f"..\\images\\{path.name}"
        )
    layout = find_layout(tmp_path)
    assert {pair.name: pair.mask.path.name for pair in layout.splits["train"]}["cell3"] == "note3.json"


def test_labelme_shapes_of_every_kind(tmp_path):
    [path] = write_images(tmp_path, 1)
    picture = io.BytesIO()
    Image.fromarray(np.array([[255, 0], [255, 255]], np.uint8)).save(picture, "PNG")
    bitmap = shape("d", [[30, 30], [31, 31]], "mask", mask=base64.b64encode(picture.getvalue()).decode())
    shapes = [
        shape("a", [[3, 3], [1, 1]], "rectangle"),
        shape("b", [[10, 10], [10, 12]], "circle"),
        shape("c", [[20, 20], [22, 20], [22, 22]]),
        bitmap,
        shape("e", [[1, 1], [2, 2]], "linestrip"),
        shape("e", [[1, 1]], "point"),
        shape("f", [[1, 1], [2, 2]]),
    ]
    labelme(path.with_suffix(".json"), *shapes, image=path.name, size=(SIDE, SIDE))
    layout = find_layout(tmp_path)
    values = mask_of(layout, "cell0").values[0]
    assert layout.classes == ("a", "b", "c", "d")
    assert np.bincount(values.ravel(), minlength=5)[1:].tolist() == [9, 21, 6, 3]
    assert values[30:32, 30:32].tolist() == [[4, 0], [4, 4]]
    assert "1 linestrip, which has no area, 1 point, which has no area, 1 polygon of fewer than 3 points" in "".join(
        layout.notes
    )


def test_labelme_s_own_labels_are_background_and_ignored_pixels(tmp_path):
    data = write_labelme(tmp_path / "data")
    shapes = [
        shape("cell", outline(0)),
        shape("_background_", [[4, 6], [5, 7]], "rectangle"),
        shape("__ignore__", [[0, 0], [39, 39]], "rectangle"),
    ]
    labelme(data / "cell0.json", *shapes, image="cell0.png")
    card = card_of(data)
    values = mask_of(card.layout, "cell0").values[0]
    assert (values[6, 4], values[8, 8], values[0, 0], card.labels.ignore) == (0, 1, 255, 255)
    assert not card.refusals


def test_images_without_a_labelme_file_are_asked_about(tmp_path):
    data = write_labelme(tmp_path / "data")
    (data / "cell1.json").unlink()
    card = card_of(data)
    assert [problem.text for problem in card.refusals] == [f"image without a mask: {data / 'cell1.png'}"]
    assert len(card_of(data, missing_masks="background").pairs("train")) == COUNT


def test_what_is_remembered_depends_on_the_annotation_file(tmp_path):
    data = write_labelme(tmp_path / "data")
    before = card_of(data).contents[2].tolist()
    labelme(data / "cell2.json", shape("cell", [[0, 0], [3, 0], [3, 3], [0, 3]]), image="cell2.png")
    assert (before[1], card_of(data).contents[2, 1]) == (17 * 21, 16)


def test_what_is_remembered_depends_on_the_content_even_where_size_and_time_are_the_same(tmp_path, monkeypatch):
    data = write_labelme(tmp_path / "data")
    path = data / "cell2.json"
    status = os.stat(path)
    assert card_of(data).contents[2, 1] == 17 * 21
    path.write_text(path.read_text().replace("22", "21"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    monkeypatch.setattr(parsed, "_KEPT", parsed._Kept())  # as in another process
    assert card_of(data).contents[2, 1] == 16 * 21


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"shapes": [', "is damaged, or no labelme file"),
        ('{"shapes": 3, "imagePath": "cell0.png"}', "has no list of 'shapes'"),
        ('{"shapes": ' + "[" * 100_000, "damaged, or no labelme|nested too deeply"),
    ],
)
def test_a_broken_labelme_file_is_named(tmp_path, text, message):
    data = write_labelme(tmp_path / "data")
    (data / "cell0.json").write_text(text)
    [problem] = card_of(data).refusals
    assert re.search(f"cell0.json.*({message})", problem.text)
    assert len(card_of(data, skip_bad=True).pairs("train")) == COUNT - 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (shape("cell", [[1, 1], [float("nan"), 2], [3, 3]]), "not finite"),
        (shape("cell", [[1, 1], ["x", 2], [3, 3]]), "no pairs of numbers"),
        (shape("", SQUARE), "no label"),
        (shape("cell", [[1, 1], [2, 2]], "mask", mask="???"), "no PNG in base64"),
    ],
)
def test_a_shape_that_can_t_be_drawn_is_a_problem_of_its_image_alone(tmp_path, bad, message):
    data = write_labelme(tmp_path / "data")
    labelme(data / "cell0.json", shape("cell", SQUARE), bad, image="cell0.png")
    [problem] = card_of(data).refusals
    assert "cell0.json" in problem.text
    assert message in problem.text
    assert len(card_of(data, skip_bad=True).pairs("train")) == COUNT - 1


def test_a_size_other_than_the_image_s_is_a_problem(tmp_path):
    data = write_labelme(tmp_path / "data")
    labelme(data / "cell0.json", shape("cell", SQUARE), image="cell0.png", size=(80, 80))
    labelme(data / "cell1.json", shape("cell", SQUARE), image="cell1.png", size=(SIDE + 1, SIDE))
    first, second = card_of(data).refusals
    assert "is of an image of 80x80, but the image is 40x40" in first.text
    assert "an orientation in its EXIF data" in second.text


def test_nothing_outside_of_the_folder_is_read(tmp_path):
    data = write_labelme(tmp_path / "data")
    write_images(tmp_path / "elsewhere", 1)
    labelme(data / "other.json", shape("cell", SQUARE), image="../elsewhere/secret.png")
    [problem] = card_of(data).refusals
    assert problem.text == f"annotations without an image: {data / 'other.json'}"


def test_points_outside_are_counted(tmp_path):
    data = write_labelme(tmp_path / "data")
    labelme(data / "cell0.json", shape("cell", [[-2, 1], [50, 1], [9, 9]]), image="cell0.png", size=(SIDE, SIDE))
    assert "2 points outside of the image, in 1 image: clipped at the border" in find_layout(data).notes


def test_overlapping_classes_are_said_with_their_share(tmp_path):
    data = write_labelme(tmp_path / "data")
    labelme(data / "cell0.json", shape("cell", SQUARE), shape("wall", SQUARE), image="cell0.png")
    card = card_of(data)
    assert card.labels.names == ("background", "cell", "wall")
    assert not card.refusals
    [note] = [note for note in card.plain()["notes"] if "overlap" in note]
    assert note.startswith("classes overlap: cell and wall (100.0% of the smaller one); each is learned by itself")


@pytest.mark.slow  # as test_coco and test_annotations_all: formats differ up to the card only
def test_labelme_end_to_end(unet, tmp_path):
    learns(unet, write_labelme(tmp_path / "data"), ["cell"])


def test_a_folder_of_broken_annotations_fails_without_a_traceback(unet, tmp_path):
    data = write_labelme(tmp_path / "data")
    (data / "cell0.json").write_text('{"shapes": [')
    assert_failed(unet("train", "--data", data), 1, "cell0.json is damaged")


def test_masks_that_are_images_go_before_annotations(tmp_path):
    data = write_labelme(tmp_path / "images")
    (tmp_path / "masks").mkdir()
    for path in data.glob("*.png"):
        with Image.open(path) as image:
            image.convert("L").point(lambda value: 255 * (value > 100)).save(tmp_path / "masks" / path.name)
    layout = find_layout(tmp_path)
    assert {pair.mask.path.parent.name for pair in layout.splits["train"]} == {"masks"}
    assert "passed over: 6 .json: labelme annotations, since there are masks" in layout.notes


def test_masks_that_go_with_no_image_are_not_passed_over_for_annotations(tmp_path):
    data = write_labelme(tmp_path / "images")
    (tmp_path / "masks").mkdir()
    for number in range(len([*data.glob("*.png")])):
        Image.new("L", (SIDE, SIDE)).save(tmp_path / "masks" / f"{'abcdef'[number]}.png")
    with pytest.raises(UserError, match="no rule pairs"):
        find_layout(tmp_path)


def test_images_of_one_name_each_have_the_file_beside_them(tmp_path):
    for folder in (tmp_path / "images", tmp_path):
        write_labelme(folder, 1)
    pairs = find_layout(tmp_path).splits["train"]
    assert sorted(pair.name for pair in pairs) == ["cell0.png", "images/cell0.png"]
    assert all(pair.mask.path == pair.image.path.with_suffix(".json") for pair in pairs)
