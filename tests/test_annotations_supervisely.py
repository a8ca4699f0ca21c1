"""Supervisely's projects: data sets of img/ and ann/, and meta.json."""

from __future__ import annotations

import base64
import json
import zlib

import numpy as np
import pytest
from annotated import SIDE, SQUARE, card_of, mask_of, outline, write_images
from annotation_writers import bitmap_of, object_of, supervisely, write_supervisely

from unet_cli.data.annotations import bitmaps
from unet_cli.data.folder.layout import find_layout
from unet_cli.errors import UserError


def test_objects_of_every_kind(tmp_path):
    """Corners are centres of pixels: a square from 1 to 3 is three pixels wide, and so is a hole."""
    [path] = write_images(tmp_path / "img", 1)
    hole = [[14, 14], [16, 14], [16, 16], [14, 16]]
    objects = [
        object_of(SQUARE, name="a"),
        object_of([[10, 10], [20, 10], [20, 20], [10, 20]], hole, name="b"),
        object_of([[32, 4], [30, 2]], kind="rectangle", name="c"),
        bitmap_of(np.array([[0, 1], [1, 1]]), 30, 30, name="d"),
        object_of(SQUARE[:2], kind="line"),
        object_of(SQUARE[:1], kind="point"),
        object_of(SQUARE[:2]),
    ]
    supervisely(tmp_path / f"ann/{path.name}.json", *objects)
    card = card_of(tmp_path)
    values = mask_of(card.layout, "cell0").values[0]
    assert card.labels.names == ("background", "a", "b", "c", "d")
    assert [int((values == number).sum()) for number in (1, 2, 3, 4)] == [9, 121 - 9, 9, 3]
    assert values[30:32, 30:32].tolist() == [[0, 4], [4, 4]]
    notes = "\n".join(card.layout.notes)
    assert "1 line, which has no area, 1 point, which has no area, 1 polygon of fewer than 3 points" in notes


def test_classes_and_colours_come_from_meta_json(tmp_path):
    card = card_of(write_supervisely(tmp_path / "data"))
    assert card.labels.written_palette == [0, 0, 0, 0, 255, 0]
    assert "classes without any annotation are left out: idle" in card.layout.notes


def test_data_sets_with_images_of_the_same_names_are_told_apart(tmp_path):
    for name in ("ds0", "ds1"):
        for number, path in enumerate(write_images(tmp_path / name / "img", 2)):
            supervisely(tmp_path / name / f"ann/{path.name}.json", object_of(outline(number)), width=SIDE + number)
    pairs = find_layout(tmp_path).splits["train"]
    assert len(pairs) == 4
    assert all(pair.image.path.parts[-3] == pair.mask.path.parts[-3] for pair in pairs)


def test_an_image_without_objects_is_background(tmp_path):
    data = write_supervisely(tmp_path / "data")
    supervisely(data / "ds0/ann/cell0.png.json")
    assert [pair.name.rpartition("/")[2] for pair in card_of(data).empty_masks()] == ["cell0"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (object_of([[1, 1], [2, "x"], [3, 3]]), "no pairs of numbers"),
        (object_of(SQUARE, name=" "), "no classTitle"),
        (object_of(SQUARE) | {"points": 3}, "has no points"),
        (bitmap_of(np.eye(2), 0, 0) | {"bitmap": {"data": "???", "origin": [0, 0]}}, "not in base64"),
        (bitmap_of(np.eye(2), 0, 0) | {"bitmap": {"data": "AAAA", "origin": [0, 0]}}, "not packed by zlib"),
        (bitmap_of(np.eye(2), 0, 0) | {"bitmap": {"data": "AAAA"}}, "without data or origin"),
    ],
)
def test_an_object_that_can_t_be_drawn_is_a_problem_of_its_image_alone(tmp_path, bad, message):
    data = write_supervisely(tmp_path / "data")
    supervisely(data / "ds0/ann/cell0.png.json", object_of(SQUARE), bad)
    [problem] = card_of(data).refusals
    assert "cell0.png.json" in problem.text
    assert message in problem.text


def test_bitmaps_that_would_not_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(bitmaps, "MAX_PNG_BYTES", 1000)
    data = write_supervisely(tmp_path / "data")
    bomb = base64.b64encode(zlib.compress(bytes(10**6))).decode()
    bad = bitmap_of(np.eye(2), 0, 0) | {"bitmap": {"data": bomb, "origin": [0, 0]}}
    supervisely(data / "ds0/ann/cell0.png.json", bad)
    assert "has a bitmap of more than" in card_of(data).refusals[0].text


def test_a_broken_meta_json_is_named(tmp_path):
    data = write_supervisely(tmp_path / "data")
    (data / "meta.json").write_text("{")
    with pytest.raises(UserError, match=r"meta.json, which names the classes, can't be read"):
        find_layout(data)
    (data / "meta.json").write_text(json.dumps({"classes": 3}))
    assert find_layout(data).classes == ("cell",)
