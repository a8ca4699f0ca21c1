"""Masks as tools and people save them, kind by kind: what is found, and that each pixel is of the class that was drawn.

Every set is a few discs that are drawn here, saved in one of the ways that people have met.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import TINY, assert_failed, run_unet
from PIL import Image, ImageFilter

from unet_cli.checkpoint import load_checkpoint
from unet_cli.config.data import DataConfig
from unet_cli.config.model import IGNORED
from unet_cli.data.check.card import Card
from unet_cli.data.check.examine import examine
from unet_cli.data.check.normalization import preprocessing_of
from unet_cli.data.folder.layout import find_layout
from unet_cli.data.maskfile import read_mask
from unet_cli.data.samples.dataset import SegmentationDataset
from unet_cli.errors import UserError
from unet_cli.system.console import Console

HEIGHT, WIDTH = 72, 80


def discs(seed: int, classes: int = 1, each: int = 3, radius: tuple[int, int] = (7, 12)) -> tuple[np.ndarray, ...]:
    """A gray image, brighter the higher the class; class numbers; object numbers."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    labels, objects = np.zeros((HEIGHT, WIDTH), np.uint8), np.zeros((HEIGHT, WIDTH), np.uint16)
    for number in range(classes * each):
        size = int(rng.integers(*radius))
        row, column = rng.integers(size + 1, HEIGHT - size - 1), rng.integers(size + 1, WIDTH - size - 1)
        inside = (rows - row) ** 2 + (columns - column) ** 2 < size**2
        labels[inside], objects[inside] = number % classes + 1, number + 1
    image = (60 + 40.0 * labels + rng.normal(0, 8, labels.shape)).clip(0, 255).astype(np.uint8)
    return image, labels, objects


Draw = Callable[[int, np.ndarray, np.ndarray], object]  # number, classes, objects -> the mask as it is saved


def save(path: Path, mask: object, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, np.asarray(mask))
    elif path.suffix == ".tif":
        tifffile.imwrite(path, np.asarray(mask), **options)
    else:
        image = mask if isinstance(mask, Image.Image) else Image.fromarray(np.asarray(mask))
        image.save(path, **options)


def write(
    root: Path, draw: Draw, count: int = 8, extension: str = ".png", options: dict | None = None, **scene
) -> Path:
    for number in range(count):
        image, labels, objects = discs(number, **scene)
        save(root / f"images/{number:02}.png", image)
        save(root / f"masks/{number:02}{extension}", draw(number, labels, objects), **(options or {}))
    return root


def card_of(root: Path, **settings) -> Card:
    return examine(find_layout(root), DataConfig(data=root, **settings), Console(quiet=True))


def agreement(card: Card, **scene) -> float:
    """Share of the pixels that are of the class that was drawn, of the worst mask."""
    read = [card.labels.encode(read_mask(pair.mask))[0] for pair in card.pairs("train")]
    return min(float((mask == discs(number, **scene)[1]).mean()) for number, mask in enumerate(read))


def palette_image(indices: np.ndarray, *colours: int) -> Image.Image:
    image = Image.frombytes("P", indices.shape[::-1], indices.astype(np.uint8).tobytes())
    image.putpalette([part for colour in colours for part in colour.to_bytes(3)])
    return image


def painted(labels: np.ndarray, *colours: int) -> np.ndarray:
    return np.array([list(colour.to_bytes(3)) for colour in colours], np.uint8)[labels]


BLACK, WHITE, RED, GREEN, BLUE = 0, 0xFFFFFF, 0xC80000, 0x00C800, 0x0000C8

# --- 1: palettes


