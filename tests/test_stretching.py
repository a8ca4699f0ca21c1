"""What stretching costs masks, worked out by hand where that can be, and the choice between stretching and tiles."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import TINY
from PIL import Image
from test_card import QUIET, card_of

from unet_cli.checkpoint import load_checkpoint
from unet_cli.config.data import DataConfig
from unet_cli.config.model import IGNORED
from unet_cli.data.check import stretching
from unet_cli.data.check.memory import cache_folder
from unet_cli.data.check.stretching import ClassCost, StretchCost, compare_with_stretched, mode_for, stretch_cost
from unet_cli.data.source import spread

COST = StretchCost(
    512, pairs=20, halved=0, measured=20, classes=(ClassCost("cell", 0.999, 0.998, 20), ClassCost("rim", 0.7, 0.6, 9))
)


def line(side: int, width: int = 1, step: int = 64) -> np.ndarray:
    """Vertical lines, the first pixel of each at an even place."""
    mask = np.zeros((side, side), np.uint8)
    for place in range(step // 2, side, step):
        mask[:, place : place + width] = 1
    return mask


def disc(side: int, radius: int) -> np.ndarray:
    rows, columns = np.ogrid[:side, :side]
    return ((rows - side // 2) ** 2 + (columns - side // 2) ** 2 < radius**2).astype(np.uint8)


def write_masks(folder, masks) -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    noise = np.random.default_rng(0)
    for index, mask in enumerate(masks):
        image = noise.integers(0, 60, mask.shape, np.uint8) + mask * np.uint8(150)
        Image.fromarray(image).save(folder / "images" / f"{index:03}.png")
        Image.fromarray(mask * np.uint8(255)).save(folder / "masks" / f"{index:03}.png")


def cost_of(folder, size: int) -> StretchCost:
    return stretch_cost(card_of(folder), size, DataConfig(data=folder), QUIET)


def test_a_mask_of_the_network_s_size_loses_nothing():
    assert compare_with_stretched(line(64), 64, 2) == ({0: 1.0, 1: 1.0}, False)


def test_lines_as_wide_as_a_pixel_of_the_stretched_mask_survive_and_thinner_ones_vanish():
    # Halved, a line of one pixel fills half of a pixel there, and is above a half nowhere on the way back. One of two
    # pixels is one whole pixel: 1 in its middle, and back at 0.25 and 0.75 of the way to the next, so above a half on
    # just its own two.
    assert compare_with_stretched(line(128), 64, 2)[0][1] == 0.0
    assert compare_with_stretched(line(128, width=2), 64, 2)[0] == {0: 1.0, 1: 1.0}


def test_a_pixel_there_is_the_mean_over_its_area_also_where_it_cuts_pixels_here():
    # Six pixels to four: each is one and a half wide.
    column = np.array([0, 1, 0, 0, 1, 1])
    assert np.allclose(stretching._averaging(6, 4) @ column, [1 / 3, 1 / 3, 1 / 3, 1])
    assert np.allclose(stretching._averaging(6, 12) @ column, np.repeat(column, 2))


def test_a_thin_line_scores_far_below_a_fat_disc():
    thin, fat = (compare_with_stretched(mask, 512, 2)[0][1] for mask in (line(1024), disc(1024, 300)))
    assert thin < 0.1
    assert fat > 0.999


def test_thin_background_between_objects_counts_too():
    dice, _ = compare_with_stretched(1 - line(128), 64, 2)
    assert dice[0] == 0.0
    assert dice[1] > 0.98


def test_height_and_width_are_stretched_each_by_its_own():
    mask = line(128)[:64]  # 64 rows, which stay as they are, and 128 columns
    assert compare_with_stretched(mask, 64, 2)[0][1] == 0.0
    assert compare_with_stretched(np.ascontiguousarray(mask.T), 64, 2)[0][1] == 0.0
    assert compare_with_stretched(line(128)[:, ::2].copy(), 64, 2)[0][1] == 1.0


def test_ignored_pixels_count_nowhere():
    mask = disc(128, 40)
    mask[:, 20:30] = IGNORED
    dice, _ = compare_with_stretched(mask, 64, 2)
    assert sorted(dice) == [0, 1]
    mask = line(128, width=2)
    mask[:, 1::64] = IGNORED  # far from the lines; what becomes of it is neither right nor wrong
    assert compare_with_stretched(mask, 64, 2)[0] == {0: 1.0, 1: 1.0}
    assert compare_with_stretched(np.full((128, 128), IGNORED, np.uint8), 64, 2) == ({}, False)


def test_a_class_counts_only_in_masks_that_hold_it(tmp_path):
    masks = [disc(64, 20) for _ in range(3)]
    masks.append(np.zeros((64, 64), np.uint8))
    write_masks(tmp_path / "d", masks)
    cost = cost_of(tmp_path / "d", 32)
    assert (cost.measured, cost.pairs) == (4, 4)
    assert [(one.name, one.masks) for one in cost.classes] == [("background", 4), ("foreground", 3)]
    assert cost.worst.name == "foreground"
    assert cost.worst.median > 0.95


def test_the_worst_tenth_is_the_tenth_percentile(tmp_path):
    write_masks(tmp_path / "d", [disc(128, 40)] * 4 + [line(128)])
    foreground = cost_of(tmp_path / "d", 64).classes[1]
    whole = compare_with_stretched(disc(128, 40), 64, 2)[0][1]
    assert foreground.median == pytest.approx(whole)
    assert foreground.worst_tenth == pytest.approx(0.4 * whole)  # between the first and the second of five


def test_objects_larger_than_a_tile_are_found_and_nets_that_span_an_image_are_none():
    # A disc as wide as a tile of 64 pixels has room for the square of 45 that fits into it.
    assert compare_with_stretched(disc(256, 40), 64, 2)[1]
    assert not compare_with_stretched(disc(256, 25), 64, 2)[1]
    assert not compare_with_stretched(line(256, width=12, step=64), 64, 2)[1]
    assert not compare_with_stretched(np.zeros((256, 256), np.uint8), 64, 2)[1]  # background is no object


def test_where_no_image_is_larger_nothing_is_read(data, monkeypatch):
    monkeypatch.setattr(stretching, "read_mask", None)
    cost = cost_of(data, 45)
    assert cost == StretchCost(45, pairs=6, halved=0)
    assert mode_for("auto", cost) == ("resize", "")
    assert "No image is larger than 45x45" in cost.describe()


def test_at_most_200_masks_are_looked_at_and_that_is_said(tmp_path, monkeypatch):
    write_masks(tmp_path / "d", [disc(40, 12)] * 7)
    monkeypatch.setattr(stretching, "MAX_MASKS", 3)
    cost = cost_of(tmp_path / "d", 32)
    assert (cost.measured, cost.pairs) == (3, 7)
    assert "3 of 7 masks" in cost.describe()
    assert [pair.name for pair in spread(card_of(tmp_path / "d").pairs("train"), 3)] == ["000", "002", "004"]


def test_it_is_remembered_until_a_mask_changes(tmp_path, monkeypatch):
    write_masks(tmp_path / "d", [disc(64, 20)] * 3)
    first = cost_of(tmp_path / "d", 32)
    with monkeypatch.context() as patched:
        patched.setattr(stretching, "read_mask", None)
        assert cost_of(tmp_path / "d", 32) == first
        with pytest.raises(TypeError):
            cost_of(tmp_path / "d", 48)
    Image.fromarray(line(64) * np.uint8(255)).save(tmp_path / "d" / "masks" / "001.png")
    second = cost_of(tmp_path / "d", 32)
    assert second.worst.worst_tenth < first.worst.worst_tenth
    for path in cache_folder().glob("stretching-*"):
        path.write_text('{"cut')
    assert cost_of(tmp_path / "d", 32) == second


def test_auto_tiles_where_the_worst_class_is_poor_and_says_so_with_the_figure():
    mode, said = mode_for("auto", COST)
    assert mode == "tile"
    assert said.startswith(
        "Masks stretched to 512x512 and back keep a Dice of 0.700 (class rim, worst tenth 0.600; 20 masks): "
        "training on crops"
    )
    mode, said = mode_for("auto", replace(COST, classes=COST.classes[:1]))
    assert mode == "resize"
    assert said.endswith("keep a Dice of 0.999 (class cell, worst tenth 0.998; 20 masks): images are stretched")


def test_stretching_that_was_asked_for_is_advised_against_where_it_is_poor():
    assert mode_for("resize", COST)[0] == "resize"
    assert "--mode tile" in mode_for("resize", COST)[1]
    assert "--mode tile" not in mode_for("resize", replace(COST, classes=COST.classes[:1]))[1]


def test_a_network_for_whole_images_is_stretched_whatever_it_costs():
    mode, said = mode_for("auto", COST, whole_only="unet-dilated-published")
    assert mode == "resize"
    assert said.endswith("but unet-dilated-published needs whole images")


def test_images_of_twice_the_size_make_tiles_likelier_and_objects_larger_than_a_tile_less_likely():
    def mode(dice: float, **others: int) -> str:
        return mode_for("auto", replace(COST, classes=(ClassCost("cell", dice, dice, 20),), **others))[0]

    above, below = 0.001, -0.001
    assert mode(stretching.POOR + above) == mode(stretching.POOR + above, halved=9) == "resize"
    assert mode(stretching.POOR + above, halved=10) == mode(stretching.POOR + below) == "tile"
    assert mode(stretching.POOR_OF_HALVED + above, halved=20) == "resize"
    assert mode(stretching.POOR + below, with_large=9) == "tile"
    assert mode(stretching.POOR + below, with_large=10) == "resize"
    assert mode(stretching.POOR_OF_LARGE + above, with_large=20, halved=20) == "resize"
    assert mode(stretching.POOR_OF_LARGE + below, with_large=20) == "tile"


def test_check_says_what_stretching_costs(unet, tmp_path):
    write_masks(tmp_path / "thin", [line(600)] * 2)
    done = unet("check", "--data", "thin")
    assert done.returncode == 0, done.stderr
    assert "mode     Masks stretched to 512x512 and back keep a Dice of 0." in done.stdout
    assert "training on crops" in done.stdout
    found = json.loads(unet("check", "--data", "thin", "--json").stdout)["stretching"]
    assert (found["mode"], found["size"], found["measured"], found["pairs"]) == ("tile", 512, 2, 2)
    assert found["classes"][1]["name"] == "foreground"
    assert found["classes"][1]["median"] < 0.9


def test_check_says_that_nothing_is_lost_where_images_are_small(unet, data):
    assert "mode     No image is larger than 512x512" in unet("check", "--data", "data").stdout


def test_training_follows_the_masks_unless_told_otherwise(unet, tmp_path):
    write_masks(tmp_path / "thin", [line(72)] * 5)
    write_masks(tmp_path / "fat", [disc(40, 12)] * 5)
    train = ["train", *TINY, "--epochs", 1, "--name"]
    done = unet(*train, "thin", "--data", "thin")
    assert done.returncode == 0, done.stderr
    assert "Masks stretched to 32x32 and back keep a Dice of 0.000 (class foreground, worst tenth 0.000; 5 masks" in (
        done.stderr
    )
    assert "cropped to 32x32" in done.stderr
    assert load_checkpoint(tmp_path / "checkpoints" / "thin" / "best.pth").preprocessing.mode == "tile"
    more = unet("train", "--resume", "checkpoints/thin", "--epochs", 2)
    assert more.returncode == 0, more.stderr
    assert "cropped to 32x32" in more.stderr
    asked = unet(*train, "asked", "--data", "thin", "--mode", "resize")
    assert "--mode tile trains on crops" in asked.stderr
    assert "Images are stretched to 32x32" in asked.stderr
    done = unet(*train, "fat", "--data", "fat")
    assert "5 masks): images are stretched" in done.stderr
    assert load_checkpoint(tmp_path / "checkpoints" / "fat" / "best.pth").preprocessing.mode == "resize"


def test_a_network_that_takes_no_crops_is_trained_all_the_same(unet, tmp_path):
    write_masks(tmp_path / "thin", [line(300)] * 4)
    done = unet(
        "train", "--data", "thin", "--model", "unet-dilated-published", "--width", 1, "--size", 240, "--epochs", 1,
        "--batch-size", 2, "--device", "cpu", "--precision", "float32",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "but unet-dilated-published needs whole images" in done.stderr


def test_all_folds_are_trained_in_one_mode(unet, tmp_path):
    # Three fat ones and three thin ones: each fold's own training part would tell another story.
    write_masks(tmp_path / "d", [disc(64, 20)] * 3 + [line(64)] * 3)
    done = unet("train", "--data", "d", *TINY, "--folds", 3, "--fold", "all", "--epochs", 1, "--name", "cv")
    assert done.returncode == 0, done.stderr
    modes = {load_checkpoint(path).preprocessing.mode for path in (tmp_path / "checkpoints" / "cv").glob("*/best.pth")}
    assert len(modes) == 1
