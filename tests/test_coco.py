"""Folders with COCO's JSON files, one or one a split, are understood as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import COUNT, SIDE, SQUARE, card_of, learns, mask_of, outline, write_images

from unet_cli.config.data import DataConfig
from unet_cli.data.annotations.formats import FORMATS
from unet_cli.data.check.examine import examine
from unet_cli.data.folder.layout import find_layout, layout_of
from unet_cli.data.labels import ClassSpec
from unet_cli.data.maskfile import read_mask
from unet_cli.errors import UserError
from unet_cli.system.console import Console


def coco(
    path: Path, images: list[Path | str], *annotations: dict[str, Any], names: tuple[str, ...] = ("cell",)
) -> Path:
    """A file that lists images, numbered from 0, and categories, numbered from 1; sizes as write_images draws them."""
    sizes = {name: SIDE + int(Path(name).stem[-1]) if Path(name).stem[-1].isdigit() else SIDE for name in images}
    content = {
        "info": {},
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
        "images": [
            {"id": number, "file_name": str(name), "height": SIDE, "width": sizes[name]}
            for number, name in enumerate(images)
        ],
        "annotations": [{"id": number, "iscrowd": 0} | one for number, one in enumerate(annotations)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def polygon(image: int, *rings: Any, category: int = 1, **more: Any) -> dict[str, Any]:
    flat = [[value for point in ring for value in point] for ring in rings]
    return {"image_id": image, "category_id": category, "segmentation": flat} | more


def write_coco(folder: Path) -> Path:
    paths = write_images(folder / "images")
    polygons = [polygon(number, outline(number)) for number in range(COUNT)]
    coco(folder / "annotations/instances_default.json", [path.name for path in paths], *polygons)
    return folder


def test_coco_polygons_run_lengths_parts_and_crowds(tmp_path):
    [path] = write_images(tmp_path / "images", 1)
    far = (np.array(SQUARE) + 20).tolist()
    crowd = {"size": [SIDE, SIDE], "counts": [0, SIDE, SIDE * SIDE - SIDE]}
    packed = {"size": [3, 4], "counts": "21130M1"}
    annotations = [
        polygon(0, SQUARE, far),
        {"image_id": 0, "category_id": 2, "segmentation": [], "bbox": [10, 10, 5, 2]},
        {"image_id": 0, "category_id": 1, "segmentation": crowd, "iscrowd": 1},
        polygon(0, [[1, 1], [2, 2]]),
        polygon(7, SQUARE),
    ]
    file = coco(tmp_path / "instances.json", [path.name], *annotations, names=("cell", "wall", "idle"))
    card = card_of(tmp_path)
    values = mask_of(card.layout, "cell0").values[0]
    assert np.bincount(values.ravel(), minlength=3)[:3].tolist() == [SIDE * SIDE - SIDE - 18, 8, 10]
    assert set(values[:, 0]) == {255}
    assert (card.labels.names, card.labels.ignore) == (("background", "cell", "wall"), 255)
    notes = "\n".join(card.layout.notes)
    assert "1 polygon of several parts, 1 box, filled, 1 crowd, ignored" in notes
    assert "1 polygon of fewer than 3 points, 1 annotation of no image in the list" in notes
    assert "classes without any annotation are left out: idle" in notes
    one = {"image_id": 0, "category_id": 1, "segmentation": packed}
    coco(file, [path.name], one)
    with pytest.raises(UserError, match="has run lengths of 4x3 pixels, in an image of 40x40"):
        card_of(tmp_path)


def test_coco_files_of_splits_in_common_places(tmp_path):
    for split, count in (("train2017", 4), ("val2017", 2)):
        paths = write_images(tmp_path / split, count)
        polygons = [polygon(number, outline(number)) for number in range(count)]
        coco(tmp_path / f"annotations/instances_{split}.json", [path.name for path in paths], *polygons)
        coco(tmp_path / f"annotations/person_keypoints_{split}.json", [path.name for path in paths], *polygons[:1])
    layout = find_layout(tmp_path)
    assert {split: len(pairs) for split, pairs in layout.splits.items()} == {"train": 4, "val": 2}
    assert {pair.image.path.parent.name for pair in layout.splits["val"]} == {"val2017"}


def test_coco_files_beside_the_images_of_each_split(tmp_path):
    for split, count in (("train", 4), ("valid", 2)):
        paths = write_images(tmp_path / split, count)
        polygons = [polygon(number, outline(number)) for number in range(count)]
        coco(tmp_path / split / "_annotations.coco.json", [path.name for path in paths], *polygons)
    layout = find_layout(tmp_path)
    assert {split: len(pairs) for split, pairs in layout.splits.items()} == {"train": 4, "val": 2}


def test_images_that_coco_does_not_list_are_left_out_and_listed_ones_are_background(tmp_path):
    paths = write_images(tmp_path / "images")
    names = [f"/home/someone/images/{path.name}" for path in paths[:4]]
    coco(tmp_path / "all.json", names, *(polygon(number, outline(number)) for number in range(3)))
    card = card_of(tmp_path)
    assert len(card.pairs("train")) == 4
    assert [pair.name for pair in card.empty_masks()] == ["cell3"]
    assert "left out: 2 images that no COCO file lists, such as" in "".join(card.layout.notes)


def test_listed_images_that_are_not_there_and_paths_out_of_the_folder_are_a_problem(tmp_path):
    data = write_coco(tmp_path / "data")
    write_images(tmp_path / "outside", 1)[0].rename(tmp_path / "outside/secret.png")
    names = ["images/cell0.png", "../outside/secret.png", "gone.png"]
    file = coco(data / "annotations/instances_default.json", names, polygon(0, outline(0)))
    [problem] = card_of(data).refusals
    assert problem.text == f"{file} lists 2 images that the folder doesn't hold: ../outside/secret.png, gone.png"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"images": [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}]},
            "gives two of 'images' the id 1",
        ),
        ({"images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "a.png"}]}, "lists the image a.png twice"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "gives two of 'categories' the id 1"),
        ({"images": [{"file_name": "a.png"}]}, "has one of 'images' or 'categories' without id or file_name"),
        ({"annotations": 3}, "has no lists of"),
    ],
)
def test_a_coco_file_that_contradicts_itself_is_refused(tmp_path, change, message):
    data = write_coco(tmp_path / "data")
    file = data / "annotations/instances_default.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=f"instances_default.json {message}"):
        find_layout(data)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"segmentation": [[1, 1, 2, float("nan"), 3, 3]]}, "not finite"),
        ({"segmentation": [[1, 1, 2, 2, 3]]}, "no pairs of numbers"),
        ({"segmentation": 7}, "neither a list of polygons nor run lengths"),
        ({"segmentation": {"size": [40, 40], "counts": [1, 2]}}, "add up to 3 pixels, where 40x40 are 1,600"),
        ({"segmentation": {"size": [40, 40], "counts": "\u00ff"}}, "cut off or damaged"),
        ({"category_id": 9}, "the category_id 9, which"),
    ],
)
def test_an_annotation_that_can_t_be_drawn_is_a_problem_of_its_image_alone(tmp_path, bad, message):
    data = write_coco(tmp_path / "data")
    file = data / "annotations/instances_default.json"
    content = json.loads(file.read_text())
    content["annotations"][2] |= bad
    file.write_text(json.dumps(content))
    [problem] = card_of(data).refusals
    assert message in problem.text
    assert "cell2.png" in problem.text


def test_a_large_file_is_parsed_once(tmp_path, monkeypatch):
    data, calls = write_coco(tmp_path / "data"), []
    original = FORMATS["COCO"].parse
    counting = FORMATS["COCO"]._replace(parse=lambda content: calls.append(1) or original(content))
    monkeypatch.setitem(FORMATS, "COCO", counting)
    card_of(data)
    assert len(calls) == 1


def test_coco_end_to_end(unet, tmp_path):
    data = write_coco(tmp_path / "data")
    file = data / "annotations/instances_default.json"
    content = json.loads(file.read_text())
    content["categories"].append({"id": 2, "name": "wall"})
    content["annotations"] += [polygon(number, SQUARE, category=2) for number in range(COUNT)]
    file.write_text(json.dumps(content))
    learns(unet, data, ["cell", "wall"])


def test_a_network_s_classes_are_found_by_their_names_in_whatever_order_a_file_has_them(tmp_path):
    [path] = write_images(tmp_path / "images", 1)
    far = (np.array(SQUARE) + 20).tolist()
    coco(tmp_path / "a.json", [path.name], polygon(0, SQUARE), polygon(0, far, category=2), names=("wall", "cell"))
    assert find_layout(tmp_path).classes == ("wall", "cell")
    config = DataConfig(data=tmp_path)
    spec = ClassSpec(("background", "cell", "nucleus", "wall"), (0, 50, 100, 150))
    card = examine(layout_of(config), config, Console(quiet=True), spec)
    values = read_mask(card.pairs("train")[0].mask).values[0]
    assert (values[1, 1], values[21, 21]) == (3, 1)
    assert card.labels.names == spec.names


def test_an_image_that_two_files_list_is_refused(tmp_path):
    data = write_coco(tmp_path / "data")
    coco(data / "annotations/instances_more.json", ["cell0.png"], polygon(0, SQUARE))
    with pytest.raises(UserError, match=r"cell0.png is annotated twice, .*instances_default.json and .*more.json"):
        find_layout(data)
