"""Outlines counted pixel by pixel on tiny masks, and contact sheets looked at where it matters: in their pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from unet_cli.config.model import IGNORED
from unet_cli.data.colours import OUTLINE, Colours, colours_of
from unet_cli.data.labels import CLASS_COLOURS, LabelMap
from unet_cli.data.pictures import (
    ALARM,
    FRAME,
    GAP,
    Tile,
    augmented_sheet,
    contact_sheet,
    outlined,
    shortened,
    with_legend,
    write_contact_sheet,
)
from unet_cli.data.writing import is_ours
from unet_cli.errors import UserError
from unet_cli.runs.journal import PANEL, Journal
from unet_cli.training.validation import PredictedSample

GRAY = np.full((1, 7, 7), 90, np.uint8)
SIDE = 60


def colours(classes: int) -> Colours:
    """Of masks without colours of their own."""
    return colours_of(LabelMap(tuple(range(classes)), tuple(f"class {index}" for index in range(classes))))


ONE = colours(2)  # foreground class


def box(index: int = 1, shape: tuple[int, int] = (7, 7)) -> np.ndarray:
    """A filled square of 5 x 5 pixels, one pixel from the upper left corner."""
    indices = np.zeros(shape, np.uint8)
    indices[1:6, 1:6] = index
    return indices


def where(picture: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    return (np.asarray(picture) == colour).all(-1)


def drawn(pixels: np.ndarray, indices: np.ndarray, classes: int) -> Image.Image:
    """The outlines of one of several classes, without the legend."""
    picture = outlined(pixels, indices, colours(classes))
    return picture.crop((0, 0, *indices.shape[::-1]))


def ring() -> np.ndarray:
    """(7, 7) bool: the 16 outermost pixels of `box`."""
    expected = box().astype(bool)
    expected[2:5, 2:5] = False
    return expected


def test_the_border_is_drawn_inside_the_object_and_nothing_else_is_touched():
    picture = outlined(GRAY, box(), ONE)
    assert (where(picture, OUTLINE) == ring()).all()
    assert (np.asarray(picture)[~ring()] == 90).all()
    assert (GRAY == 90).all()


def test_several_classes_have_their_own_colours():
    assert (where(drawn(GRAY, box(2), 3), CLASS_COLOURS[2]) == ring()).all()
    assert (where(drawn(GRAY, box(1), 3), CLASS_COLOURS[1]) == ring()).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_a_mask_that_is_all_foreground_is_framed(classes):
    picture = drawn(GRAY, np.ones((7, 7), np.uint8), classes)
    inside = np.zeros((7, 7), bool)
    inside[1:6, 1:6] = True
    assert (where(picture, colours(classes).lines[1]) == ~inside).all()
    assert (np.asarray(picture)[inside] == 90).all()


def test_an_object_that_the_image_cuts_off_has_a_closed_outline():
    assert where(outlined(GRAY, np.pad(box()[1:6, 1:6], ((0, 2), (0, 2))), ONE), ONE.lines[1]).sum() == 16


def test_outlines_of_large_images_are_wider():
    picture = outlined(np.zeros((1, 2400, 2400), np.uint8), np.ones((2400, 2400), np.uint8), ONE)
    assert where(picture, OUTLINE)[1200].sum() == 2 * 3


def test_several_classes_have_a_legend_below_the_image_and_one_has_none():
    several = outlined(np.full((1, 40, 300), 90, np.uint8), np.zeros((40, 300), np.uint8), colours(4))
    assert several.width == 300
    legend = several.crop((0, 40, *several.size))
    assert [where(legend, colour).any() for colour in CLASS_COLOURS[:5]] == [False, True, True, True, False]
    assert (np.asarray(several)[:40] == 90).all()
    assert outlined(GRAY, box(), ONE).size == (7, 7)


@pytest.mark.parametrize("width", [1, 20, 90, 5000])
def test_a_legend_of_any_number_of_classes_is_as_wide_as_its_picture(width):
    names = [(f"a class with quite a long name {number}", (0, 255, number)) for number in range(40)]
    picture = with_legend(Image.new("RGB", (width, 10)), names)
    assert picture.width == width
    if width > 30:
        assert all(where(picture, colour).sum() > 30 for _, colour in names)


def test_a_sheet_names_the_classes():
    sheet = contact_sheet([tile()], colours(3), side=240)
    below = sheet.crop((0, GAP + 240 + FRAME, *sheet.size))
    assert where(below, CLASS_COLOURS[1]).any()
    assert where(below, CLASS_COLOURS[2]).any()


def test_objects_of_two_classes_that_touch_are_both_closed():
    indices = np.zeros((7, 12), np.uint8)
    indices[1:6, 1:6], indices[1:6, 6:11] = 1, 2
    picture = drawn(np.full((1, 7, 12), 90, np.uint8), indices, 3)
    assert (where(picture, CLASS_COLOURS[1])[:, :6] == ring()[:, :6]).all()
    assert (where(picture, CLASS_COLOURS[2])[:, 5:] == ring()).all()


def test_colours_repeat_where_classes_are_many_but_never_that_of_background():
    first_again = len(CLASS_COLOURS)
    assert (where(drawn(GRAY, box(first_again), first_again + 1), CLASS_COLOURS[1]) == ring()).all()
    assert not where(drawn(GRAY, box(first_again), first_again + 1), CLASS_COLOURS[0]).any()


def test_what_is_ignored_is_hatched_and_has_no_outline_nor_colours():
    indices = box(IGNORED)
    indices[3, 3] = 1
    picture = np.asarray(outlined(GRAY, indices, ONE))
    assert (picture[3, 3] == OUTLINE).all()  # one foreground class: the ignored index is none
    changed = (picture != 90).any(-1)
    changed[3, 3] = False
    assert changed.sum() == 6  # of 25, one diagonal in four: y + x = 4 (3 pixels), 8 (3)
    assert not changed[indices != IGNORED].any()


@pytest.mark.parametrize(
    ("channels", "expected"), [(1, (0, 0, 0)), (2, (0, 0, 0)), (3, (0, 40, 80)), (4, (0, 40, 80)), (9, (0, 40, 80))]
)
def test_any_number_of_channels_is_shown_by_three_or_one(channels, expected):
    pixels = np.broadcast_to((np.arange(channels) * 40 % 256).astype(np.uint8)[:, None, None], (channels, 3, 4))
    picture = outlined(pixels, np.zeros((3, 4), np.uint8), ONE)
    assert (picture.mode, picture.size) == ("RGB", (4, 3))
    assert where(picture, expected).all()


def test_eight_bits_are_shown_as_they_are_and_all_others_stretched():
    ramp = np.arange(100).reshape(1, 10, 10)
    nothing = np.zeros((10, 10), np.uint8)
    assert (np.asarray(outlined(ramp.astype(np.uint8), nothing, ONE))[..., 0] == ramp[0]).all()
    for pixels in (ramp.astype(np.uint16) * 7 + 3000, ramp.astype(np.float32) / 1000 - 5):
        shown = np.asarray(outlined(pixels, nothing, ONE))[..., 0]
        assert (shown.min(), shown.max()) == (0, 255)
        assert (np.diff(shown.ravel().astype(int)) >= 0).all()


def test_what_is_not_a_number_is_dark_and_spoils_nothing():
    pixels = np.arange(100, dtype=np.float32).reshape(1, 10, 10)
    pixels[0, 9, :3] = np.nan, np.inf, -np.inf
    shown = np.asarray(outlined(pixels, np.zeros((10, 10), np.uint8), ONE))[..., 0]
    assert (shown[9, :3] == 0).all()
    assert shown[9, 9] == 255
    assert 100 < shown[5, 0] < 150
    assert (np.asarray(outlined(np.full((1, 3, 3), np.nan, np.float32), np.zeros((3, 3), np.uint8), ONE)) == 0).all()


def tile(title: str = "a", height: int = 30, width: int = 30, alarm: bool = False, index: int = 1) -> Tile:
    """A bright rectangle on dark, from a third to two thirds of each side, and its mask."""
    indices = np.zeros((height, width), np.uint8)
    indices[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = index
    return Tile(title, (indices[None] > 0).astype(np.uint8) * 40 + 10, indices, alarm)


def sheet_of(*tiles: Tile, classes: int = 2) -> Image.Image:
    """A contact sheet of one row, without its titles and its legend."""
    sheet = contact_sheet(tiles, colours(classes), side=SIDE)
    return sheet.crop((0, 0, sheet.width, GAP + SIDE + FRAME))


def test_tiles_stand_in_rows():
    one, three, four = (contact_sheet([tile()] * count, ONE, columns=3, side=SIDE) for count in (1, 3, 4))
    assert one.height == three.height < four.height
    assert one.width < three.width == four.width
    assert four.height - three.height > SIDE  # the title needs room


def test_outlines_are_two_pixels_wide_after_scaling_and_colours_stretched():
    sheet = np.asarray(sheet_of(tile()))
    magenta = (sheet == OUTLINE).all(-1)
    assert magenta.sum() == 20 * 20 - 16 * 16  # a border of two pixels in a rectangle of 30 / 3 * 2
    top, left = np.argwhere(magenta)[0]
    assert (sheet[top + 2 : top + 18, left + 2 : left + 18] == 255).all()
    assert (sheet[top - 1, left : left + 20] == 0).all()


def test_outlines_are_thinner_where_they_would_hide_the_objects():
    small = np.zeros((60, 60), np.uint8)
    small[10:15, 10:15] = 1  # two pixels would leave 1 of 25
    sheet = sheet_of(Tile("a", small[None] * 9, small))
    assert where(sheet, OUTLINE).sum() == 25 - 9


def test_one_class_has_one_colour_on_all_tiles_of_a_sheet():
    sheet = sheet_of(tile(index=1), tile(index=2), classes=3)
    counts = [where(sheet, colour).sum() for colour in (OUTLINE, CLASS_COLOURS[1], CLASS_COLOURS[2])]
    assert counts == [0, 144, 144]


def test_tiles_with_an_alarm_have_a_red_frame_and_title():
    calm, alarm = (contact_sheet([tile(alarm=alarm)], ONE, side=SIDE) for alarm in (False, True))
    assert not where(calm, ALARM).any()
    assert where(alarm, ALARM).sum() == (SIDE + 2 * FRAME) ** 2 - SIDE**2
    title = np.asarray(alarm)[GAP + SIDE + FRAME :].astype(int)
    assert (title[..., 0] - title[..., 1] > 60).any()


def test_titles_are_written_below():
    with_title, without = (np.asarray(contact_sheet([tile(title)], ONE, side=SIDE)) for title in ("name", ""))
    rows = np.flatnonzero((with_title != without).any((1, 2)))
    assert rows.min() > SIDE


@pytest.mark.parametrize(("height", "width"), [(10, 10), (10_000, 200), (200, 10_000), (1, 1), (1, 900), (900, 1)])
def test_images_of_any_shape_fit_their_tile(height, width):
    square = contact_sheet([tile()], ONE, side=SIDE)
    sheet = contact_sheet([tile(height=height, width=width)], ONE, side=SIDE)
    assert sheet.size == square.size


def test_images_of_any_type_can_be_shown():
    nothing = np.zeros((8, 8), np.uint8)
    kinds = [
        Tile(str(dtype), np.zeros((channels, 8, 8), dtype), nothing)
        for dtype in (np.uint8, np.uint16, np.float32)
        for channels in (1, 2, 3, 5)
    ]
    kinds.append(Tile("", np.full((1, 8, 8), np.nan, np.float32), np.full((8, 8), IGNORED, np.uint8)))
    assert contact_sheet(kinds, ONE, columns=13, side=SIDE).width > 13 * SIDE


def test_a_sheet_of_nothing_is_empty_paper():
    assert len(np.unique(np.asarray(contact_sheet([], ONE)))) == 1


FONT = ImageFont.load_default(size=14)


def test_titles_are_shortened_in_the_middle_until_they_fit():
    name = "slide_0001/very/long/path/of/a/cell_0042"
    short = shortened(name, FONT, 150)
    start, end = short.split("…")
    assert name.startswith(start)
    assert name.endswith(end)
    assert abs(len(start) - len(end)) <= 1
    assert 130 < FONT.getlength(short) <= 150
    for width in range(20, 200):
        assert FONT.getlength(shortened(name, FONT, width)) <= width


@pytest.mark.parametrize("title", ["", "cell", "two\nlines\there", "細胞 ü", "not\udcffunicode"])
def test_titles_that_fit_stay_and_are_one_line(title):
    assert shortened(title, FONT, 300) == " ".join(title.split())
    contact_sheet([tile(title)], ONE, side=SIDE)


def test_the_sheet_is_written_into_a_new_folder(tmp_path):
    path = write_contact_sheet(tmp_path / "new" / "folder", iter([tile()] * 2), ONE, columns=1, side=SIDE)
    assert path == tmp_path / "new" / "folder" / "contact_sheet.png"
    assert is_ours(path)
    with Image.open(path) as image:
        assert image.size == contact_sheet([tile()] * 2, ONE, columns=1, side=SIDE).size


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is in the way"):
        write_contact_sheet(tmp_path / "file", [tile()], ONE)


def augmented(classes: int) -> Image.Image:
    """Two samples with a rectangle of class 1, one of them with an ignored row."""
    mask = torch.zeros(2, SIDE, SIDE, dtype=torch.int64)
    mask[:, 20:40, 20:40] = 1
    mask[1, 50] = IGNORED
    image = (mask == 1)[:, None].float().expand(-1, 3, -1, -1) * 2 - 1
    sheet = augmented_sheet(image, mask.to(torch.uint8).numpy(), colours(classes))
    return sheet.crop((0, 0, sheet.width, GAP + 240 + FRAME))


def test_augmented_samples_are_outlined_on_a_sheet():
    sheet = augmented(2)
    side = 240
    assert where(sheet, OUTLINE).sum() == 2 * (80**2 - 76**2)
    assert sheet.width > 2 * side
    assert not where(augmented(3), OUTLINE).any()
    assert where(augmented(3), CLASS_COLOURS[1]).sum() == 2 * (80**2 - 76**2)


def test_pictures_of_a_run_keep_the_proportions_of_slices(tmp_path):
    mask = np.zeros((8, 16), np.int64)
    mask[2:6, 4:12] = 1
    Journal(tmp_path, ONE).draw_pictures(3, [PredictedSample(100.0 * mask[None], mask, mask)])
    picture = np.asarray(Image.open(tmp_path / "pictures" / "epoch_0003.png").convert("RGB"))
    assert (picture[PANEL // 2 : PANEL, :PANEL] == 255).all()  # a slice twice as wide as high
    assert not (picture[: PANEL // 2, :PANEL] == 255).all()