@pytest.mark.parametrize(
    ("draw", "kind", "values", "classes"),
    [
        pytest.param(
            lambda n, m, o: palette_image(m, WHITE, RED, GREEN), "values", (0, 1, 2), 2, id="one palette, white first"
        ),
        pytest.param(
            lambda n, m, o: palette_image(m, BLACK, RED, GREEN) if n % 2 else m,
            "values", (0, 1, 2), 2, id="plain twins hold indices",
        ),
        pytest.param(
            lambda n, m, o: palette_image(m * 255, *(0x010101 * (255 - v) for v in range(256))),
            "values", (0, 255), 1, id="inverted ramp",
        ),
        pytest.param(
            lambda n, m, o: palette_image(1 - m, WHITE, BLACK), "values", (0, 255), 1, id="two entries, white first"
        ),
        pytest.param(
            lambda n, m, o: palette_image(1 - m, WHITE, BLACK) if n % 2 else m * 255,
            "values", (0, 255), 1, id="two entries, white first, beside plain 0 and 255",
        ),
        pytest.param(
            lambda n, m, o: palette_image(np.array([2, 0, 1])[m], 0x010101, 0x020202, 0) if n % 2 else m,
            "values", (0, 1, 2), 2, id="an optimiser has renumbered gray levels",
        ),
        pytest.param(
            lambda n, m, o: palette_image(
                np.array([n % 2, 1 - n % 2, 2])[m], *([BLACK, RED, GREEN], [RED, BLACK, GREEN])[n % 2]
            ),
            "colours", (BLACK, GREEN, RED), 2, id="palettes that number the same colours differently",
        ),
    ],
)  # fmt: skip
def test_palettes(tmp_path, draw, kind, values, classes):
    card = card_of(write(tmp_path, draw, classes=classes))
    assert (card.labels.kind, card.labels.values) == (kind, values)
    order = np.array([0, 2, 1], np.uint8) if kind == "colours" else np.arange(3, dtype=np.uint8)
    for number, pair in enumerate(card.pairs("train")):
        found = card.labels.encode(read_mask(pair.mask))[0]
        assert (found == order[discs(number, classes=classes)[1]]).all()


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda n, m, o: palette_image(1 - m, WHITE, BLACK) if n % 2 else m, "which is the background"),
        (
            lambda n, m, o: m if n > 5 else palette_image(m ^ (n % 2), *([BLACK, RED], [RED, BLACK])[n % 2]),
            "number the same colours differently",
        ),
    ],
)
def test_what_palettes_and_plain_masks_leave_open_is_asked(tmp_path, draw, message):
    with pytest.raises(UserError, match=message):
        card_of(write(tmp_path, draw))


def test_a_bilevel_tiff_that_stores_0_for_white_is_what_a_viewer_shows(tmp_path):
    def bilevel(number, labels, objects):
        return Image.fromarray(labels * 255).convert("1")

    for number in range(4):
        image, labels, _ = discs(number)
        save(tmp_path / f"images/{number}.png", image)
        (tmp_path / "masks").mkdir(exist_ok=True)
        bilevel(number, labels, None).save(tmp_path / f"masks/{number}.tif", compression="group4", tiffinfo={262: 0})
    assert agreement(card_of(tmp_path)) == 1


# --- 2: noise is no class


def with_254(number, labels, objects):
    mask = labels * 255
    mask[(mask == 255) & (np.roll(mask, 1, 1) == 0)] = 254
    return mask


def with_ones(number, labels, objects):
    mask = labels * 255
    mask[::17, ::19][mask[::17, ::19] == 0] = 1
    return mask


def with_a_few_odd_pixels_in_one(number, labels, objects):
    mask = labels * 255
    if number == 3:
        mask[2, 2:6:2] = 77, 9
    return mask


@pytest.mark.parametrize(
    ("draw", "count"), [(with_254, 6), (with_ones, 6), (with_254, 1), (with_a_few_odd_pixels_in_one, 24)]
)
def test_slips_make_no_third_class(tmp_path, draw, count):
    card = card_of(write(tmp_path, draw, count))
    assert (card.labels.kind, card.labels.values) == ("soft", (0, 255))
    assert agreement(card) > 0.9999 if draw is with_a_few_odd_pixels_in_one else agreement(card) == 1
    assert "of the pixels lie between 0 and 255" in "\n".join(card.describe())


def blurred(levels: list[int]) -> Draw:
    return lambda n, m, o: Image.fromarray(np.uint8(levels)[m]).filter(ImageFilter.GaussianBlur(0.8))


