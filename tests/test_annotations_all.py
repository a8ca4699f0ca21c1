"""What all annotation formats share: folders as tools write them are understood as they are, from check to predict."""

from __future__ import annotations

import json

import numpy as np
import pytest
from annotated import COUNT, card_of, learns, mask_of, write_images
from annotation_writers import WRITERS, write_geojson, write_via
from conftest import Run

from unet_cli.data.annotations.formats import FORMATS
from unet_cli.data.folder.layout import find_layout
from unet_cli.data.folder.passed_over import READ, describe
from unet_cli.errors import UserError

TOOLS = [*WRITERS]


@pytest.fixture(params=TOOLS)
def tool(request) -> str:
    if request.param == "ImageJ":
        pytest.importorskip("roifile")
    return request.param


def test_every_format_that_is_recognised_as_read_is_read():
    assert FORMATS.keys() == READ


def test_outlines_cover_the_objects_and_nothing_is_passed_over(tool, tmp_path):
    data = WRITERS[tool](tmp_path / "data")
    card = card_of(data)
    assert card.layout.tool == tool
    assert card.labels.names == ("background", "object" if tool == "napari" else "cell")
    assert not card.refusals
    assert len(card.pairs("train")) == COUNT
    values = mask_of(card.layout, next(pair.name for pair in card.pairs("train") if "cell2" in pair.name)).values[0]
    outline_too = tool == "Supervisely"  # whose origin is a centre
    assert np.argwhere(values).min(0).tolist() == [6, 6]
    assert values.sum() == (17 * 21 if outline_too else 16 * 20)
    assert not [note for note in card.layout.notes if note.startswith("passed over")]


def test_an_image_without_annotations_has_no_mask(tool, tmp_path):
    data = WRITERS[tool](tmp_path / "data")
    [images] = {path.parent for path in data.rglob("*.png")}
    other = write_images(tmp_path / "other", 1)[0].rename(images / "other.png")
    card = card_of(data)
    assert [problem.text for problem in card.refusals] == [f"image without a mask: {other}"]
    assert len(card_of(data, missing_masks="background").pairs("train")) == COUNT + 1


def test_annotations_without_their_image_are_said(tool, tmp_path):
    data = WRITERS[tool](tmp_path / "data")
    next(data.rglob("cell3.png")).unlink()
    [problem] = card_of(data).refusals
    assert "without an image" in problem.text or "lists 1 image that the folder doesn't hold" in problem.text
    assert "cell3" in problem.text


@pytest.mark.parametrize("tool", ["napari", *(pytest.param(t, marks=pytest.mark.slow) for t in TOOLS if t != "napari")])
def test_from_check_to_predict(unet: Run, tool, tmp_path):
    """Other formats by hand: they differ up to the card only."""
    learns(unet, WRITERS[tool](tmp_path / "data"), ["object" if tool == "napari" else "cell"])


def test_two_tools_in_one_folder_are_refused_and_files_of_no_image_are_not_meant(tmp_path):
    data = write_via(tmp_path / "data")
    (data / "map.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    assert find_layout(data).tool == "VGG Image Annotator"
    write_geojson(data / "images")
    with pytest.raises(UserError, match="holds annotations of .* and of .*: keep one kind"):
        find_layout(data)


def test_a_file_that_only_looks_like_a_format_stops_nothing(tmp_path):
    data = write_via(tmp_path / "data")
    other = {"images": [], "categories": [1]}
    (data / "categories.json").write_text(json.dumps(other))
    (data / "form.json").write_text('{"objects": [], "size": {}}')
    assert find_layout(data).tool == "VGG Image Annotator"


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.json", '[{"id": 1, "annotations": [], "file_upload": "a.png"}]', "Label Studio annotations"),
        ("a.json", '[{"image": "a.png", "annotation_id": 3}]', "Label Studio annotations"),
        ("a.json", '[{"type": "Feature", "geometry": null}]', "GeoJSON annotations"),
        ("a.json", '{"tags": [], "size": {"height": 1}, "objects": []}', "Supervisely annotations"),
        ("a.json", '{"project": {"pid": "__VIA_PROJECT_ID__"}}', "VGG Image Annotator 3 annotations, which are not"),
        ("a.csv", "#filename,file_size,file_attributes,region_count,region_id,region_shape_attributes\n", "VGG Image"),
        ("a.csv", "index,shape-type,vertex-index,axis-0,axis-1\n", "napari annotations"),
        ("a.zip", "PK\3\4 0001.roi Iout", "ImageJ annotations"),
        ("a.zip", "PK\3\4 a.txt", "unpack it"),
    ],
)
def test_files_are_recognised(tmp_path, name, text, what):
    (tmp_path / name).write_text(text)
    [line] = describe([tmp_path / name])
    assert line.startswith(f"passed over: 1 {name[1:]}: {what}")
