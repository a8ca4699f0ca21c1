"""The drawing colours of label maps as users have them: their own where these can be told apart, others where not."""

from __future__ import annotations

import numpy as np
import pytest

from unet_cli.data.colours import (
    CLASSES_APART,
    ERROR_COLOURS,
    IGNORED_COLOUR,
    MARKS,
    MARKS_APART,
    OUTLINE,
    WHITE,
    Colours,
    colours_of,
    distance,
)
from unet_cli.data.labels import CLASS_COLOURS, LabelMap

BLACK, GREEN, RED, BLUE = (0, 0, 0), (0, 255, 0), (255, 0, 0), (0, 0, 255)


def coloured(*colours: tuple[int, int, int], ignore: int | None = None) -> Colours:
    """Of masks that are painted in these colours, background first."""
    values = tuple(red << 16 | green << 8 | blue for red, green, blue in colours)
    return colours_of(LabelMap(values, tuple(f"class {index}" for index in range(len(values))), "colours", ignore))


def test_distances_are_those_of_cie_lab():
    """Black and white are 100 apart; red and green 170.6, from their published L*a*b* (53.24, 80.09, 67.20) and
    (87.74, -86.18, 83.18)."""
    found = distance([BLACK, RED], [WHITE, GREEN])
    assert found[0, 0] == pytest.approx(100, abs=0.1)
    assert found[1, 1] == pytest.approx(170.6, abs=0.3)


def test_painted_classes_are_drawn_as_they_are_painted():
    found = coloured(BLACK, GREEN, RED)
    assert found.areas == (BLACK, GREEN, RED)
    assert found.lines[1:] == (GREEN, RED)
    assert coloured(BLACK, GREEN).lines[1] == GREEN
    assert not found.replaced


def test_a_palette_gives_its_colours_by_value():
    palette = (*BLACK, *RED, *BLUE, *GREEN)
    found = colours_of(LabelMap((0, 3, 1), ("a", "b", "c"), palette=palette))
    assert found.areas == (BLACK, GREEN, RED)


def test_masks_without_colours_are_drawn_as_they_are_written():
    binary, soft = (colours_of(LabelMap((0, 255), ("a", "b"), kind)) for kind in ("values", "soft"))
    assert (binary.areas, binary.lines[1]) == ((BLACK, WHITE), OUTLINE)
    assert soft == binary
    grays = colours_of(LabelMap((0, 128, 255), ("a", "b", "c"), palette=None))
    assert grays.areas == CLASS_COLOURS[:3]
    labels = LabelMap((0, 1, 10), ("a", "b", "c"))
    assert labels.written_palette is not None
    written = np.reshape(labels.written_palette, (-1, 3))[[0, 1, 10]]
    assert (np.array(colours_of(labels).areas) == written).all()


def test_a_palette_of_grays_is_no_colours():
    ramp = tuple(value for level in (0, 100, 200) for value in (level,) * 3)
    assert colours_of(LabelMap((0, 1, 2), ("a", "b", "c"), palette=ramp)).areas == CLASS_COLOURS[:3]


def test_of_two_colours_that_look_alike_the_second_is_replaced_and_the_legend_says_so():
    found = coloured(BLACK, GREEN, (0, 245, 30), RED)
    assert found.areas[1] == GREEN
    assert found.areas[3] == RED
    assert found.replaced == {2}
    assert np.sort(distance(found.areas, found.areas), axis=1)[:, 1].min() > CLASSES_APART
    assert [text for text, _ in found.area_legend()] == [
        "class 0", "class 1", "class 2 (not in its own colour)", "class 3",
    ]  # fmt: skip


def test_a_class_in_the_gray_of_ignored_pixels_is_replaced_only_where_there_are_any():
    assert coloured(BLACK, GREEN, (126, 128, 130)).areas[2] == (126, 128, 130)
    found = coloured(BLACK, GREEN, (126, 128, 130), ignore=0xFFFF00)
    assert found.replaced == {2}
    assert found.area_legend()[-1] == ("ignored", IGNORED_COLOUR)


def test_a_black_class_is_outlined_in_a_colour_that_shows():
    found = coloured(WHITE, BLACK, RED)
    assert found.areas == (WHITE, BLACK, RED)
    assert found.lines[1:] == (OUTLINE, RED)


@pytest.mark.parametrize(
    "classes",
    [
        (BLACK, ERROR_COLOURS["false"], GREEN),
        (BLACK, ERROR_COLOURS["missed"]),
        (BLACK, GREEN, RED, BLUE, ERROR_COLOURS["false"], ERROR_COLOURS["missed"]),
    ],
)
def test_marks_of_errors_are_never_in_the_colour_of_a_class(classes):
    found = coloured(*classes)
    assert found.areas == classes
    marks = [found.errors[kind] for kind in MARKS]
    assert distance(marks, found.areas).min() > MARKS_APART
    assert np.sort(distance(marks, marks), axis=1)[:, 1].min() > MARKS_APART
    assert {kind: colour for kind, colour in found.errors.items() if kind not in MARKS} == {
        kind: colour for kind, colour in ERROR_COLOURS.items() if kind not in MARKS
    }


def test_the_usual_marks_stay_where_no_class_is_like_them():
    assert coloured(BLACK, GREEN).errors == ERROR_COLOURS
    first_of_several = colours_of(LabelMap((0, 1, 2), ("a", "b", "c")))
    assert first_of_several.areas[1] == CLASS_COLOURS[1]  # light blue, as "false" would be
    assert first_of_several.errors["false"] != ERROR_COLOURS["false"]


def test_more_classes_than_colours_keep_their_own():
    values = tuple(range(0, 0xFFFFFF, 0xFFFFFF // 250))
    found = colours_of(LabelMap(values, tuple(map(str, values)), "colours"))
    assert len(found.areas) == len(values)
    assert found.area_palette().shape == (256, 3)
    assert tuple(found.area_palette()[255]) == IGNORED_COLOUR