@pytest.mark.parametrize(
    ("draw", "extension", "options", "levels"),
    [
        (blurred([0, 127, 255]), ".png", {}, (0, 127, 255)),
        (lambda n, m, o: m * np.uint8(85), ".jpg", {"quality": 90}, (0, 85, 170, 255)),
        (lambda n, m, o: m * np.uint8(110), ".jpg", {"quality": 70}, (0, 110, 220)),
    ],
)
def test_shades_belong_to_the_nearest_level_in_the_plane(tmp_path, draw, extension, options, levels):
    scene = {"classes": len(levels) - 1, "each": 2, "radius": (9, 14)}
    card = card_of(write(tmp_path, draw, extension=extension, options=options, **scene))
    assert card.labels.values == pytest.approx(levels, abs=1)  # JPEG may move a level by one
    assert agreement(card, **scene) > 0.97
    assert any("of the pixels" in note for note in card.plain()["notes"])


def test_a_soft_edge_from_black_to_white_has_no_ring_of_gray(tmp_path):
    card = card_of(write(tmp_path, blurred([0, 127, 255]), classes=2, each=2, radius=(9, 14)))
    ramp = np.zeros((1, 24, 24), np.uint8)
    ramp[..., 11:] = 64, 127, 191, *[255] * 10
    from unet_cli.data.maskfile import MaskPixels

    assert set(np.unique(card.labels.encode(MaskPixels(ramp)))) == {0, 2}


def test_what_covers_areas_is_a_class_however_rare_and_a_thin_ring_may_be_one(tmp_path):
    def lesion(number, labels, objects):
        mask = labels * 255
        mask[1:5, 1:6] = 128
        return mask

    def ring(number, labels, objects):
        mask = labels * 255
        neighbours = [np.roll(mask, step, axis) for step in (-1, 1) for axis in (0, 1)]
        mask[(mask == 255) & (np.min(neighbours, axis=0) == 0)] = 128
        return mask

    for name, draw in (("lesion", lesion), ("ring", ring)):
        assert card_of(write(tmp_path / name, draw)).labels.values == (0, 128, 255)


def test_an_ignored_band_of_255_beside_0_and_1_stays_ignored(tmp_path):
    def band(number, labels, objects):
        labels[:5] = 255
        return labels

    labels = card_of(write(tmp_path, band)).labels
    assert (labels.values, labels.ignore) == ((0, 1), 255)


CODES = (BLACK, 0x00FFFF, 0xFFFF00, 0xFF00FF, 0x00FF00)


def test_colours_saved_as_jpeg_are_those_that_were_painted(tmp_path):
    scene = {"classes": 4, "each": 2, "radius": (9, 14)}
    write(tmp_path, lambda n, m, o: painted(m, *CODES), extension=".jpg", options={"quality": 90}, **scene)
    assert sorted(card_of(tmp_path).labels.values) == sorted(CODES)
    named = "a=#000000,b=#00ffff,c=#ffff00,d=#ff00ff,e=#00ff00,snow=#ffffff,water=#0000ff"
    card = card_of(tmp_path, classes=named)
    assert not card.refusals
    assert agreement(card, **scene) > 0.95


# --- 3: colours that are numbers


def in_channel(channel: int, channels: int = 3) -> Draw:
    def draw(number, labels, objects):
        mask = np.zeros((*labels.shape, channels), np.uint8)
        mask[..., channel] = labels
        mask[..., 3:] = 255
        mask[1:5, 1:5, channel] = 3
        return mask

    return draw


@pytest.mark.parametrize(
    ("channel", "channels", "name"), [(0, 4, "red"), (0, 3, "red"), (1, 3, "green"), (2, 3, "blue")]
)
def test_class_numbers_in_a_channel_are_all_kept(tmp_path, channel, channels, name):
    card = card_of(write(tmp_path, in_channel(channel, channels), classes=2))
    assert card.labels.values == (0, 1, 2, 3)
    assert any(f"numbers in their {name} channel" in note for note in card.plain()["notes"])


@pytest.mark.parametrize("objects_are_numbered", [False, True])
def test_masks_that_hold_number_1_alone_keep_it_in_the_channel_of_the_others(tmp_path, objects_are_numbered):
    def draw(number, labels, objects):
        mask = objects if objects_are_numbered else labels
        red = np.where(mask == 1, mask, 0) if number % 3 == 0 else mask
        return np.stack([red, red * 0, red * 0], -1).astype(np.uint8)

    scene = {"each": 18, "radius": (4, 7)} if objects_are_numbered else {"classes": 3}
    card = card_of(write(tmp_path, draw, **scene))
    assert (card.labels.kind, card.labels.reading) == ("instances" if objects_are_numbered else "values", "red")
    for number, pair in enumerate(card.pairs("train")):
        _, labels, objects = discs(number, **scene)
        drawn = (objects > 0) if objects_are_numbered else labels
        one = (objects if objects_are_numbered else labels) == 1
        found = card.labels.encode(read_mask(pair.mask))[0]
        assert (found == (one if number % 3 == 0 else drawn)).all()


