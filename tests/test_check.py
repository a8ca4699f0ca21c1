"""`unet check` as a user runs it: the card, the exit code, JSON, pictures, and what it says to do next."""

import json

import numpy as np
from conftest import assert_failed, pixels
from PIL import Image


def test_the_card_of_good_data(unet, data):
    done = unet("check", "--data", "data")
    assert done.returncode == 0, done.stderr
    assert "6 pairs (train 6)" in done.stdout
    assert "background" in done.stdout
    assert "6 of 6" in done.stdout
    assert "empty masks: 0" in done.stdout
    assert done.stdout.rstrip().endswith("unet train --data data")


def test_problems_stop_with_1_and_are_all_there(unet, data):
    (data / "images" / "cell0.png").write_text("text")
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(data / "masks" / "cell1.png")
    (data / "masks" / "cell2.png").unlink()
    done = unet("check", "--data", "data")
    assert done.returncode == 1
    for name in ("cell0.png is not an image", "cell1.png is 8x9", "cell2.png"):
        assert name in done.stdout
    assert done.stdout.rstrip().endswith("unet train --data data --skip-bad")
    assert unet("check", "--data", "data", "--skip-bad").returncode == 0


def test_json_is_one_document(unet, data):
    (data / "images" / "cell0.png").write_text("text")
    done = unet("check", "--data", "data", "--json")
    assert done.returncode == 1
    card = json.loads(done.stdout)
    assert card["pairs"] == {"train": 5}
    assert card["can_train"] is False
    assert card["problems"][0]["stops_training"] is True
    assert card["classes"][1]["name"] == "foreground"


def test_empty_masks_are_counted(unet, data):
    mask = data / "masks" / "cell3.png"
    Image.fromarray(np.zeros_like(pixels(mask))).save(mask)
    done = unet("check", "--data", "data")
    assert "empty masks: 1, such as data/masks/cell3.png" in done.stdout
    assert "5 of 6" in done.stdout


def test_pictures(unet, data, tmp_path):
    done = unet("check", "--data", "data", "--pictures", "look")
    assert done.returncode == 0, done.stderr
    sheet = pixels(tmp_path / "look" / "contact_sheet.png")
    assert sheet.ndim == 3
    assert sheet.shape[1] > 1000


def test_nothing_that_a_card_could_be_made_of(unet, data, tmp_path):
    for path in (data / "images").iterdir():
        path.write_text("text")
    assert_failed(unet("check", "--data", "data"), 1, "6 problems", "cell5.png is not an image")
    assert_failed(unet("check", "--data", "nowhere"), 1, "nowhere does not exist")
    assert_failed(unet("check"), 2, "--data DIR")


def test_without_a_terminal_progress_is_a_line_now_and_then(unet, data):
    done = unet("check", "--data", "data")
    assert "\r" not in done.stderr


def test_without_a_card_there_still_is_one_document(unet, data):
    done = unet("check", "--data", "nowhere", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["can_train"] is False


def test_one_pair_can_be_trained_on_only_without_validation(unet, data):
    for index in range(1, 6):
        for part in ("images", "masks"):
            (data / part / f"cell{index}.png").unlink()
    done = unet("check", "--data", "data")
    assert done.stdout.rstrip().endswith("unet train --data data --val-fraction 0")


def test_the_contact_sheet_replaces_no_file_of_the_user_and_stays_out_of_the_data(unet, data, tmp_path):
    (tmp_path / "look").mkdir()
    mine = Image.new("RGB", (9, 9))
    mine.save(tmp_path / "look" / "contact_sheet.png")
    assert_failed(unet("check", "--data", "data", "--pictures", "look"), 1, "was not written by unet")
    assert pixels(tmp_path / "look" / "contact_sheet.png").shape == (9, 9, 3)
    assert_failed(unet("check", "--data", "data", "--pictures", "data/look"), 1, "inside the data")


def test_quiet_still_prints_errors(unet, data):
    (data / "images" / "cell0.png").write_text("text")
    done = unet("check", "--data", "data", "--quiet")
    assert_failed(done, 1, "cell0.png is not an image")
    assert done.stdout == ""


def test_a_mask_on_its_side_is_told(unet, data):
    mask = data / "masks" / "cell3.png"
    Image.fromarray(pixels(mask).T.copy()).save(mask)
    assert "is rotated by 90 degrees" in unet("check", "--data", "data").stdout
