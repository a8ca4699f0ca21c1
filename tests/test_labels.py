"""Mask values and class indices: what is found for each kind of mask, and that writing gives the values back."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from unet_cli.config.model import IGNORED
from unet_cli.data.labels import ClassSpec, LabelMap, find_labels, parse_classes, value_stats, with_background
from unet_cli.data.maskfile import MaskPixels
from unet_cli.data.synthetic import draw_pair
from unet_cli.errors import UserError

BINARY = draw_pair(seed=0, index=0)[1]  # 0 and 255


def pixels(mask: np.ndarray, palette: list[int] | None = None, colour: bool = False) -> MaskPixels:
    return MaskPixels(mask[None], palette, colour)


def found(*masks: np.ndarray, spec: ClassSpec | None = None, **options) -> LabelMap:
    stats = [value_stats(pixels(mask, **options)) for mask in masks]
    return find_labels(stats, spec or ClassSpec())


def encoded(labels: LabelMap, mask: np.ndarray, **options) -> np.ndarray:
    return labels.encode(pixels(mask, **options))[0]


def stripes(*values: int, dtype: type = np.uint8) -> np.ndarray:
    return np.repeat(np.array(values, dtype), 12)[None].repeat(30, axis=0)


@pytest.mark.parametrize("high", [1, 2, 128, 255])
def test_two_values_are_background_and_foreground(high):
    mask = (BINARY > 0).astype(np.uint8) * high
    labels = found(mask, mask)
    assert labels.values == (0, high)
    assert labels.names == ("background", "foreground")
    assert (encoded(labels, mask) == (BINARY > 0)).all()
    assert (labels.decode(encoded(labels, mask)) == mask).all()
    assert labels.decode(encoded(labels, mask)).dtype == np.uint8


def test_two_arbitrary_values_the_smaller_one_is_background():
    assert found(stripes(40, 90)).values == (40, 90)


def test_smoothed_masks_are_binary_from_the_middle_on():
    smooth = np.asarray(Image.fromarray(BINARY).filter(ImageFilter.GaussianBlur(1)))
    labels = found(smooth)
    assert (labels.kind, labels.values) == ("soft", (0, 255))
    assert (encoded(labels, smooth) == (smooth >= 128)).all()
    assert set(np.unique(labels.decode(encoded(labels, smooth)))) == {0, 255}


@pytest.mark.parametrize("scale", [0.5, 0.37, 2.5])
def test_resized_masks_are_binary(scale):
    image = Image.fromarray(BINARY)
    resized = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    assert found(np.asarray(resized)).kind == "soft"


@pytest.mark.parametrize("quality", [30, 60, 85, 95, 100])
def test_jpeg_masks_are_binary(quality):
    memory = io.BytesIO()
    Image.fromarray(BINARY).save(memory, format="JPEG", quality=quality)
    decoded = np.asarray(Image.open(memory))
    labels = found(decoded)
    assert labels.kind == "soft"
    assert (encoded(labels, decoded) == (BINARY > 0)).mean() > 0.99


@pytest.mark.parametrize(
    "values", [(0, 1, 2), (1, 2, 3), (0, 128, 255), (0, 32, 64, 96, 128, 159, 191, 223, 255), (0, 3, 7, 200)]
)
def test_integer_classes(values):
    labels = found(stripes(*values))
    assert labels.values == values
    assert labels.kind == "values"
    assert (labels.decode(encoded(labels, stripes(*values))) == stripes(*values)).all()


def test_classes_of_which_each_mask_shows_one_are_not_taken_for_soft_edges():
    labels = found(*(stripes(0, value, 0, 0) for value in (64, 128, 192, 255)))
    assert (labels.kind, labels.values) == ("values", (0, 64, 128, 192, 255))


def test_classes_come_from_all_masks_together():
    assert found(stripes(0, 1), stripes(0, 4), stripes(2)).values == (0, 1, 2, 4)


def test_empty_masks_alone_still_make_a_map():
    assert found(np.zeros((8, 8), np.uint8)).values == (0, 255)
    assert found(np.full((8, 8), 7, np.uint8)).values == (0, 7)


def test_255_beside_small_whole_numbers_is_ignored_unless_told_otherwise():
    mask = stripes(0, 1, 2, 255)
    labels = found(mask)
    assert (labels.values, labels.ignore) == ((0, 1, 2), 255)
    assert set(np.unique(encoded(labels, mask))) == {0, 1, 2, IGNORED}
    assert "255 is ignored" in labels.describe()
    assert found(mask, spec=ClassSpec(ignore=-1)).values == (0, 1, 2, 255)
    assert found(mask, spec=ClassSpec(names=("a", "b", "c", "d"))).ignore is None
    for binary_or_sparse in (stripes(0, 255), stripes(0, 128, 255), stripes(0, 60, 120, 255)):
        assert found(binary_or_sparse).ignore is None


def test_an_ignore_value_of_the_user():
    labels = found(stripes(0, 1, 2, 11), spec=ClassSpec(ignore=11))
    assert (labels.values, labels.ignore) == ((0, 1, 2), 11)
    assert encoded(labels, stripes(2, 11))[0, -1] == IGNORED
    counts, strangers = labels.count_classes([value_stats(pixels(stripes(*v))) for v in ((0, 2, 11), (1, 7))])
    assert counts.tolist() == [[360, 0, 360], [0, 360, 0]]
    assert strangers == [(1, 7, 360)]


def numbered(count: int) -> np.ndarray:
    return stripes(0, *range(1, count + 1), dtype=np.uint16)


def test_object_numbers_are_foreground():
    masks = [numbered(count) for count in (5, 20, 9, 31, 14, *[7] * 20, 272)]
    labels = found(*masks)
    assert (labels.kind, labels.values) == ("instances", (0, 255))
    assert (encoded(labels, masks[1]) == (masks[1] > 0)).all()
    assert "numbered objects are foreground" in labels.describe()


def test_many_high_numbers_are_objects_even_where_they_do_not_count_from_one():
    rng = np.random.default_rng(0)
    masks = [stripes(0, *rng.choice(5000, 30, replace=False), dtype=np.uint16) for _ in range(3)]
    assert found(*masks).kind == "instances"
    more_than_are_counted = np.arange(1, 3001, dtype=np.uint16).reshape(50, 60)
    labels = found(more_than_are_counted)
    stats = value_stats(pixels(more_than_are_counted))
    assert labels.kind == "instances"
    assert labels.count_classes([stats])[0].sum() == 3000


def test_classes_that_every_mask_shows_are_not_object_numbers():
    masks = [stripes(*range(20)) for _ in range(6)]
    assert found(*masks).values == tuple(range(20))


def test_a_value_without_a_class_is_refused():
    with pytest.raises(UserError, match=r"holds the value 9.*0, 1, 2"):
        encoded(found(stripes(0, 1, 2)), stripes(0, 9))


RED, GREEN, BLACK = 0xFF0000, 0x00FF00, 0


def test_colours_are_classes_and_near_colours_are_those_of_the_class():
    mask = stripes(BLACK, RED, GREEN, dtype=np.int32)
    mask[0, 0] = 0x050300  # nearly black
    mask[0, 13] = 0xF60804  # nearly red
    labels = found(mask, colour=True)
    assert (labels.kind, labels.values) == ("colours", (BLACK, GREEN, RED))
    indices = encoded(labels, mask, colour=True)
    assert (indices[0, 0], indices[0, 13], indices[0, 30]) == (0, 2, 1)
    assert labels.decode(indices)[0, 13].tolist() == [255, 0, 0]


def test_strange_colours_are_counted_and_refused():
    mask = stripes(BLACK, RED, dtype=np.int32)
    mask[4, 4:7] = 0x7B2D43
    labels = found(mask, colour=True)
    assert labels.values == (BLACK, RED)
    assert labels.count_classes([value_stats(pixels(mask, colour=True))])[1] == [(0, 0x7B2D43, 3)]
    with pytest.raises(UserError, match="holds the colour #7b2d43"):
        encoded(labels, mask, colour=True)


def test_a_gray_mask_among_coloured_ones_is_black_and_white():
    labels = find_labels(
        [
            value_stats(pixels(stripes(BLACK, RED, dtype=np.int32), colour=True)),
            value_stats(pixels(stripes(0, 255))),
        ]
    )
    assert labels.values == (BLACK, RED, 0xFFFFFF)
    assert (encoded(labels, stripes(0, 255))[0, [0, 20]] == [0, 2]).all()


def test_palettes_that_number_the_same_colours_differently_are_read_by_colour():
    first, second = [0, 0, 0, 255, 0, 0], [255, 0, 0, 0, 0, 0]
    stats = [value_stats(pixels(stripes(0, 1), palette)) for palette in (first, second)]
    labels = find_labels(stats)
    assert (labels.kind, labels.values) == ("colours", (BLACK, RED))
    assert encoded(labels, stripes(0, 1), palette=second)[0].tolist() == [1] * 12 + [0] * 12


def test_names_of_the_classes():
    spec = parse_classes("background,weed,crop")
    labels = found(stripes(0, 128, 255), spec=spec)
    assert labels.describe() == "3 classes (background 0, weed 128, crop 255)"
    assert found(stripes(0, 1), spec=spec).values == (0, 1, 2)  # one is not in these masks
    with pytest.raises(UserError, match=r"names 3 classes .* but the masks hold 2 values"):
        found(stripes(0, 255), spec=spec)
    for wrong in ("one", "a,,b", "a,a"):
        with pytest.raises(UserError, match="--classes is"):
            parse_classes(wrong)


def test_classes_from_a_file(tmp_path):
    path = tmp_path / "classes.toml"
    path.write_text("background = 0\ncell = 7\nignore = 9\n")
    spec = parse_classes(str(path))
    labels = found(stripes(0, 7, 9), spec=spec)
    assert (labels.names, labels.values, labels.ignore) == (("background", "cell"), (0, 7), 9)
    path.write_text("[classes]\nsoil = '#000000'\nweed = [255, 0, 0]\n")
    labels = found(stripes(BLACK, RED, dtype=np.int32), spec=parse_classes(str(path)), colour=True)
    assert (labels.kind, labels.names, labels.values) == ("colours", ("soil", "weed"), (BLACK, RED))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("background = ", "is not TOML"),
        ("background = 0", "at least two classes"),
        ("a = 0\nb = 0", "each with a value of its own"),
        ("a = 0\nb = '#ff0000'", "mixes numbers and colours"),
        ("a = 0\nb = 'red'", "b is 'red': give a mask value"),
        ("a = 0\nb = -4", "b is -4"),
    ],
)
def test_a_wrong_file_of_classes_is_explained(tmp_path, content, message):
    (tmp_path / "classes.toml").write_text(content)
    with pytest.raises(UserError, match=message):
        parse_classes(str(tmp_path / "classes.toml"))


def test_small_integers_are_written_with_visible_colours():
    assert found(stripes(0, 1)).written_palette == [0, 0, 0, 255, 255, 255]
    palette = found(stripes(0, 1, 10)).written_palette
    assert palette is not None
    assert len(palette) == 33
    assert sum(palette[3:6]) > 200
    assert found(stripes(0, 255)).written_palette is None


def test_the_users_own_palette_is_kept():
    labels = found(stripes(0, 1), palette=[9, 9, 9, 1, 2, 3])
    assert labels.written_palette == [9, 9, 9, 1, 2, 3]
    assert LabelMap.from_plain(labels.plain()) == labels


def test_classes_that_no_mask_shows_have_a_colour_of_their_own_in_the_palette():
    labels = found(stripes(0, 1), spec=parse_classes("a,b,c"), palette=[9, 9, 9, 1, 2, 3])
    palette = labels.written_palette
    assert palette is not None
    assert (len(palette), palette[:6]) == (9, [9, 9, 9, 1, 2, 3])


def test_values_that_no_mask_file_can_hold_are_refused():
    with pytest.raises(UserError, match="hold the value 100,000"):
        found(stripes(0, 100_000, dtype=np.int32))


def test_a_photograph_among_masks_makes_no_classes():
    rng = np.random.default_rng(0)
    for noise in (rng.integers(0, 200, (30, 36), np.uint8), rng.integers(0, 60_000, (30, 36)).astype(np.uint16)):
        masks = [stripes(0, 1, 2, 3)] * 12 + [noise]
        labels = found(*masks)
        assert labels.values == (0, 1, 2, 3)
        strangers = labels.count_classes([value_stats(pixels(mask)) for mask in masks])[1]
        assert {row for row, *_ in strangers} == {12}


def test_masks_of_0_and_1_mixed_with_masks_of_0_and_255_are_refused():
    with pytest.raises(UserError, match="2 of 4 masks hold 255 and others 1"):
        found(stripes(0, 1), stripes(0, 255), stripes(0, 1), stripes(0, 255))


def test_soft_masks_of_16_bits():
    smooth = np.asarray(Image.fromarray(BINARY).filter(ImageFilter.GaussianBlur(1))).astype(np.uint16) * 257
    labels = found(smooth)
    assert (labels.kind, labels.values) == ("soft", (0, 65535))


def test_names_and_values_for_soft_and_numbered_masks(tmp_path):
    smooth = np.asarray(Image.fromarray(BINARY).filter(ImageFilter.GaussianBlur(1)))
    path = tmp_path / "classes.toml"
    path.write_text("background = 0\ncell = 255\n")
    for spec in (parse_classes("background,cell"), parse_classes(str(path))):
        labels = found(smooth, spec=spec)
        assert (labels.kind, labels.names) == ("soft", ("background", "cell"))
    masks = [numbered(count) for count in (5, 20, 9, 31, 14)]
    assert found(*masks, spec=parse_classes("background,cell")).kind == "instances"


def test_colours_where_values_were_found_are_refused():
    labels = found(BINARY)
    with pytest.raises(UserError, match="holds colours"):
        encoded(labels, stripes(BLACK, RED, dtype=np.int32), colour=True)
    assert labels.count_classes([value_stats(pixels(stripes(BLACK, RED, dtype=np.int32), colour=True))])[1]


def test_a_number_that_is_to_be_ignored_says_nothing_of_colours():
    with pytest.raises(UserError, match="of which --ignore-index 255 is none"):
        found(stripes(BLACK, RED, dtype=np.int32), spec=ClassSpec(ignore=255), colour=True)


def test_contradicting_ignore_values_are_refused(tmp_path):
    (tmp_path / "classes.toml").write_text("ignore = 2\n[classes]\na = 0\nb = 1\n")
    assert parse_classes(str(tmp_path / "classes.toml")).ignore == 2
    with pytest.raises(UserError, match="ignore = 2, but --ignore-index 1"):
        parse_classes(str(tmp_path / "classes.toml"), ignore=1)
    (tmp_path / "classes.toml").write_text("classes = [1, 2]")
    with pytest.raises(UserError, match="write a line"):
        parse_classes(str(tmp_path / "classes.toml"))


def test_colours_that_are_near_each_other_are_classes_where_both_cover_areas():
    for colours in ((0x464646, 0x00008E, 0x000046, 0x00005A, 0x00006E), (0x808080, 0x818080, 0x848080, 0x8A8080)):
        labels = found(stripes(*colours, dtype=np.int32), colour=True)
        assert sorted(labels.values) == sorted(colours)
        assert len(np.unique(encoded(labels, stripes(*colours, dtype=np.int32), colour=True))) == len(colours)


def test_thin_lines_of_255_are_ignored_whatever_the_classes():
    mask = stripes(0, 15, 15, 0)
    mask[:, 11:13] = mask[:, 35:37] = 255
    assert (found(mask).values, found(mask).ignore) == ((0, 15), 255)


def test_two_names_for_many_numbers_mean_objects():
    masks = [numbered(count).astype(np.uint8) for count in (4, 2, 3)]
    labels = found(*masks)
    assert labels.kind == "values"
    assert labels.may_be_objects([value_stats(pixels(mask)) for mask in masks])
    assert found(*masks, spec=parse_classes("background,gland")).kind == "instances"


@pytest.mark.parametrize(
    ("names", "pixels", "ignore", "said", "expected"),
    [
        (("0", "1", "2"), (50, 30, 20), None, "auto", True),  # without names the largest is background
        (("0", "1", "2"), (30, 50, 20), None, "auto", False),
        (("#000000", "#ff0000", "#00ff00"), (30, 50, 20), None, "auto", False),
        (("Background", "road", "tree"), (30, 50, 20), None, "auto", True),
        (("_unlabelled_", "road", "tree"), (30, 50, 20), None, "auto", True),
        (("sky", "road", "tree"), (50, 30, 20), None, "auto", False),  # named otherwise
        (("sky", "road", "tree"), (30, 50, 20), 255, "auto", True),  # what is left is ignored already
        (("sky", "road", "tree"), (50, 30, 20), None, "first", True),
        (("0", "1", "2"), (50, 30, 20), 255, "none", False),
        (("cell", "wall"), (30, 70), None, "none", True),  # of two, one is always background
    ],
)
def test_whether_the_first_class_is_background(names, pixels, ignore, said, expected):
    colours = names[0].startswith("#")
    values = tuple(int(name[1:], 16) for name in names) if colours else tuple(range(len(names)))
    labels = LabelMap(values, names, "colours" if colours else "values", ignore)
    found = with_background(labels, np.array(pixels), said)
    assert found.background is expected
    assert found.scored_names == names[int(expected) :]
    assert LabelMap.from_plain(found.plain()) == found
    assert ("none is background" in found.describe()) is not expected


@pytest.mark.parametrize("spec", [ClassSpec(), ClassSpec(ignore=255), ClassSpec(("background", "cell"), ignore=255)])
def test_numbered_objects_may_have_ignored_pixels(spec):
    masks = []
    for highest in (14, 13, 9, 5):
        mask = np.zeros((40, 60), np.uint8)
        for number in range(1, highest + 1):
            mask[:30, 4 * number : 4 * number + 2] = number
        mask[39] = 255
        masks.append(mask)
    labels = found(*masks, spec=spec)
    assert labels.kind == "instances"
    assert labels.ignore == 255
    assert LabelMap.from_plain(labels.plain()) == labels


@pytest.mark.parametrize(
    ("values", "names", "options", "problem"),
    [
        ((0, 0), ("a", "b"), {}, "each has its own"),
        ((0, 1), ("a",), {}, "2 classes with 1 names"),
        ((0, 70000), ("a", "b"), {}, "from 0 to 65,535"),
        ((0, 1), ("a", "\x1b[31m"), {}, "printable"),
        ((0, 1), ("a", "b"), {"ignore": 1}, "each has its own"),
        ((0, 1), ("a", "b"), {"palette": (0, 0, 300)}, "palette"),
        ((0, 1), ("a", "b"), {"background": False}, "always background"),
        (tuple(range(256)), tuple(map(str, range(256))), {}, "2 to 255 can be"),
    ],
)
def test_what_can_not_be_classes_is_refused(values, names, options, problem):
    with pytest.raises(UserError, match=problem):
        LabelMap(values, names, **options)


def test_classes_of_one_name_are_refused():
    with pytest.raises(UserError, match="classes are called background, cell, cell: give each a name of its own"):
        LabelMap((0, 1, 2), ("background", "cell", "cell"))
