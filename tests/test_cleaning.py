"""Objects drawn so small that each pixel is worked by hand, and discs whose number is known, at any size and place."""

import subprocess
import sys

import numpy as np
import pytest

from unet_cli.config.prediction import Cleaning
from unet_cli.errors import UserError
from unet_cli.inference.cleaning import clean
from unet_cli.inference.numbering import number_objects, objects_of

SPLIT = Cleaning(split_touching=True)
ROWS, COLUMNS = np.mgrid[:200, :200]


def drawn(text: str) -> np.ndarray:
    return np.array([[int(character, 36) for character in line.replace(".", "0")] for line in text.split()], np.uint8)


def disc(row: float, column: float, radius: float) -> np.ndarray:
    return (np.hypot(ROWS - row, COLUMNS - column) < radius).astype(np.uint8)


def turned(turn: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along and across an axis through the centre, turned by so many radians."""
    rows, columns = ROWS - 100, COLUMNS - 100
    return rows * np.sin(turn) + columns * np.cos(turn), rows * np.cos(turn) - columns * np.sin(turn)


def bar(long: float, short: float, turn: float) -> np.ndarray:
    along, across = turned(turn)
    return ((abs(along) < long) & (abs(across) < short)).astype(np.uint8)


def ellipse(long: float, short: float, turn: float) -> np.ndarray:
    along, across = turned(turn)
    return (np.hypot(along / long, across / short) < 1).astype(np.uint8)


def blob(seed: int) -> np.ndarray:
    """A disc of radius 40 whose outline wavers by some 2 pixels at every angle."""
    angle = np.arctan2(ROWS - 100, COLUMNS - 100)
    wavering = np.random.default_rng(seed).normal(0, 0.8, (2, 12))
    radius = sum(s * np.sin(k * angle) + c * np.cos(k * angle) for k, (s, c) in enumerate(wavering.T, start=2))
    return (np.hypot(ROWS - 100, COLUMNS - 100) < 40 + radius).astype(np.uint8)


def grid(overlap: float, seed: int) -> np.ndarray:
    """4 rows of 5 discs with radii from 5 to 15, moved together until they overlap by this share of a radius."""
    radii = np.random.default_rng(seed).uniform(5, 15, (4, 5))
    discs: list[tuple[float, float, float]] = []
    for line in radii:
        reach = [a + b - overlap * min(a, b) for a, b in zip(line, line[1:], strict=False)]
        columns = 20 + np.append(0, np.cumsum(reach))
        placed = list(zip(columns, line, strict=True))
        row = max([20.0, *(touching_row(*each, other, overlap) for each in placed for other in discs)])
        discs += [(row, *each) for each in placed]
    return np.bitwise_or.reduce([disc(*each) for each in discs])


def touching_row(column: float, radius: float, other: tuple[float, float, float], overlap: float) -> float:
    """The row below another disc (row, column, radius) where one in this column overlaps it so far."""
    distance = radius + other[2] - overlap * min(radius, other[2])
    return other[0] + np.sqrt(max(distance**2 - (column - other[1]) ** 2, 0))


def test_holes_are_what_one_class_encloses():
    pred = drawn("""
        .1...222..
        1.1..2.2..
        .1...222..
        ..........
        1111.11211
        1..1.1...1
        1..1.1.3.1
        ..11.1...1
        1111.11111""")
    expected = pred.copy()
    expected[1, 1], expected[1, 6] = 1, 2  # corners enclose; the others lead out, or touch a second class
    assert np.array_equal(clean(pred, Cleaning(fill_holes=True)), expected)


@pytest.mark.parametrize("side", ["1111 1..2 1111", "1111 2..1 1111", "121 1.1 1.1 111", "111 1.1 1.1 121"])
def test_a_hole_beside_a_second_class_stays(side: str):
    pred = drawn(side)
    assert np.array_equal(clean(pred, Cleaning(fill_holes=True)), pred)


def test_island_in_a_hole_of_its_own_class_is_filled_round():
    pred = np.pad(drawn("11111 1...1 1.1.1 1...1 11111"), 1)
    assert clean(pred, Cleaning(fill_holes=True)).sum() == 25


def test_border_of_the_image_encloses_nothing():
    pred = drawn("11111 1.1.. 1.111 11111")
    assert np.array_equal(clean(pred, Cleaning(fill_holes=True)), drawn("11111 111.. 11111 11111"))


def test_removes_what_is_smaller_by_class():
    pred = drawn("""
        1.11..22
        .1...212
        .....2.3""")
    assert np.array_equal(
        clean(pred, Cleaning(remove_smaller=4)),
        drawn("""
        1.11..22
        .1...2.2
        .....2.."""),
    )
    assert np.array_equal(clean(pred, Cleaning(remove_smaller=1)), pred)


def test_keeps_the_largest_of_each_class_and_the_first_of_equals():
    pred = drawn("""
        .11..2.2
        .11..2.2
        1.......
        ..111..2""")
    assert np.array_equal(clean(pred, Cleaning(keep_largest=True)), drawn(".11..2.. .11..2.. 1....... ........"))


def test_fills_then_removes_then_keeps():
    pred = np.pad(drawn("111.....22 1.1..3.... 111.......  .........."), 1)
    cleaned = clean(pred, Cleaning(fill_holes=True, remove_smaller=9, keep_largest=True))
    assert cleaned.sum() == 9  # without its hole filled, the ring would have 8 pixels
    assert (clean(pred, Cleaning(remove_smaller=9)) == 0).all()


def test_arguments_stay_as_they_are():
    pred = np.pad(drawn("111.1 1.1.. 111.2"), 1)
    before = pred.copy()
    cleaned = clean(pred, Cleaning(fill_holes=True, remove_smaller=2, keep_largest=True))
    number_objects(pred, SPLIT)
    clean(pred, Cleaning())[:] = 7
    assert np.array_equal(pred, before)
    assert cleaned.dtype == np.uint8


@pytest.mark.parametrize("value", [0, 1, 255])
def test_images_of_one_value(value: int):
    pred = np.full((9, 12), value, np.uint8)
    assert np.array_equal(clean(pred, Cleaning(fill_holes=True, remove_smaller=5, keep_largest=True)), pred)
    assert (number_objects(pred, SPLIT) == min(value, 1)).all()


@pytest.mark.parametrize("cleaning", [Cleaning(), SPLIT])
def test_objects_are_numbered_in_reading_order_across_classes(cleaning: Cleaning):
    pred = drawn("""
        ..2..1
        1.2.1.
        11..3.
        .....3""")
    numbers = number_objects(pred, cleaning)
    assert numbers.dtype == np.uint16
    assert np.array_equal(numbers, drawn("..1..2 3.1.2. 33..4. .....4"))


def test_classes_that_touch_are_objects_of_their_own():
    assert np.array_equal(number_objects(drawn("1122 1122 1111"), SPLIT), drawn("1122 1122 1111"))


@pytest.mark.parametrize("overlap", [0.1, 0.25])
@pytest.mark.parametrize("scale", [1, 3])
def test_touching_discs_are_separated(overlap: float, scale: int):
    gap = 10 * scale * (2 - overlap)
    two = disc(50, 50, 10 * scale) | disc(50 + gap * 0.6, 50 + gap * 0.8, 10 * scale)
    three = disc(60, 40, 10 * scale) | disc(60, 40 + gap, 10 * scale) | disc(60, 40 + 2 * gap, 10 * scale)
    unequal = disc(60, 60, 15 * scale) | disc(60, 60 + (15 + 7 - 7 * overlap) * scale, 7 * scale)
    assert [number_objects(mask, SPLIT).max() for mask in (two, three, unequal)] == [2, 3, 2]
    assert [number_objects(mask, Cleaning()).max() for mask in (two, three, unequal)] == [1, 1, 1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("overlap", [0.1, 0.25])
def test_a_grid_of_touching_discs_is_separated(overlap: float, seed: int):
    assert number_objects(grid(overlap, seed), SPLIT).max() == 20


def test_the_cut_runs_through_the_neck():
    numbers = number_objects(disc(100, 60, 20) | disc(100, 96, 20), SPLIT)
    sides = np.where(COLUMNS < 78, 1, 2)[numbers > 0]
    on_the_neck = (COLUMNS == 78)[numbers > 0]  # belongs to either
    assert (numbers[numbers > 0] == sides)[~on_the_neck].mean() > 0.99


def test_discs_that_the_image_cuts_are_separated():
    assert number_objects(disc(0, 60, 20) | disc(0, 96, 20), SPLIT).max() == 2
    assert number_objects(disc(0, 60, 20), SPLIT).max() == 1


WHOLE = {
    "disc": disc(100, 100, 30),
    "small disc": disc(100, 100.5, 3),
    "ellipse": ellipse(90, 30, 0.3),
    "small ellipse": ellipse(18, 6, 1.2),
    "rectangle": np.pad(np.ones((40, 150), np.uint8), 20),
    "diagonal bar": bar(80, 6, np.pi / 4),
    "narrow bar, its outline in steps": bar(70, 2.5, 0.2),
    "shallow waist": disc(100, 60, 40) | disc(100, 90, 40),
    "squares that touch at their corners": np.kron(np.eye(9, dtype=np.uint8), np.ones((3, 3), np.uint8)),
    "the same, mirrored": np.kron(np.eye(9, dtype=np.uint8)[::-1], np.ones((3, 3), np.uint8)),
    "ring": disc(100, 100, 60) - disc(100, 100, 45),
    "thin ring": disc(100, 100, 60) - disc(100, 100, 58),
    "winding line": (abs(ROWS - 100 - 12 * np.sin(COLUMNS / 25)) < 4).astype(np.uint8),
    **{f"wavering {seed}": blob(seed) for seed in range(8)},
}


@pytest.mark.parametrize("shape", WHOLE)
def test_shapes_without_a_neck_stay_whole(shape: str):
    assert np.array_equal(number_objects(WHOLE[shape], SPLIT), WHOLE[shape])


def test_pixels_and_lines_stay_whole():
    pred = np.zeros((40, 40), np.uint8)
    pred[::4, ::4] = 1
    pred[38], pred[34, 1::2] = 1, 2
    assert number_objects(pred, SPLIT).max() == 100 + 1 + 20


@pytest.mark.parametrize("seed", range(3))
def test_numbers_cover_the_foreground_and_no_object_falls_apart(seed: int):
    from scipy.ndimage import gaussian_filter, label

    noise = np.random.default_rng(seed).normal(size=(200, 200))
    pred = (gaussian_filter(noise, 3) > 0).astype(np.uint8) + (gaussian_filter(noise, 6) > 0)
    numbers = number_objects(pred, SPLIT)
    assert np.array_equal(numbers > 0, pred > 0)
    assert numbers.max() > number_objects(pred, Cleaning()).max()
    assert list(dict.fromkeys(numbers[numbers > 0].tolist())) == list(range(1, numbers.max() + 1))
    for number in range(1, numbers.max() + 1):
        assert label(numbers == number, np.ones((3, 3)))[1] == 1
        assert len(np.unique(pred[numbers == number])) == 1


@pytest.mark.parametrize("cleaning", [Cleaning(), SPLIT])
def test_more_objects_than_16_bits_number(cleaning: Cleaning):
    pred = np.zeros((513, 512), np.uint8)
    pred[::2, ::2] = 1
    with pytest.raises(UserError, match=r"65,792 objects.*65,535.*--remove-smaller"):
        number_objects(pred, cleaning)
    assert objects_of(pred, cleaning).max() == 65_792
    most = pred[:511]
    most[0, 0] = 0
    assert number_objects(most, cleaning).max() == 65_535


# --- volumes

CUBE = np.pad(np.ones((5, 5, 5), np.uint8), 1)


def hollow(where: tuple[slice | int, ...]) -> np.ndarray:
    cube = CUBE.copy()
    cube[where] = 0
    return cube


FILLING = Cleaning(fill_holes=True)


def test_a_hole_of_a_volume_is_closed_on_all_sides():
    cave = hollow((slice(2, 5), slice(2, 5), slice(2, 5)))
    assert (clean(cave, FILLING) == CUBE).all()
    for axis in range(3):
        tunnel = np.moveaxis(hollow((slice(None), 3, 3)), 0, axis)[1:-1, 1:-1, 1:-1]  # open at both ends
        assert (clean(tunnel, FILLING) == tunnel).all()
    assert all((clean(one, FILLING) == CUBE[3]).all() for one in hollow((slice(None), 3, 3))[1:-1])
    leaking = hollow((slice(2, 5), 3, 3))
    leaking[1, 2, 3] = 0  # meets the cave at an edge alone, so that the cave stays closed
    filled = leaking.copy()
    filled[2:5, 3, 3] = 1
    assert (clean(leaking, FILLING) == filled).all()


def test_objects_of_a_volume_extend_over_slices_and_meet_at_corners():
    volume = np.zeros((4, 3, 6), np.uint8)
    volume[0, 0, 0] = volume[1, 1, 1] = volume[2, 2, 2] = 1  # a diagonal of three
    volume[:2, 0, 4] = 1
    volume[3, 0, 5] = 2
    numbers = number_objects(volume, Cleaning())
    assert numbers.dtype == np.uint16
    assert [np.count_nonzero(numbers == number) for number in range(1, 4)] == [3, 2, 1]
    assert np.count_nonzero(clean(volume, Cleaning(remove_smaller=3))) == 3
    largest = clean(volume, Cleaning(keep_largest=True))
    assert (largest == np.where(numbers == 2, 0, volume)).all()


def test_touching_balls_are_separated():
    where = np.mgrid[:30, :30, :50]
    balls = [np.sqrt(sum((where[axis] - place[axis]) ** 2 for axis in range(3))) < 11 for place in ((15, 15, 15),
             (15, 15, 34))]  # fmt: skip
    both = (balls[0] | balls[1]).astype(np.uint8)
    assert number_objects(both, Cleaning()).max() == 1
    numbers = number_objects(both, SPLIT)
    assert numbers.max() == 2
    assert ((numbers > 0) == (both > 0)).all()
    assert {int(numbers[15, 15, 10]), int(numbers[15, 15, 40])} == {1, 2}
    assert number_objects(balls[0].astype(np.uint8), SPLIT).max() == 1


def test_scipy_waits_until_it_is_needed():
    code = "import sys, unet_cli.inference.cleaning; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