def object_colours(number, labels, objects):
    colours = np.random.default_rng(number).integers(30, 255, (60, 3)).astype(np.uint8)
    colours[0] = 0
    return colours[objects]


def wide_numbers(number, labels, objects):
    numbers = np.where(objects > 0, objects.astype(int) * 37 + number, 0)
    return np.stack([numbers % 256, numbers // 256, numbers * 0], -1).astype(np.uint8)


def numbers_in_red(number, labels, objects):
    red = objects.astype(np.uint8)
    return np.stack([red, red * 0, red * 0, red * 0 + 255], -1)


@pytest.mark.parametrize("draw", [numbers_in_red, wide_numbers, object_colours])
def test_object_numbers_in_colours_are_objects(tmp_path, draw):
    scene = {"each": 18, "radius": (4, 7)}
    card = card_of(write(tmp_path, draw, **scene))
    assert card.labels.kind == "instances"
    assert agreement(card, **scene) == 1


def test_painted_reds_stay_colours(tmp_path):
    labels = card_of(write(tmp_path, lambda n, m, o: painted(m, BLACK, 0x800000, 0xFF0000), classes=2)).labels
    assert (labels.kind, labels.values) == ("colours", (BLACK, 0x800000, 0xFF0000))


def test_planes_are_classes_and_what_none_marks_is_background(tmp_path):
    scene = {"classes": 3, "each": 2}
    for name, planes in (("all", (0, 1, 2, 3)), ("marked", (1, 2, 3))):

        def one_hot(number, labels, objects, planes=planes):
            return np.stack([labels == plane for plane in planes], -1).astype(np.uint8)

        card = card_of(write(tmp_path / name, one_hot, extension=".npy", **scene))
        assert card.labels.values == (0, 1, 2, 3)
        assert agreement(card, **scene) == 1


def test_planes_that_mark_nothing_are_an_empty_mask(tmp_path):
    def one_hot(number, labels, objects):
        return np.stack([(labels == plane) & (number != 3) for plane in range(1, 6)]).astype(np.uint8)

    options = {"photometric": "minisblack", "planarconfig": "separate"}
    card = card_of(write(tmp_path, one_hot, extension=".tif", options=options, classes=5))
    assert not card.refusals
    assert card.labels.values == (0, 1, 2, 3, 4, 5)
    assert not card.labels.encode(read_mask(card.pairs("train")[3].mask)).any()


@pytest.mark.parametrize(
    ("colours", "radius"),
    [
        ((0x440154, 0xFDE724), (16, 24)),
        ((0x000003, 0xFCFDBF), (16, 24)),
        ((WHITE, RED), (6, 9)),
        ((0x28005A, 0xFFD0D0), (6, 9)),
    ],
)
def test_of_two_colours_the_dark_end_of_a_map_or_the_one_along_the_borders_is_background(tmp_path, colours, radius):
    scene = {"each": 6, "radius": radius}
    card = card_of(write(tmp_path, lambda n, m, o: painted(m, *colours), **scene))
    assert card.labels.values == colours
    assert agreement(card, **scene) == 1
    (turned,) = [note.split("--classes ")[1].strip("'") for note in card.plain()["notes"] if "turn it round" in note]
    assert card_of(tmp_path, classes=turned).labels.values == colours[::-1]


# --- 4: objects that are numbers


def with_gaps(number, labels, objects):
    numbers = np.random.default_rng(100 + number).choice(np.arange(1, 201), 40, replace=False)
    return np.concatenate([[0], np.sort(numbers)]).astype(np.uint16)[objects]


@pytest.mark.parametrize(
    "draw",
    [
        with_gaps,
        lambda n, m, o: np.where(o > 0, o + 6 * n, 0).astype(np.uint16),
        lambda n, m, o: np.where(o <= 1 + n % 5, o, 0).astype(np.uint8),
    ],
    ids=["gaps as in crops", "unique over the set", "a few, counted from 1"],
)
def test_numbers_that_nothing_tells_apart_are_objects(tmp_path, draw):
    card = card_of(write(tmp_path, draw, 12, each=6, radius=(4, 8)))
    assert card.labels.kind == "instances"
    assert not card.refusals


def organs(number, labels, objects):
    rng = np.random.default_rng(number)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for value, (row, column, size) in enumerate([(18, 20, 13), (20, 58, 8), (52, 22, 5), (52, 60, 10)], 1):
        if value == 1 or rng.random() < 0.8:
            row, column = (row, column) + rng.integers(-3, 4, 2)
            mask[(rows - row) ** 2 + (columns - column) ** 2 < (size + rng.integers(-1, 2)) ** 2] = value
    return mask


def test_values_with_a_size_and_a_place_of_their_own_are_classes(tmp_path):
    card = card_of(write(tmp_path, organs, 12))
    assert card.labels.values == (0, 1, 2, 3, 4)
    assert not card.refusals


def test_values_that_all_have_one_size_in_each_mask_are_told_by_their_places(tmp_path):
    def grid(number, labels, objects):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        side = 6 + number % 3
        for value in range(1, 7):
            row, column = 4 + 14 * ((value - 1) // 3), 4 + 14 * ((value - 1) % 3)
            mask[row : row + side, column : column + side] = value
        return mask

    assert card_of(write(tmp_path, grid, 12)).labels.values == tuple(range(7))


def test_where_there_is_not_enough_to_tell_objects_from_classes_it_is_asked(unet, tmp_path):
    write(tmp_path / "data", lambda n, m, o: np.where(o <= 1 + n, o, 0).astype(np.uint8), 4, each=6, radius=(4, 8))
    assert_failed(unet("train", "--data", "data"), 1, "numbers of objects, or classes?", "--classes background,object")
    for flag, count in (("background,object", 2), ("background,1,2,3,4", 5)):
        assert card_of(tmp_path / "data", classes=flag).labels.num_classes == count


# --- 5: plausible at all?


def photograph(number, labels, objects):
    return np.random.default_rng(number).normal(128, 40, (HEIGHT, WIDTH)).clip(0, 255).astype(np.uint8)


def colour_photograph(number, labels, objects):
    return np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)


@pytest.mark.parametrize("draw", [photograph, colour_photograph])
def test_photographs_are_no_masks(tmp_path, draw):
    with pytest.raises(UserError, match=r"photographs. Are images and masks swapped"):
        card_of(write(tmp_path, draw))


def test_sixty_clean_classes_train_with_a_line(tmp_path):
    def blocks(number, labels, objects):
        return np.kron(np.random.default_rng(number).integers(0, 60, (9, 10)), np.ones((8, 8))).astype(np.uint8)

    card = card_of(write(tmp_path, blocks))
    assert card.labels.num_classes == 60
    assert any("60 classes are many" in note for note in card.plain()["notes"])


# --- 6: unlabelled pixels


def left_unlabelled(by: float, dtype: type) -> Draw:
    def draw(number, labels, objects):
        mask = labels.astype(dtype)
        mask[:, :20] = by
        return mask

    return draw


@pytest.mark.parametrize(
    "draw", [left_unlabelled(-1, np.int16), left_unlabelled(np.nan, np.float32), left_unlabelled(-9999, np.int32)]
)
def test_minus_one_nan_and_no_data_are_ignored(tmp_path, draw):
    write(tmp_path, draw, classes=2, extension=".tif")
    for settings in ({}, {"ignore_index": -1}):
        card = card_of(tmp_path, **settings)
        assert (card.labels.values, card.labels.ignore) == ((0, 1, 2), -1)
        mask = card.labels.encode(read_mask(card.pairs("train")[0].mask))[0]
        assert ((mask == IGNORED) == (np.arange(WIDTH) < 20)).all()
    assert any("--ignore-index -1" in note for note in card.plain()["notes"])


def test_what_gdal_calls_no_data_is_ignored_unless_it_is_background(tmp_path):
    for value, ignored in ((7, 7), (0, None)):
        tags = {"extratags": [(42113, 2, 0, str(value), True)]}
        root = write(tmp_path / str(value), left_unlabelled(value, np.uint8), extension=".tif", options=tags, classes=2)
        assert card_of(root).labels.ignore == ignored


def test_colours_under_transparency_are_background(tmp_path):
    def strokes(number, labels, objects):
        mask = np.array([[255, 255, 255, 0], [255, 0, 0, 255], [0, 255, 0, 255]], np.uint8)[labels]
        mask[60:70, 60:75][labels[60:70, 60:75] == 0] = 255, 0, 0, 0  # erased, but remembered
        return mask if number else np.full((HEIGHT, WIDTH, 4), (255, 255, 255, 0), np.uint8)

    card = card_of(write(tmp_path, strokes, classes=2))
    assert [card.labels.spelled(index) for index in range(3)] == ["transparent", "#00ff00", "#ff0000"]
    mask = card.labels.encode(read_mask(card.pairs("train")[1].mask))[0]
    assert (mask == np.uint8([0, 2, 1])[discs(1, classes=2)[1]]).all()
    assert card.labels.decode(mask)[0, 0].tolist() == [0, 0, 0]


def with_nan_borders(root: Path) -> Path:
    for number in range(6):
        image, labels, _ = discs(number)
        pixels = np.repeat(image[..., None].astype(np.float32) / 255, 3, -1) * (1, 0.9, 0.8)
        pixels[:, :5] = np.nan
        save(root / f"images/{number}.tif", pixels.astype(np.float32), photometric="rgb")
        save(root / f"masks/{number}.tif", labels)
    return root


def test_nan_in_images_is_filled_for_the_network_and_ignored(tmp_path):
    card = card_of(with_nan_borders(tmp_path))
    pairs = card.pairs("train")
    dataset = SegmentationDataset(pairs, preprocessing_of(card, pairs, size=WIDTH), card.labels)
    image, mask = dataset[0]
    assert image.isfinite().all()
    assert (mask[:, :5] == IGNORED).all()
    assert not (mask[:, 5:] == IGNORED).any()
    assert any("NaN was replaced" in note for note in card.plain()["notes"])


def test_networks_train_predict_and_are_scored_on_images_with_nan(unet, tmp_path):
    with_nan_borders(tmp_path / "data")
    done = unet("train", "--data", "data", *TINY, "--epochs", 1, "--name", "run")
    assert done.returncode == 0, done.stderr
    done = unet("predict", "--weights", "checkpoints/run", "--input", "data/images", "--output", "out")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*"))) == 6
    assert unet("evaluate", "--weights", "checkpoints/run", "--data", "data").returncode == 0


# --- the same when masks are compared, and in checkpoints


@pytest.mark.parametrize(
    ("truth", "pred", "said"),
    [
        (lambda n, m, o: m * 255, lambda n, m, o: o, "any object is foreground"),
        (lambda n, m, o: m, lambda n, m, o: palette_image(1 - m, WHITE, BLACK), "order of their values"),
        (
            lambda n, m, o: palette_image(m, BLACK, RED),
            lambda n, m, o: painted(m, BLACK, RED),
            "colours of the palette",
        ),
        (lambda n, m, o: painted(m, BLACK, RED), lambda n, m, o: palette_image(m, BLACK, RED), ""),
    ],
    ids=["numbered objects", "palette that is white first", "colours of the palette", "palette of the colours"],
)
def test_predictions_of_other_tools_are_read_by_the_same_rules(tmp_path, truth, pred, said):
    write(tmp_path / "data", truth, each=5)
    for number in range(8):
        _, labels, objects = discs(number, each=5)
        save(tmp_path / f"pred/{number:02}.png", pred(number, labels, objects))
    done = run_unet("evaluate", "--data", "data", "--pred", "pred", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Dice                            1.0000" in done.stdout
    assert said in done.stderr


def test_predicted_masks_carry_the_numbers_and_the_checkpoint_how_they_are_read(unet, tmp_path):
    write(tmp_path / "data", in_channel(0), classes=2)
    done = unet("train", "--data", "data", *TINY, "--epochs", 1, "--name", "run")
    assert done.returncode == 0, done.stderr
    labels = load_checkpoint(tmp_path / "checkpoints/run").labels
    assert (labels.reading, labels.values) == ("red", (0, 1, 2, 3))
    done = unet("evaluate", "--weights", "checkpoints/run", "--data", "data")
    assert done.returncode == 0, done.stderr
