"""Label maps at the seams between kinds: each set here was once read wrongly without a word."""

import io

import numpy as np
import pytest
from PIL import Image
from test_card import QUIET

from unet_cli.config.data import DataConfig
from unet_cli.config.model import IGNORED
from unet_cli.data.check.card import Card
from unet_cli.data.check.examine import examine
from unet_cli.data.folder.layout import layout_of
from unet_cli.data.maskfile import read_mask
from unet_cli.errors import UserError

SIDE = 96


def discs(draw: np.random.Generator, values, radius: int = 9) -> np.ndarray:
    """A disc of each value, in a row of its own."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    rows, columns = np.ogrid[:SIDE, :SIDE]
    for place, value in enumerate(values):
        row, column = 12 + 24 * place, int(draw.integers(radius + 1, SIDE - radius - 1))
        mask[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = value
    return mask


def as_jpeg(mask: np.ndarray, quality: int = 75) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, format="JPEG", quality=quality)
    return np.asarray(Image.open(file))


def card_of(folder, masks, **settings) -> Card:
    noise = np.random.default_rng(0)
    for index, mask in enumerate(masks):
        for part, pixels in (("images", noise.integers(0, 255, (*mask.shape[:2], 3), np.uint8)), ("masks", mask)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            extension = "tif" if pixels.dtype.kind == "f" else "png"
            Image.fromarray(pixels).save(folder / part / f"{index:03}.{extension}")
    config = DataConfig(data=folder, **settings)
    return examine(layout_of(config), config, QUIET)


def encoded(card: Card) -> np.ndarray:
    return np.stack([card.labels.encode(read_mask(pair.mask))[0] for pair, _ in card.everything])


@pytest.mark.parametrize("count", [14, 40, 120])
def test_classes_that_seldom_recur_are_never_taken_for_objects(tmp_path, count):
    draw = np.random.default_rng(1)
    card = card_of(tmp_path, [discs(draw, draw.choice(np.arange(1, 21), 2, replace=False)) for _ in range(count)])
    assert card.labels.kind == "values"


def test_a_photograph_among_numbered_cells_does_not_make_them_background(tmp_path):
    draw = np.random.default_rng(2)
    masks = [discs(draw, range(1, 5), radius=6) for _ in range(19)]
    masks.append(np.add.outer(np.arange(SIDE), np.arange(SIDE)).astype(np.uint8))
    with pytest.raises(UserError) as refused:
        card_of(tmp_path, masks).refuse()
    assert "019" in str(refused.value)


def test_a_slip_takes_no_thin_class_with_it(tmp_path):
    draw = np.random.default_rng(3)
    masks = []
    for _ in range(30):
        mask = discs(draw, (50, 150, 150, 200))
        inner = mask == 150
        ring = inner & ~(np.roll(inner, 1, 0) & np.roll(inner, -1, 0) & np.roll(inner, 1, 1) & np.roll(inner, -1, 1))
        mask[ring] = 100
        masks.append(mask)
    masks[7][0, 0] = 77
    card = card_of(tmp_path, masks)
    assert card.labels.values == (0, 50, 100, 150, 200)
    assert np.count_nonzero(encoded(card)[7] == 2) == np.count_nonzero(masks[7] == 100)


def test_what_is_near_an_ignored_level_of_jpeg_is_ignored_too(tmp_path):
    draw = np.random.default_rng(4)
    card = card_of(tmp_path, [as_jpeg(discs(draw, (128, 255, 128, 255))) for _ in range(8)], ignore_index=128)
    assert (card.labels.num_classes, card.labels.ignore) == (2, 128)


def test_more_names_than_levels_make_no_class_of_noise(tmp_path):
    draw = np.random.default_rng(5)
    with pytest.raises(UserError, match="values"):
        card_of(tmp_path, [as_jpeg(discs(draw, (255,) * 4)) for _ in range(8)], classes="bg,cell,edge").refuse()


def test_two_names_for_three_levels_of_jpeg_are_asked_about(tmp_path):
    draw = np.random.default_rng(6)
    masks = [as_jpeg(discs(draw, (128, 255, 128, 255))) for _ in range(8)]
    with pytest.raises(UserError, match="2 names|3 values|values"):
        card_of(tmp_path, masks, classes="background,object").refuse()


def test_levels_near_the_end_of_the_range_stay_what_they_are(tmp_path):
    draw = np.random.default_rng(7)
    levels = range(28, 253, 28)
    masks = []
    for _ in range(8):
        large = np.kron(discs(draw, draw.choice(list(levels), 4)), np.ones((2, 2), np.uint8))
        masks.append(np.asarray(Image.fromarray(large).resize((90, 90), Image.Resampling.BILINEAR)))
    assert 255 not in card_of(tmp_path, masks).labels.values


def test_a_hundred_and_fifty_clean_classes_are_no_photograph(tmp_path):
    masks = []
    for number in range(6):
        blocks = (np.arange(72) + 16 * number).astype(np.uint8)
        masks.append(np.kron(np.stack([blocks, blocks]).reshape(12, 12), np.ones((8, 8), np.uint8)))
    assert card_of(tmp_path, masks).labels.values == tuple(range(152))


def test_unlabelled_pixels_are_ignored_beside_another_ignored_value(tmp_path):
    draw = np.random.default_rng(8)
    masks = [discs(draw, (1, 2, 200)).astype(np.int16) for _ in range(6)]
    for mask in masks:
        mask[:4] = -1
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for index, mask in enumerate(masks):
        Image.fromarray(np.full((SIDE, SIDE), 10 * index, np.uint8)).save(tmp_path / f"images/{index}.png")
        Image.fromarray(mask.astype(np.int32)).save(tmp_path / f"masks/{index}.tif")
    config = DataConfig(data=tmp_path, ignore_index=200)
    card = examine(layout_of(config), config, QUIET)
    assert card.labels.values == (0, 1, 2)
    assert (encoded(card)[:, :4] == IGNORED).all()


def test_a_missing_mask_is_no_background_where_no_class_is(tmp_path):
    trimap = np.full((SIDE, SIDE), 2, np.uint8)
    trimap[20:40, 20:40], trimap[19, 20:40] = 1, 3
    card_of(tmp_path, [trimap] * 6)
    Image.fromarray(trimap).save(tmp_path / "images" / "more.png")
    config = DataConfig(data=tmp_path, missing_masks="background")
    with pytest.raises(UserError, match="none of the classes 1, 2, 3 is background"):
        examine(layout_of(config), config, QUIET)


def test_blank_masks_alone_are_nothing_to_learn_from(tmp_path):
    card_of(tmp_path, [discs(np.random.default_rng(9), (255, 255))] * 4)
    for path in sorted((tmp_path / "masks").iterdir())[1:]:
        path.unlink()
    Image.fromarray(np.zeros((7, 5), np.uint8)).save(tmp_path / "masks" / "000.png")
    config = DataConfig(data=tmp_path, missing_masks="background")
    with pytest.raises(UserError, match=r"000\.png is 5x7"):
        examine(layout_of(config), config, QUIET)
