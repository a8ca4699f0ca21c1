"""GeoJSON as QuPath writes it, in its versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import SIDE, SQUARE, card_of, mask_of, outline, write_images
from annotation_writers import feature, write_geojson

from unet_cli.data.folder.layout import find_layout
from unet_cli.errors import UserError


def of_one_image(folder: Path, *features: dict[str, Any], name: str = "cell0.geojson") -> Path:
    write_images(folder, 1)
    (folder / name).write_text(json.dumps(list(features)))
    return folder


def shifted(by: int) -> list[list[float]]:
    return (np.array(SQUARE) + by).tolist()


def test_holes_parts_classes_and_colours(tmp_path):
    big = [[0, 0], [10, 0], [10, 10], [0, 10]]
    multi = feature(name="wall", kind="MultiPolygon")
    multi["geometry"]["coordinates"] = [[shifted(20)], [shifted(30), shifted(30)[:2]]]
    derived = feature(shifted(15), name=None, classification={"names": ["Tumor", "Positive"], "colorRGB": -65536})
    done = card_of(of_one_image(tmp_path, feature(big, shifted(2)), multi, derived, feature(shifted(25), name=None)))
    values = mask_of(done.layout, "cell0").values[0]
    assert done.labels.names == ("background", "cell", "object", "Tumor: Positive", "wall")
    assert [int((values == number).sum()) for number in (1, 2, 3, 4)] == [100 - 4, 4, 4, 8]
    notes = "\n".join(done.layout.notes)
    assert "1 polygon with holes, 1 polygon of several parts" in notes
    assert "1 polygon of fewer than 3 points" in notes


def test_names_and_colours_are_kept_where_every_class_has_one(tmp_path):
    labels = card_of(write_geojson(tmp_path / "data")).labels
    assert labels.written_palette == [0, 0, 0, 200, 0, 0]


def test_what_has_no_area_or_no_meaning_here_is_counted(tmp_path):
    line = feature(SQUARE) | {"geometry": {"type": "LineString", "coordinates": SQUARE}}
    slice3 = feature(SQUARE)
    slice3["geometry"]["plane"] = {"c": -1, "z": 3, "t": 0}
    features = [
        feature(shifted(20)),
        line,
        slice3,
        feature(SQUARE, name="Region*"),
        feature(SQUARE, objectType="tmaCore"),
        {"type": "Feature", "geometry": None},
        feature(shifted(10), name="Ignore*"),
    ]
    card = card_of(of_one_image(tmp_path, *features))
    values = mask_of(card.layout, "cell0").values[0]
    assert (int((values == 1).sum()), int((values == 255).sum()), card.labels.ignore) == (4, 4, 255)
    left_out = [note for note in card.layout.notes if "left out" in note]
    assert all(
        what in left_out[0]
        for what in (
            "1 LineString, which",
            "1 object of a slice",
            "1 area of the class",
            "1 TMA core",
            "1 feature without",
        )
    )


@pytest.mark.parametrize("name", ["cell0.json", "cell0.png.geojson", "cell0-annotations.geojson", "export.geojson"])
def test_a_file_is_of_the_image_of_its_name_or_of_the_only_one_beside_it(tmp_path, name):
    assert len(find_layout(of_one_image(tmp_path, feature(SQUARE), name=name)).splits["train"]) == 1


def test_an_empty_file_is_background_and_points_outside_are_clipped(tmp_path):
    data = write_geojson(tmp_path / "data")
    (data / "cell0.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    (data / "cell1.geojson").write_text(json.dumps(feature([[-50, -50], [9, -50], [9, 2], [-50, 2]])))
    card = card_of(data)
    assert [pair.name for pair in card.empty_masks()] == ["cell0"]
    assert mask_of(card.layout, "cell1").values.sum() == 18
    assert "3 points outside of the image, in 1 image: clipped at the border" in "\n".join(card.layout.notes)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (feature(SQUARE) | {"geometry": {"type": "Polygon", "coordinates": 3}}, "no list of rings"),
        (feature(SQUARE) | {"geometry": {"type": "Polygon", "coordinates": [3]}}, "no list of rings"),
        (feature([[1, 1], [2, "x"], [3, 3]]), "no pairs of numbers"),
        (feature([[1, 1], [2, 1e300], [3, 3]]), "far beyond any image"),
    ],
)
def test_a_feature_that_can_t_be_drawn_is_a_problem_of_its_image_alone(tmp_path, bad, message):
    data = write_geojson(tmp_path / "data")
    (data / "cell0.geojson").write_text(json.dumps([feature(SQUARE), bad]))
    [problem] = card_of(data).refusals
    assert "cell0.geojson" in problem.text
    assert message in problem.text


def test_maps_and_damaged_files_are_named(tmp_path):
    data = write_geojson(tmp_path / "data")
    (data / "cell0.geojson").write_text('{"type": "FeatureCollection", "crs": {}, "features": []}')
    (data / "cell1.geojson").write_text('[{"type": "Feature"')
    first, second = (problem.text for problem in card_of(data).refusals)
    assert "cell0.geojson has coordinates of a map" in first
    assert "cell1.geojson is damaged, or no GeoJSON file" in second


def test_many_vertices_are_read(tmp_path):
    angles = np.linspace(0, 2 * np.pi, 200_000, endpoint=False)
    ring = np.stack([20 + 10 * np.cos(angles), 20 + 10 * np.sin(angles)], 1).round(4).tolist()
    layout = find_layout(of_one_image(tmp_path, feature(ring), feature(outline(0), name="wall")))
    assert mask_of(layout, "cell0").values.shape[1:] == (SIDE, SIDE)


def test_two_files_of_one_image_are_refused(tmp_path):
    data = of_one_image(tmp_path, feature(SQUARE))
    (data / "cell0_b.geojson").write_text(json.dumps([feature(SQUARE)]))
    with pytest.raises(UserError, match=r"cell0.png is annotated twice, in .*cell0.geojson and in .*cell0_b.geojson"):
        find_layout(data)
