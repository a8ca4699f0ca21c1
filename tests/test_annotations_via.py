"""VGG Image Annotator, versions 1 and 2, JSON and CSV."""

from __future__ import annotations

import csv
import json

import pytest
from annotated import COUNT, SIDE, SQUARE, card_of, mask_of, outline, write_images
from annotation_writers import via, via_region, write_via

from unet_cli.data.folder.layout import find_layout
from unet_cli.errors import UserError


def kind(name: str, label: str, **values: float) -> dict:
    return {"shape_attributes": {"name": name, **values}, "region_attributes": {"class": label}}


def test_regions_of_every_kind(tmp_path):
    [path] = write_images(tmp_path, 1)
    regions = [
        via_region(SQUARE, "a"),
        kind("rect", "b", x=10, y=10, width=4, height=2),
        kind("circle", "c", cx=30, cy=30, r=3),
        kind("ellipse", "d", cx=10, cy=30, rx=5, ry=2, theta=1.5707963),
        kind("point", "e", cx=1, cy=1),
        kind("polyline", "e"),
        via_region(SQUARE[:2]),
    ]
    via(tmp_path / "via.json", {path.name: regions})
    card = card_of(tmp_path)
    values = mask_of(card.layout, "cell0").values[0]
    assert card.labels.names == ("background", "a", "b", "c", "d")
    assert [int((values == number).sum()) for number in (1, 2)] == [4, 8]
    assert abs(int((values == 3).sum()) - 28) <= 4
    rows, columns = (values == 4).nonzero()
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (10, 4)
    notes = "\n".join(card.layout.notes)
    assert "1 point, which has no area, 1 polyline, which has no area, 1 polygon of fewer than 3 points" in notes


def test_csv_and_version_1_say_the_same(tmp_path):
    paths = write_images(tmp_path)
    with open(tmp_path / "via.csv", "w", newline="") as file:
        lines = csv.writer(file)
        names = "#filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
        lines.writerow(names.split(","))
        for number, path in enumerate(paths):
            one = via_region(outline(number))
            shape, attributes = json.dumps(one["shape_attributes"]), json.dumps(one["region_attributes"])
            lines.writerow([path.name, 99, "{}", 1, 0, *((shape, attributes) if number else ("{}", "{}"))])
    card = card_of(tmp_path)
    assert (len(card.pairs("train")), [pair.name for pair in card.empty_masks()]) == (COUNT, ["cell0"])
    assert mask_of(card.layout, "cell2").values.sum() == 16 * 20
    (tmp_path / "via.csv").unlink()
    old = {f"{path.name}9": {"filename": path.name, "size": 9, "regions": {"0": via_region(SQUARE)}} for path in paths}
    (tmp_path / "via.json").write_text(json.dumps(old))
    assert mask_of(find_layout(tmp_path), "cell2").values.sum() == 4


@pytest.mark.parametrize(
    ("attributes", "classes"),
    [
        ({"name": "nucleus"}, ("nucleus",)),
        ({"class": "nucleus", "score": "0.5", "empty": ""}, ("nucleus",)),
        ({"grade": "2"}, ("2",)),
        ({"kind": {"nucleus": True, "idle": False}}, ("nucleus",)),
        ({"note": "seen", "label": "nucleus"}, ("nucleus",)),
        ({}, ("object",)),
    ],
)
def test_the_class_is_the_attribute_whose_values_are_names(tmp_path, attributes, classes):
    [path] = write_images(tmp_path, 1)
    via(tmp_path / "via.json", {path.name: [via_region(SQUARE) | {"region_attributes": attributes}]})
    assert find_layout(tmp_path).classes == classes


def test_attributes_that_may_each_be_the_class_are_named_and_a_list_of_choices_decides(tmp_path):
    [path] = write_images(tmp_path, 1)
    file = tmp_path / "via.json"
    via(file, {path.name: [via_region(SQUARE) | {"region_attributes": {"tissue": "skin", "reader": "Ann"}}]})
    with pytest.raises(UserError, match=r"via.json has several attributes of regions, tissue, reader: leave the one"):
        find_layout(tmp_path)
    content = json.loads(file.read_text()) | {"_via_attributes": {"region": {"tissue": {"type": "dropdown"}}}}
    file.write_text(json.dumps(content))
    assert find_layout(tmp_path).classes == ("skin",)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (via_region([[1, 1], [2, float("nan")], [3, 3]]), "not finite"),
        (kind("polygon", "a", all_points_x=3), "not as many x as y"),
        (kind("circle", "a", cx=1, cy="x", r=2), "no pairs of numbers"),
        ({"region_attributes": {}}, "has no shape"),
    ],
)
def test_a_region_that_can_t_be_drawn_is_a_problem_of_its_image_alone(tmp_path, bad, message):
    data = write_via(tmp_path / "data")
    images = {f"cell{number}.png": [via_region(outline(number))] for number in range(COUNT)}
    via(data / "via_project.json", images | {"cell0.png": [bad]})
    [problem] = card_of(data).refusals
    assert "cell0.png" in problem.text
    assert message in problem.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("}", ""), "is damaged, or no VGG Image Annotator file"),
        (('"filename": "cell1.png"', '"filename": "cell0.png"'), "lists the image cell0.png twice"),
        (('"filename": "cell1.png"', '"filename": ""'), "without a filename"),
        (('"filename": "cell1.png"', '"filename": "https://a/../cell0.png"'), "is annotated twice"),
    ],
)
def test_a_file_that_can_t_be_used_is_named(tmp_path, change, message):
    data = write_via(tmp_path / "data")
    file = data / "via_project.json"
    file.write_text(file.read_text().replace(*change))
    with pytest.raises(UserError, match=message):
        find_layout(data)


def test_an_outline_of_very_many_points_in_csv_is_read(tmp_path):
    [path] = write_images(tmp_path, 1)
    one = via_region(SQUARE * 30_000 + outline(0))
    with open(tmp_path / "via.csv", "w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["filename", "file_size", "region_shape_attributes", "region_attributes"])
        lines.writerow([path.name, 1, json.dumps(one["shape_attributes"]), "{}"])
    assert mask_of(find_layout(tmp_path), "cell0").values.shape[1:] == (SIDE, SIDE)
