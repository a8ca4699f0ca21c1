"""Label Studio's exports: kinds of regions, packed brush masks, names of images, several annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from annotated import SIDE, SQUARE, card_of, mask_of, outline, write_images
from annotation_writers import percent, region, task, write_labelstudio

from unet_cli.data.annotations.rle import brushed
from unet_cli.data.folder.layout import find_layout
from unet_cli.errors import UserError

HEADER = f"{16:032b}" + f"{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))


def packed(bits: str) -> list[int]:
    bits += "0" * (-len(bits) % 8)
    return [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]


def of_one_image(folder: Path, *tasks: dict[str, Any]) -> Path:
    write_images(folder / "images", 1)
    (folder / "tasks.json").write_text(json.dumps(list(tasks)))
    return folder


def test_packed_bits_are_unpacked_by_hand():
    """Four pixels of four values: 8 zeros as a run, 255 0 0 255 as they are, and a run of 4 of 7."""
    run, literal = "1" + "00" + "111" + f"{0:08b}", "0" + "00" + "011"
    literal += "".join(f"{value:08b}" for value in (255, 0, 0, 255))
    rle = packed(HEADER + run + literal + "1" + "01" + "0011" + f"{7:08b}")
    assert brushed(bytes(rle), 16).astype(int).tolist() == [0] * 8 + [1, 0, 0, 1] + [1] * 4
    for bad, count, message in (
        (rle[:-2], 16, "cut off"),
        (rle, 20, "16 values, where its size has 20"),
        ([1], 16, "no"),
    ):
        with pytest.raises(UserError, match=message):
            brushed(bytes(bad), count)


def test_regions_of_every_kind(tmp_path):
    """Four pixels are brushed in a row; a rectangle of 4 x 2 turns about its corner, so that it lies left of it."""
    run = "1" + "11" + f"{4 * SIDE * SIDE - 16 - 1:016b}" + f"{0:08b}"
    brush = packed(f"{4 * SIDE * SIDE:032b}" + HEADER[32:] + "1" + "01" + "1111" + f"{255:08b}" + run)
    box = {"x": 25.0, "y": 50.0, "width": 10.0, "height": 5.0}
    regions = [
        region("polygon", points=percent(SQUARE), labels=("a",)),
        region("rectangle", **box, labels=("b",)),
        region("rectangle", **box, rotation=90, labels=("c",)),
        region("ellipse", x=75.0, y=75.0, radiusX=7.5, radiusY=7.5, rotation=30, labels=("d",)),
        region("brush", format="rle", rle=brush, labels=("e",)),
        region("polygon", points=percent(SQUARE[:2])),
        region("keypoint", x=1, y=1, width=1),
        {"type": "choices", "value": {"choices": ["good"]}},
    ]
    card = card_of(of_one_image(tmp_path, task("images/cell0.png", *regions)))
    values = mask_of(card.layout, "cell0").values[0]
    assert card.labels.names == ("background", "a", "b", "c", "d", "e")
    assert [int((values == number).sum()) for number in (1, 2, 3, 5)] == [4, 8, 8, 4]
    assert values[20:24, 8:10].tolist() == [[3, 3]] * 4
    assert abs(int((values == 4).sum()) - 28) <= 4
    assert values[0, :4].tolist() == [5] * 4
    notes = "\n".join(card.layout.notes)
    assert "1 keypoint, which has no area, 1 choices, which has no area, 1 polygon of fewer than 3 points" in notes


def test_labels_may_be_several_or_come_apart_from_their_shape_or_not_at_all(tmp_path):
    shape = {"id": "x", "type": "polygon", "value": {"points": percent(SQUARE)}}
    labels = {"id": "x", "type": "labels", "value": {"points": percent(SQUARE), "labels": ["wall"]}}
    other = {"id": "y", "type": "polygon", "value": {"points": percent(outline(0))}}
    both = region("polygon", points=percent(SQUARE), labels=("a", "b"))
    layout = find_layout(of_one_image(tmp_path, task("cell0.png", other, shape, labels, both)))
    assert sorted(layout.classes) == ["a", "b", "object", "wall"]


@pytest.mark.parametrize(
    "url",
    [
        "/data/local-files/?d=set%2Fimages%2Fmy%20cell%20(1).png",
        "/data/local-files/?d=images%5Cmy%20cell%20(1).png",
        "/data/upload/2/4425adf9-my_cell_1.png",
        "s3://bucket/a/my cell (1).png",
        "https://host/a/my%20cell%20(1).png?X-Amz-Signature=1",
    ],
)
def test_images_are_found_by_the_end_of_their_url(tmp_path, url):
    data = of_one_image(tmp_path, task(url, region("polygon", points=percent(SQUARE))))
    (data / "images/cell0.png").rename(data / "images/my cell (1).png")
    [pair] = find_layout(data).splits["train"]
    assert pair.name == "my cell (1)"


def test_the_annotation_that_counts_is_the_one_marked_as_true_or_else_the_last(tmp_path):
    one, other = (region("polygon", points=percent(SQUARE), labels=(name,)) for name in "ab")
    made = [{"result": [one]}, {"result": [other]}, {"result": [one], "was_cancelled": True}]
    data = of_one_image(tmp_path, task("cell0.png") | {"annotations": made})
    layout = find_layout(data)
    assert layout.classes == ("b",)
    assert "1 annotation of a task that has a later one, or one marked" in "".join(layout.notes)
    made[0]["ground_truth"] = True
    (data / "tasks.json").write_text(json.dumps([task("cell0.png") | {"annotations": made}]))
    assert find_layout(data).classes == ("a",)


def test_tasks_that_nobody_annotated_have_no_mask_and_annotations_without_regions_are_background(tmp_path):
    data = write_labelstudio(tmp_path / "data")
    file = data / "project-1.json"
    tasks = json.loads(file.read_text())
    tasks[0]["annotations"] = []
    tasks[1]["annotations"][0]["result"] = []
    file.write_text(json.dumps(tasks))
    card = card_of(data)
    assert [problem.text for problem in card.refusals] == [f"image without a mask: {data / 'images/cell0.png'}"]
    assert [pair.name for pair in card.empty_masks()] == ["cell1"]


def test_json_min_and_a_file_for_each_task(tmp_path):
    value = region("polygon", points=percent(SQUARE))["value"] | {"original_width": SIDE, "original_height": SIDE}
    record = {"image": "/data/upload/1/0123abcd-cell0.png", "id": 1, "label": [value], "annotator": 1}
    data = of_one_image(tmp_path, record | {"annotation_id": 1}, record | {"annotation_id": 2})
    assert mask_of(find_layout(data), "cell0").values.sum() == 4
    whole = task("cell0.png", region("polygon", points=percent(SQUARE)))
    one = whole["annotations"][0] | {"task": {"id": 1, "data": whole["data"]}}
    (data / "tasks.json").write_text(json.dumps(one))
    assert mask_of(find_layout(data), "cell0").values.sum() == 4


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (region("polygon", points=[[1, 2], [3, "x"], [4, 4]]), "no pairs of numbers"),
        (region("polygon", points=[[1, 2], [3, float("nan")], [4, 4]]), "not finite"),
        (region("rectangle", x=1, y=1, width="wide", height=1), "no pairs of numbers"),
        (region("brush", rle=[1, 2, 3]), "has a brush mask of no values"),
        (region("brush", rle=[1, 2, 300]), "no list of bytes"),
        (region("brush", 10**6, 10**6, rle=[1]), "not the size of an image"),
        (region("bitmask", imageDataURL="data:image/png;base64,???"), "no PNG in base64"),
        (region("polygon", points=percent(SQUARE)) | {"image_rotation": 90}, "turn it back"),
        ({"type": "polygonlabels"}, "has no value"),
        (region("polygon", 80, 80, points=percent(SQUARE)), "is of an image of 80x80, but the image is 40x40"),
    ],
)
def test_a_region_that_can_t_be_drawn_is_a_problem_of_its_image_alone(tmp_path, bad, message):
    data = write_labelstudio(tmp_path / "data")
    file = data / "project-1.json"
    tasks = json.loads(file.read_text())
    tasks[0]["annotations"][0]["result"] = [bad]
    file.write_text(json.dumps(tasks))
    [problem] = card_of(data).refusals
    assert message in problem.text
    assert "cell0.png" in problem.text


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([task("a/cell0.png"), task("a/cell0.png", id=2)], "lists the image a/cell0.png twice"),
        ([task("a/cell0.png"), task("b/cell0.png")], "is annotated twice"),
        ([task("cell0.png") | {"annotations": [3], "file_upload": ""}], "no list of objects"),
        ([task("../../secret.png")], "go with none of its 1 image"),
    ],
)
def test_files_that_contradict_themselves_are_refused(tmp_path, tasks, message):
    with pytest.raises(UserError, match=message):
        find_layout(of_one_image(tmp_path, *tasks))


def test_a_file_that_is_cut_off_is_named(tmp_path):
    data = write_labelstudio(tmp_path / "data")
    file = data / "project-1.json"
    file.write_text(file.read_text()[:-20])
    with pytest.raises(UserError, match=r"project-1.json is damaged, or no Label Studio file"):
        find_layout(data)
