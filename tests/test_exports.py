"""What exports of other tools hold, from the command line: checked, trained on, predicted, and everything said."""

from __future__ import annotations

import json
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from conftest import TINY, assert_failed, json_lines
from conftest import pixels as pixels_of
from PIL import Image

from unet_cli.data.formats import extras

SIDE = 40


def scene(seed: int, height: int = SIDE, width: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """An RGB image of a bright and a brighter disc, and their numbers."""
    chance = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    labels = np.zeros((height, width), np.uint8)
    for number, middle in ((1, width // 4), (2, 3 * width // 4)):
        row = chance.integers(8, height - 8)
        labels[(rows - row) ** 2 + (columns - middle) ** 2 < 36] = number
    gray = 50 + 80 * labels + chance.normal(0, 8, labels.shape)
    return np.stack([gray, 0.9 * gray, 0.8 * gray], -1).clip(0, 255).astype(np.uint8), labels


def save(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def card_of(done) -> dict:
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_photographs_beside_their_masks_are_trained_on_and_the_masks_left_out_of_prediction(unet, tmp_path):
    for n in range(6):
        image, labels = scene(n)
        save(tmp_path / f"data/{n}.jpg", image)
        save(tmp_path / f"data/{n}.png", (labels > 0) * np.uint8(255))
    done = unet("train", "--data", "data", *TINY, "--epochs", 1, "--name", "run")
    assert done.returncode == 0, done.stderr
    (tmp_path / "data/notes.txt").write_text("of these")
    done = unet("predict", "--weights", "checkpoints/run", "--input", "data", "--output", "out")
    assert done.returncode == 0, done.stderr
    assert "left out: 6 masks in data, known from training, such as data/0.png" in done.stderr
    assert "passed over: 1 .txt" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{n}.png" for n in range(6)]
    done = unet("predict", "--weights", "checkpoints/run", "--input", "data/*.png", "--output", "masks")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "masks").iterdir())) == 6


def test_masks_in_a_folder_of_their_own_are_left_out_of_prediction(unet, trained, tmp_path):
    for n in range(2):
        image, labels = scene(n)
        save(tmp_path / f"set/images/{n}.png", image)
        save(tmp_path / f"set/masks/{n}.png", labels)
    done = unet("predict", "--weights", trained, "--input", "set")
    assert done.returncode == 0, done.stderr
    assert "left out: 2 masks in set" in done.stderr
    assert len([*(tmp_path / "set_masks").rglob("*.png")]) == 2
    done = unet("predict", "--weights", trained, "--input", "set/masks", "--output", "out")
    assert done.returncode == 0, done.stderr  # whoever gives masks alone means them
    assert "left out" not in done.stderr


@pytest.fixture
def half_empty(tmp_path):
    """Eight images; the masks of those without a disc are missing."""
    for n in range(8):
        image, labels = scene(n)
        if n % 4 == 0:
            image, labels = np.full_like(image, 50), None
            image[0, 0] = 60 + n
        save(tmp_path / f"data/{n}_sat.png", image)
        if labels is not None:
            save(tmp_path / f"data/{n}_mask.png", (labels > 0) * np.uint8(255))
    return tmp_path / "data"


def test_images_without_a_mask_are_asked_about_and_taken_as_background_by_a_flag(unet, half_empty):
    done = unet("check", "--data", "data")
    assert done.returncode == 1
    assert "2 images have no mask, or lack one" in done.stdout
    assert "--missing-masks background" in done.stdout
    assert_failed(unet("train", "--data", "data", *TINY), 1, "2 images have no mask", "--missing-masks background")
    done = unet("check", "--data", "data", "--missing-masks", "background", "--json")
    card = card_of(done)
    assert done.returncode == 0
    assert card["pairs"] == {"train": 8}
    assert card["empty_masks"] == ["no mask of data/0_sat.png", "no mask of data/4_sat.png"]
    assert [one["images"] for one in card["classes"]] == [8, 6]
    done = unet("train", "--data", "data", "--missing-masks", "background", *TINY, "--epochs", 1, "--name", "run")
    assert done.returncode == 0, done.stderr
    assert "2 images without a mask, or without one of them: taken as background" in done.stderr
    done = unet("evaluate", "--weights", "checkpoints/run", "--data", "data", "--missing-masks", "background")
    assert done.returncode in (0, 1)
    assert "Traceback" not in done.stderr


def test_background_is_the_set_s_own_value_and_colour_where_a_mask_is_missing(unet, half_empty, tmp_path):
    for path in half_empty.glob("*_mask.png"):
        colours = np.where(pixels_of(path)[..., None] > 0, np.uint8([200, 0, 0]), np.uint8([40, 0, 90]))
        Image.fromarray(colours.astype(np.uint8)).save(path)
    card = card_of(unet("check", "--data", "data", "--missing-masks", "background", "--json"))
    assert sorted(one["value"] for one in card["classes"]) == [0x28005A, 0xC80000]
    assert card["can_train"]


def test_a_mask_file_for_each_class_trains_as_classes(unet, tmp_path):
    for n in range(6):
        image, labels = scene(n)
        save(tmp_path / f"data/images/plot{n}.jpg", image, quality=95)
        for number, name in ((1, "leaf"), (2, "stem")):
            save(tmp_path / f"data/masks/plot{n}_class_{name}.png", (labels == number) * np.uint8(255))
    card = card_of(unet("check", "--data", "data", "--json"))
    assert [(one["name"], one["value"]) for one in card["classes"]] == [("background", 0), ("leaf", 1), ("stem", 2)]
    assert "leaf, stem overlap nowhere" in card["notes"]
    done = unet("train", "--data", "data", *TINY, "--epochs", 1, "--name", "run")
    assert done.returncode == 0, done.stderr
    assert "Dice of" in done.stderr
    done = unet("predict", "--weights", "checkpoints/run", "--input", "data/images", "--output", "out")
    assert done.returncode == 0, done.stderr
    assert set(np.unique(pixels_of(tmp_path / "out/plot0.png"))) <= {0, 1, 2}


def test_masks_of_half_the_size_are_said_once_and_brought_to_the_images(unet, tmp_path):
    for n in range(6):
        image, labels = scene(n, SIDE + n, SIDE + 5)
        save(tmp_path / f"data/images/{n}.png", image.repeat(2, 0).repeat(2, 1)[: 2 * SIDE + n])
        save(tmp_path / f"data/masks/{n}.png", labels[: SIDE + n // 2] * np.uint8(100))
    done = unet("check", "--data", "data", "--json")
    card = card_of(done)
    assert done.returncode == 0, card["problems"]
    [note] = [note for note in card["notes"] if "constant factor" in note]
    assert f"such as {SIDE + 5}x{SIDE} for {2 * (SIDE + 5)}x{2 * SIDE}" in note
    done = unet("train", "--data", "data", *TINY, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    save(tmp_path / "data/masks/0.png", scene(0)[1].repeat(2, 0).repeat(2, 1)[:, : 2 * (SIDE + 5)])
    card = card_of(unet("check", "--data", "data", "--json"))
    assert not card["can_train"]  # one that has the size of its image: the others are mistakes
    for n in range(6):
        image, labels = scene(n)
        save(tmp_path / f"small/images/{n}.png", image[::2, ::2])
        save(tmp_path / f"small/masks/{n}.png", labels[:: 1 + 3 * (n == 5), :: 1 + 3 * (n == 5)])
    card = card_of(unet("check", "--data", "small", "--json"))
    [problem] = card["problems"]
    assert "masks/5.png is 10x10 but its image small/images/5.png is 20x20" in problem["text"]


def test_an_exif_turn_that_keeps_the_size_is_said_with_the_way_out(unet, tmp_path):
    exif = Image.Exif()
    for n in range(4):
        exif[0x0112] = 3 if n % 2 else 6
        image, labels = scene(n)
        save(tmp_path / f"data/images/{n}.jpg", image, exif=exif, quality=95)
        save(tmp_path / f"data/masks/{n}.png", (labels > 0) * np.uint8(255))
    [note] = card_of(unet("check", "--data", "data", "--json"))["notes"]
    assert note.startswith("rotated upright, to the same size, according to the EXIF orientation in 4 images")
    assert "if the masks were drawn on the pixels as stored" in note


def test_a_dropped_band_and_hidden_colours_are_said_once_with_the_flag(unet, tmp_path):
    for n in range(4):
        image, labels = scene(n)
        alpha = np.full((SIDE, SIDE, 1), 255, np.uint8)
        alpha[:5] = 0
        save(tmp_path / f"data/images/{n}.png", np.concatenate([image, alpha], axis=-1))
        save(tmp_path / f"data/masks/{n}.png", (labels > 0) * np.uint8(255))
    notes = card_of(unet("check", "--data", "data", "--json"))["notes"]
    assert "alpha was dropped in 4 images (the last channel; --keep-alpha keeps it)" in notes
    assert any(note.startswith("colours hidden under transparent pixels show in 4 images") for note in notes)


def test_photographs_of_phones_are_read_or_counted_with_what_to_install(unet, trained, tmp_path):
    for n in range(3):
        save(tmp_path / f"photos/{n}.jpg", scene(n)[0])
    for n in range(3, 5):
        (tmp_path / f"photos/{n}.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(2000))
    (tmp_path / "photos/5.jxl").write_bytes(imagecodecs.jpegxl_encode(scene(5)[0], lossless=True))
    (tmp_path / "photos/more.zip").write_bytes(b"PK")
    done = unet("predict", "--weights", trained, "--input", "photos", "--json")
    assert len([line for line in json_lines(done.stdout) if "output" in line]) == 4
    assert "passed over: 1 .zip: unpack it" in done.stderr
    assert done.returncode == 3
    if not extras.is_installed(extras.HEIF):
        assert "2 .HEIC files can't be read (pip install pillow-heif, extra `heif`)" in done.stderr


def test_slides_in_a_folder_are_predicted_in_tiles_to_tiff(unet, trained, tmp_path):
    (tmp_path / "slides").mkdir()
    for n, extension in enumerate(("svs", "ndpi", "scn", "qptiff")):
        image = scene(n, 192, 160)[0]
        with tifffile.TiffWriter(tmp_path / f"slides/case{n}.{extension}") as writer:
            options = {"tile": (64, 64), "photometric": "rgb", "compression": "jpeg"}
            writer.write(image, subfiletype=0, **options)
            writer.write(image[::2, ::2].copy(), subfiletype=1, **options)
    done = unet("predict", "--weights", trained, "--input", "slides", "--mode", "tile", "--output", "out")
    assert done.returncode == 0, done.stderr
    masks = sorted((tmp_path / "out").iterdir())
    assert [mask.name for mask in masks] == [f"case{n}.tif" for n in range(4)]
    assert {tifffile.imread(mask).shape for mask in masks} == {(192, 160)}


@pytest.mark.parametrize(("image", "mask"), [("images/{}.png", "masks/{}.png"), ("{}.png", "{}_mask.png")])
def test_swapped_images_and_masks_are_asked_about_with_the_flags(unet, tmp_path, image, mask):
    for n in range(4):
        pixels, labels = scene(n)
        save(tmp_path / "data" / mask.format(n), pixels[..., 0])
        save(tmp_path / "data" / image.format(n), labels * np.uint8(100))
    done = unet("check", "--data", "data")
    assert_failed(done, 1, "are images and masks swapped?", "holds 3 values, as masks do")
    flags = done.stderr.split("say it with ")[1].split(";")[0].replace("'", "").split(" ")
    right = unet("check", "--data", "data", *flags, "--json")
    assert right.returncode == 0, right.stderr
    assert len(card_of(right)["classes"]) == 3
