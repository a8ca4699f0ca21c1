"""Layers of shapes that napari saved as CSV."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from annotated import SIDE, SQUARE, card_of, mask_of, outline, write_images
from annotation_writers import shapes_csv, write_napari

from unet_cli.data.folder.layout import find_layout


def test_shapes_of_every_kind_in_rows_and_columns(tmp_path):
    """A square from 1 to 3 is two pixels wide, as in napari's own labels of it."""
    [path] = write_images(tmp_path, 1)
    disc = [[10, 20], [16, 20], [16, 30], [10, 30]]
    shapes = [
        ("polygon", SQUARE),
        ("rectangle", [[30, 2], [34, 2], [34, 3], [30, 3]]),
        ("ellipse", disc),
        ("path", SQUARE),
        ("line", SQUARE[:2]),
        ("polygon", SQUARE[:2]),
    ]
    path.with_suffix(".csv").write_text(shapes_csv(*shapes))
    layout = find_layout(tmp_path)
    values = mask_of(layout, "cell0").values[0]
    assert (values[1:3, 1:3].sum(), values[:6, :6].sum(), values[2, 30:34].sum(), values[:6, 20:].sum()) == (4, 4, 4, 4)
    assert abs(int(values[15:, 5:25].sum()) - 47) <= 4  # pi * 3 * 5
    notes = "\n".join(layout.notes)
    assert "1 path, which has no area, 1 line, which has no area, 1 polygon of fewer than 3 points" in notes
    assert layout.classes == ("object",)


def test_a_third_axis_is_the_slices_of_a_stack(tmp_path):
    stack = np.random.default_rng(0).integers(0, 9, (4, SIDE, SIDE), np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack")
    first, second = (shapes_csv(("polygon", outline(0)), before=f"{number},") for number in (1.0, 3.0))
    (tmp_path / "stack.csv").write_text(first + second.split("\n", 1)[1].replace("0,polygon", "1,polygon"))
    card = card_of(tmp_path)
    assert [pair.name for pair in card.pairs("train")] == ["stack#2", "stack#4"]
    assert card.contents[:, 1].tolist() == [320, 320]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (shapes_csv(("polygon", [[1, 1], [2, "x"], [3, 3]])), "no pairs of numbers"),
        (shapes_csv(("polygon", [[1, 1], [2, float("inf")], [3, 3]])), "not finite"),
        (shapes_csv(("ellipse", SQUARE[:3])), "4 corners are expected"),
        (shapes_csv(("polygon", SQUARE)) + "1,polygon,0\n", "has 3 fields in line 6, and names of 5"),
        ("index,shape-type,vertex-index,axis-0,axis-1\n\udcff", "damaged, or no napari file"),
    ],
)
def test_a_damaged_layer_is_a_problem_of_its_image_alone(tmp_path, text, message):
    data = write_napari(tmp_path / "data")
    (data / "cell0.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    [problem] = card_of(data).refusals
    assert "cell0.csv" in problem.text
    assert message in problem.text


def test_a_layer_without_shapes_is_background(tmp_path):
    data = write_napari(tmp_path / "data")
    (data / "cell0.csv").write_text(shapes_csv())
    assert [pair.name for pair in card_of(data).empty_masks()] == ["cell0"]
