"""Masks drawn from shapes: squares worked by hand for each pixel origin. That polygons and run lengths are
pycocotools' to the pixel was compared on thousands of random ones, and is held here by figures taken from it."""

from __future__ import annotations

import numpy as np
import pytest
from annotated import SQUARE

from unet_cli.data.annotations.polygons import drawn
from unet_cli.data.annotations.rle import decompressed
from unet_cli.data.annotations.shapes import Annotated, Kind, Runs, Shape
from unet_cli.errors import UserError


def draw(kind: Kind, *rings: list[list[float]], size: tuple[int, int] = (6, 6)) -> list[str]:
    shape = Shape("a", kind, tuple(np.array(ring, float) for ring in rings))
    values, _ = drawn(Annotated(size, (shape,)), size, {"a": 1})
    return ["".join(".#"[value] for value in row) for row in values]


# --- drawing ---------------------------------------------------------------------------------------------------------


def test_a_square_from_1_to_3_is_two_pixels_wide_where_the_origin_is_a_corner():
    assert draw("parts", SQUARE) == ["......", ".##...", ".##...", "......", "......", "......"]


def test_a_square_from_1_to_3_is_three_pixels_wide_where_it_is_a_centre():
    assert draw("outlined", SQUARE) == ["......", ".###..", ".###..", ".###..", "......", "......"]
    assert draw("rectangle", [[1, 1], [3, 3]]) == ["......", ".###..", ".###..", ".###..", "......", "......"]


def test_parts_are_united_and_holes_are_cut_out():
    outer, inner = [[0, 0], [5, 0], [5, 5], [0, 5]], [[2, 2], [4, 2], [4, 4], [2, 4]]
    assert draw("parts", outer, inner)[:3] == ["#####.", "#####.", "#####."]
    assert draw("holes", outer, inner) == ["#####.", "#####.", "##..#.", "##..#.", "#####.", "......"]


def test_a_ring_that_crosses_itself_follows_the_even_odd_rule():
    twice = [[0, 0], [4, 0], [4, 4], [0, 4], [0, 0], [4, 0], [4, 4], [0, 4]]
    assert not "".join(draw("parts", twice)).count("#")


@pytest.mark.parametrize("kind", ["parts", "outlined"])
def test_what_lies_outside_is_clipped_however_far(kind: Kind):
    assert draw(kind, [[-1e6, -1e6], [1e6, -1e6], [1e6, 1e6], [-1e6, 1e6]]) == ["######"] * 6
    assert draw(kind, [[50, 50], [60, 50], [60, 60]]) == ["......"] * 6
    assert draw(kind, [[-3, 2], [2, 2], [2, 4], [-3, 4]])[2][:2] == "##"


def test_areas_are_those_of_pycocotools():
    star = [[10.3, 1.7], [12.9, 8.1], [19.6, 8.4], [14.2, 12.5], [16.3, 19.2], [10.1, 15.3], [4.4, 19.6], [6.2, 12.8]]
    assert "".join(draw("parts", star, size=(21, 21))).count("#") == 107


def test_the_later_shape_is_on_top_and_what_both_claim_is_counted():
    ring = np.array(SQUARE, float)
    shapes = (Shape("a", "parts", (ring,)), Shape("b", "parts", (ring + [1, 0],)), Shape("b", "parts", (ring,)))
    values, sets = drawn(Annotated((5, 5), shapes), (5, 5), {"a": 1, "b": 2})
    assert values[1].tolist() == [0, 2, 2, 2, 0]
    assert np.count_nonzero(sets == 0b11) == 4


def test_compressed_run_lengths_are_pycocotools():
    """Its encoding of these three rows."""
    bitmap = Runs(decompressed("21130M1"), 3, 4, by_columns=True).checked().bitmap()
    assert bitmap.astype(int).tolist() == [[0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]]
    with pytest.raises(UserError, match="cut off"):
        decompressed("21130P")


def test_a_million_vertices_are_drawn(tmp_path):
    angles = np.linspace(0, 2 * np.pi, 1_000_000, endpoint=False)
    ring = np.stack([20 + 10 * np.cos(angles), 20 + 10 * np.sin(angles)], 1)
    values, _ = drawn(Annotated((40, 40), (Shape("a", "parts", (ring,)),)), (40, 40), {"a": 1})
    assert abs(int(values.sum()) - 314) < 5
    zigzag = np.stack([np.tile([0, 5000], 500_000), np.linspace(0, 5000, 1_000_000)], 1)
    with pytest.raises(UserError, match="simplify"):
        drawn(Annotated((5000, 5000), (Shape("a", "parts", (zigzag,)),)), (5000, 5000), {"a": 1})
