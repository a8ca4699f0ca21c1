"""The data set card: what is found, and every problem at once."""

import shutil

import numpy as np
import pytest
from conftest import pixels, write_pairs
from PIL import Image

from unet_cli.config.data import DataConfig
from unet_cli.data.check.card import Card
from unet_cli.data.check.examine import examine
from unet_cli.data.check.normalization import preprocessing_of
from unet_cli.data.folder.layout import find_layout
from unet_cli.data.imagefile import read_image
from unet_cli.errors import UserError
from unet_cli.system.console import Console

QUIET = Console(quiet=True)


def card_of(folder, **options) -> Card:
    return examine(find_layout(folder), DataConfig(data=folder, **options), QUIET)


def each(folder, change) -> None:
    """Replace every image in a folder by what `change` makes of its array and number."""
    for index, path in enumerate(sorted(folder.iterdir())):
        Image.fromarray(change(pixels(path), index)).save(path)


def test_it_says_what_is_there(data):
    text = "\n".join(card_of(data).describe())
    assert "6 pairs (train 6)" in text
    assert "6 sizes, sides of 40 to 45 pixels; RGB, 8 bits, values " in text
    assert "2 classes (0 is background, 255 foreground)" in text
    foreground = np.mean(np.concatenate([pixels(path).ravel() > 0 for path in (data / "masks").iterdir()]))
    assert f"foreground {foreground:.1%}" in text


def test_statistics_are_those_of_the_training_part_alone(data):
    card = card_of(data)
    train = card.pairs("train")[:4]
    values = np.concatenate([read_image(pair.image).reshape(3, -1) for pair in train], axis=1)
    preprocessing = preprocessing_of(card, train, size=64)
    assert np.allclose(preprocessing.mean, values.mean(1))
    assert np.allclose(preprocessing.std, values.std(1))


def test_gray_stored_as_rgb_is_one_channel_and_a_mixture_is_three(data):
    for path in (data / "images").iterdir():
        Image.open(path).convert("L").convert("RGB").save(path)
    card = card_of(data)
    assert card.in_channels == 1
    assert "gray images stored as RGB are trained on as one channel" in "\n".join(card.describe())
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))
    colour.save(data / "images" / "cell0.png")
    card = card_of(data)
    assert card.in_channels == 3
    assert "5 gray images among 6: gray is repeated to three channels" in "\n".join(card.describe())
    gray = preprocessing_of(card, card.pairs("train")[1:], size=64)
    assert len(gray.mean) == 3
    assert len(set(gray.mean)) == 1


def test_sixteen_bit_images(data):
    each(data / "images", lambda image, _: image[..., 1].astype(np.uint16) * 16 + 33_000)
    card = card_of(data)
    assert (card.dtype, card.in_channels) == ("uint16", 1)
    preprocessing = preprocessing_of(card, card.pairs("train"), size=64)
    assert 33_000 < preprocessing.mean[0] < 37_100


def test_floating_point_images(data):
    for path in sorted((data / "images").iterdir()):
        np.save(path.with_suffix(".npy"), pixels(path)[..., 0].astype(np.float64) / 1e4 - 0.01)
        path.unlink()
    card = card_of(data)
    assert card.dtype == "float32"
    assert preprocessing_of(card, card.pairs("train"), size=64).std[0] < 0.01


def test_alpha_is_dropped_unless_kept(data):
    each(data / "images", lambda image, _: np.dstack([image, image[..., :1]]))
    card = card_of(data)
    assert card.in_channels == 3
    assert "alpha" in "\n".join(card.describe())
    card = card_of(data, keep_alpha=True)
    assert card.in_channels == 4
    assert preprocessing_of(card, card.pairs("train"), size=64).keep_alpha


