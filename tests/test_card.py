"""The data set card: what is found, and every problem at once."""

import numpy as np
import pytest
from conftest import pixels, write_pairs
from PIL import Image

from unet_cli.console import Console
from unet_cli.data.card import Card, examine
from unet_cli.data.imagefile import read_image
from unet_cli.data.layout import find_layout
from unet_cli.errors import UserError

QUIET = Console(quiet=True)


def card_of(folder) -> Card:
    return examine(find_layout(folder), QUIET)


def test_it_says_what_is_there(data):
    card = card_of(data)
    text = "\n".join(card.describe())
    assert "6 pairs (train 6), images and masks of the same name" in text
    assert "6 sizes, sides of 40 to 45 pixels; RGB, 8 bits" in text
    assert "2 classes (0 is background, 255 foreground)" in text
    foreground = np.mean(np.concatenate([np.asarray(Image.open(p)).ravel() > 0 for p in (data / "masks").iterdir()]))
    assert f"foreground {foreground:.1%}" in text


def test_statistics_are_those_of_the_training_part_alone(data):
    card = card_of(data)
    train = card.layout.splits["train"][:4]
    values = np.concatenate([read_image(pair.image).reshape(3, -1) for pair in train], axis=1)
    preprocessing = card.preprocessing(train, size=64)
    assert np.allclose(preprocessing.mean, values.mean(1))
    assert np.allclose(preprocessing.std, values.std(1))


def test_gray_stored_as_rgb_is_one_channel_and_a_mixture_is_three(data):
    for path in (data / "images").iterdir():
        Image.open(path).convert("L").convert("RGB").save(path)
    assert card_of(data).in_channels == 1
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))
    colour.save(data / "images" / "cell0.png")
    card = card_of(data)
    assert card.in_channels == 3
    assert "RGB (5 gray images among 6)" in card.describe()[1]


def test_sixteen_bit_images(data):
    for path in (data / "images").iterdir():
        gray = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 16 + 33_000
        Image.fromarray(gray).save(path)
    card = card_of(data)
    assert (card.bits, card.in_channels) == (16, 1)
    preprocessing = card.preprocessing(card.layout.splits["train"], size=64)
    assert 33_000 < preprocessing.mean[0] < 37_100


def test_images_that_differ_more_than_their_pixels_are_normalised_one_by_one(data):
    card = card_of(data)
    assert card.preprocessing(card.layout.splits["train"], size=64).intensity == "dataset"
    for index, path in enumerate(sorted((data / "images").iterdir())):
        dim = pixels(path) // 8 + 200 * (index % 2)
        Image.fromarray(dim.astype(np.uint8)).save(path)
    card = card_of(data)
    assert card.preprocessing(card.layout.splits["train"], size=64).intensity == "image"


def test_constant_images_do_not_divide_by_zero(data):
    for path in (data / "images").iterdir():
        Image.fromarray(np.full_like(pixels(path)[..., 0], 7)).save(path)
    card = card_of(data)
    assert card.preprocessing(card.layout.splits["train"], size=64).std == (1.0,)


def test_every_problem_is_listed_at_once(data):
    (data / "images" / "cell0.png").write_text("text")
    (data / "masks" / "cell1.png").write_bytes(b"")
    Image.new("L", (9, 8)).save(data / "masks" / "cell2.png")
    Image.fromarray(np.zeros((40, 43), np.uint16)).save(data / "images" / "cell3.png")
    with pytest.raises(UserError) as caught:
        card_of(data)
    message = str(caught.value)
    assert "4 problems" in message
    assert "cell0.png is not an image" in message
    assert "cell1.png is not an image" in message
    assert "cell2.png is 9x8 but its image" in message
    assert "is 42x40: resize one, or take the pair out" in message
    assert "cell3.png has 16 bits where most images have 8" in message


def test_palettes_that_disagree_are_a_problem(tmp_path):
    data = write_pairs(tmp_path / "data", count=3)
    for index, path in enumerate(sorted((data / "masks").iterdir())):
        mask = Image.fromarray((pixels(path) > 0).astype(np.uint8))
        mask.putpalette([0, 0, 0, 200, 30, 30 if index < 2 else 31])
        mask.save(path)
    with pytest.raises(UserError, match=r"cell2.png has colour \[200, 30, 31\] for its value 1, where .*cell0.png"):
        card_of(data)


def test_the_palette_is_kept_where_all_masks_have_one(tmp_path):
    data = write_pairs(tmp_path / "data", count=2)
    for path in (data / "masks").iterdir():
        mask = Image.fromarray((np.asarray(Image.open(path)) > 0).astype(np.uint8))
        mask.putpalette([0, 0, 0, 200, 30, 30])
        mask.save(path)
    labels = card_of(data).labels
    assert labels.values == (0, 1)
    assert labels.palette is not None
    assert labels.palette[3:6] == (200, 30, 30)