def test_images_that_differ_more_than_their_pixels_are_normalised_one_by_one(data):
    card = card_of(data)
    assert preprocessing_of(card, card.pairs("train"), size=64).intensity == "dataset"
    each(data / "images", lambda image, index: (image // 8 + 200 * (index % 2)).astype(np.uint8))
    card = card_of(data)
    assert preprocessing_of(card, card.pairs("train"), size=64).intensity == "image"
    assert preprocessing_of(card, card.pairs("train"), size=64, normalize="dataset").intensity == "dataset"
    ranged = preprocessing_of(card, card.pairs("train"), size=64, normalize="range")
    assert (ranged.mean, ranged.std) == ((0.0,) * 3, (255.0,) * 3)


def test_constant_images_do_not_divide_by_zero(data):
    each(data / "images", lambda image, _: np.full_like(image[..., 0], 7))
    card = card_of(data)
    assert preprocessing_of(card, card.pairs("train"), size=64).std == (1.0,)


def test_every_problem_is_listed_at_once_and_can_be_left_out(tmp_path):
    data = write_pairs(tmp_path / "data", count=7)
    (data / "images" / "cell0.png").write_text("text")
    (data / "masks" / "cell1.png").write_bytes(b"")
    Image.new("L", (9, 8)).save(data / "masks" / "cell2.png")
    Image.fromarray(np.zeros((40, 43), np.uint16)).save(data / "images" / "cell3.png")
    (data / "masks" / "cell4.png").unlink()
    with pytest.raises(UserError) as caught:
        card_of(data).refuse()
    message = str(caught.value)
    assert "5 problems" in message
    assert "cell0.png is not an image" in message
    assert "cell1.png is empty" in message
    assert "cell2.png is 9x8 but its image" in message
    assert "is 42x40: resize one, or leave the pair out with --skip-bad" in message
    assert "cell3.png holds uint16 where most images hold uint8" in message
    assert "cell4.png" in message
    card = card_of(data, skip_bad=True)
    card.refuse()
    assert [pair.name for pair in card.pairs("train")] == ["cell5", "cell6"]
    assert sum("left out: " in line for line in card.describe()) == 5


def test_strange_colours_are_listed_with_counts_and_a_file(data):
    def paint(mask, index):
        colours = np.zeros((*mask.shape, 3), np.uint8)
        colours[mask > 0] = (255, 0, 0)
        if index == 3:
            colours[0, :5] = (123, 45, 67)
        return colours

    each(data / "masks", paint)
    with pytest.raises(UserError, match=r"#7b2d43 \(5 pixels, as in .*cell3.png\)"):
        card_of(data).refuse()
    assert len(card_of(data, skip_bad=True).pairs("train")) == 5


def test_values_of_the_validation_part_that_training_does_not_have_are_a_problem(tmp_path):
    root = tmp_path / "data"
    write_pairs(root / "train")
    write_pairs(root / "val", count=2)
    each(root / "val" / "masks", lambda mask, _: mask // 2)
    with pytest.raises(UserError, match="2 masks with values of no class: the value 127"):
        card_of(root).refuse()


def test_the_share_of_pixels_between_the_values_of_soft_masks(data):
    for path in (data / "masks").iterdir():
        Image.open(path).resize((40, 40), Image.Resampling.BILINEAR).save(path)
    each(data / "images", lambda image, _: image[:40, :40])
    assert "of the pixels lie between 0 and 255" in "\n".join(card_of(data).describe())


def test_palettes_that_disagree_are_read_by_colour(tmp_path):
    data = write_pairs(tmp_path / "data", count=3)
    for index, path in enumerate(sorted((data / "masks").iterdir())):
        mask = Image.fromarray(((pixels(path) > 0) ^ (index == 2)).astype(np.uint8))
        mask.putpalette([0, 0, 0, 200, 30, 30] if index < 2 else [200, 30, 30, 0, 0, 0])
        mask.save(path)
    labels = card_of(data).labels
    assert (labels.kind, labels.values) == ("colours", (0, 0xC81E1E))


def test_the_palette_is_kept_where_all_masks_have_one(tmp_path):
    data = write_pairs(tmp_path / "data", count=2)
    for path in (data / "masks").iterdir():
        mask = Image.fromarray((pixels(path) > 0).astype(np.uint8))
        mask.putpalette([0, 0, 0, 200, 30, 30])
        mask.save(path)
    labels = card_of(data).labels
    assert labels.values == (0, 1)
    assert labels.palette == (0, 0, 0, 200, 30, 30)


def test_the_training_part_decides_and_the_rest_is_judged_by_it(tmp_path):
    root = tmp_path / "data"
    write_pairs(root / "train", count=2)
    write_pairs(root / "test", count=5)
    each(root / "train" / "images", lambda image, _: image[..., 0])
    card = card_of(root)
    assert card.in_channels == 1
    each(root / "test" / "images", lambda image, _: image[..., 0].astype(np.uint16))
    card = card_of(root)
    assert [problem.kind for problem in card.refusals] == ["depth"] * 5
    assert len(card.pairs("train")) == 2


def test_pairs_of_a_val_folder_have_names_of_their_own(tmp_path):
    for split in ("train", "val"):
        write_pairs(tmp_path / "data" / split, count=2)
    card = card_of(tmp_path / "data")
    assert [pair.name for split in ("train", "val") for pair in card.pairs(split)] == [
        "train/cell0", "train/cell1", "val/cell0", "val/cell1",
    ]  # fmt: skip


def test_a_split_that_would_be_empty_is_refused_even_when_bad_pairs_are_left_out(tmp_path):
    root = tmp_path / "data"
    for split in ("train", "val"):
        write_pairs(root / split, count=2)
    each(root / "val" / "masks", lambda mask, _: mask // 2)
    with pytest.raises(UserError, match="No pair of the val folder is left"):
        card_of(root, skip_bad=True)


def test_sizes_are_height_and_width(data):
    card = card_of(data)
    pairs = card.pairs("train")
    assert card.sizes(pairs[::-1]) == [(40, 45 - index) for index in range(6)]


def test_the_mode_is_part_of_the_preprocessing(data):
    card = card_of(data)
    pairs = card.pairs("train")
    assert preprocessing_of(card, pairs, size=64).mode == "resize"
    assert preprocessing_of(card, pairs, size=64, mode="tile").mode == "tile"


def test_the_fingerprint_is_that_of_names_and_contents_wherever_they_lie(data, tmp_path):
    fingerprint = card_of(data).fingerprint()
    assert len(fingerprint) == 16
    assert int(fingerprint, 16)
    moved = shutil.copytree(data, tmp_path / "elsewhere" / "moved")
    card = card_of(moved)
    assert card.fingerprint() == fingerprint
    for part in card.known.values():
        part.reverse()
    assert card.fingerprint() == fingerprint


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_another_pixel_is_another_fingerprint(data, folder):
    fingerprint = card_of(data).fingerprint()
    path = data / folder / "cell3.png"
    changed = pixels(path).copy()
    changed[4, 9] = 255 - changed[4, 9]  # which no thumbnail shows
    Image.fromarray(changed).save(path)
    assert card_of(data).fingerprint() != fingerprint


def test_another_name_is_another_fingerprint(data):
    fingerprint = card_of(data).fingerprint()
    for folder in ("images", "masks"):
        (data / folder / "cell3.png").rename(data / folder / "cell9.png")
    assert card_of(data).fingerprint() != fingerprint
