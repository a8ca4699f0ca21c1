"""Whether images have a way up: found on drawn sets that have one and on others that only look as if they had, and
obeyed by training, by what goes on with it, and by prediction."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, Run, pixels
from PIL import Image
from scipy.ndimage import gaussian_filter
from test_card import card_of

from unet_cli.checkpoint import load_checkpoint
from unet_cli.data.check.orientation import MIN_PAIRS, WayUp, way_up

SIDE, COUNT = 48, 24
Drawn = tuple[np.ndarray, np.ndarray]


def street(draw: np.random.Generator) -> Drawn:
    """Bright sky over dark ground, houses on the horizon and cars before them; the mask is the cars."""
    horizon = int(draw.integers(16, 32))
    image = np.full((SIDE, SIDE), draw.uniform(140, 230))
    image[horizon:] = draw.uniform(40, 130)
    for left in draw.integers(0, SIDE, 5):
        image[draw.integers(4, horizon) : horizon, left : left + 8] = draw.uniform(20, 220)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for left in draw.integers(0, SIDE - 6, 3):
        top = draw.integers(horizon, SIDE - 5)
        image[top : top + 5, left : left + 7], mask[top : top + 5, left : left + 7] = draw.uniform(20, 250), 1
    return image + draw.normal(0, 15, image.shape), mask


def blobs(draw: np.random.Generator) -> Drawn:
    """Of no direction; the mask is the bright ones."""
    height = gaussian_filter(draw.normal(size=(SIDE, SIDE)), 3)
    mask = (height > 0.5 * height.std()).astype(np.uint8)
    return 60.0 + 80 * mask + draw.normal(0, 10, mask.shape), mask


def blobs_in_light_from_above(draw: np.random.Generator) -> Drawn:
    image, mask = blobs(draw)
    return image * np.linspace(1.4, 0.6, SIDE)[:, None], mask


def still_camera(draw: np.random.Generator) -> Drawn:
    """The same blobs, a little otherwise in each image."""
    height = gaussian_filter(np.random.default_rng(1).normal(size=(SIDE, SIDE)), 4)
    change = gaussian_filter(draw.normal(size=(SIDE, SIDE)), 3)
    height = height / height.std() + 0.5 * change / change.std()
    return 100 + 30 * height, (height > 0.5).astype(np.uint8)


def write(folder: Path, kind: Callable[[np.random.Generator], Drawn], count: int = COUNT) -> Path:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    draw = np.random.default_rng(0)
    for index in range(count):
        image, mask = kind(draw)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{index:03}.png")
        Image.fromarray(mask * np.uint8(255)).save(folder / "masks" / f"{index:03}.png")
    return folder


def found(folder: Path) -> WayUp:
    return way_up(card_of(folder).known["train"])


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("streets") / "data", street)


def test_streets_have_a_way_up(streets):
    up = found(streets)
    assert up.orientation == "upright"
    assert min(up.upside_down, up.quarter_turn) > 0.9
    assert up.sidedness < 0.1


def test_blobs_have_none(tmp_path):
    up = found(write(tmp_path / "d", blobs))
    assert up.orientation == "any"
    assert max(up.upside_down, up.quarter_turn) < 0.75


def test_light_from_one_side_is_no_way_up(tmp_path):
    up = found(write(tmp_path / "d", blobs_in_light_from_above))
    assert up.orientation == "any"
    assert max(up.upside_down, up.quarter_turn) < 0.75


def test_one_scene_again_and_again_has_none_though_every_copy_can_be_told(tmp_path):
    up = found(write(tmp_path / "d", still_camera))
    assert (up.upside_down, up.quarter_turn) == (1, 1)
    assert up.orientation == "any"
    assert "left and right differ as well" in up.describe()


def test_a_square_in_the_middle_has_none(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[16:-16, 16:-16] = 1
    up = found(write(tmp_path / "d", lambda _: (100.0 * mask, mask)))
    assert (up.upside_down, up.quarter_turn, up.orientation) == (0.5, 0.5, "any")


def test_of_few_pairs_nothing_is_said(tmp_path):
    up = found(write(tmp_path / "few", street, MIN_PAIRS - 1))
    assert up.orientation == "any"
    assert "Too few pairs (19)" in up.describe()
    assert found(write(tmp_path / "enough", street, MIN_PAIRS)).orientation == "upright"


@pytest.mark.parametrize(
    ("up", "orientation"),
    [
        (WayUp(50, 0.8, 0.8, 0.25), "upright"),
        (WayUp(50, 0.79, 1.0, 0.0), "any"),
        (WayUp(50, 1.0, 0.79, 0.0), "any"),
        (WayUp(50, 1.0, 1.0, 0.26), "any"),
    ],
)
def test_both_copies_have_to_be_told_and_both_sides_to_be_alike(up, orientation):
    assert up.orientation == orientation


def test_one_image_that_lies_on_its_head_among_many_changes_nothing(tmp_path):
    folder = write(tmp_path / "d", street)
    for part in ("images", "masks"):
        path = folder / part / "007.png"
        Image.fromarray(pixels(path)[::-1]).save(path)
    assert found(folder).orientation == "upright"


def test_check_says_it_in_words_and_as_json(unet: Run, streets):
    words, report = (unet("check", "--data", streets, *flags).stdout for flags in ((), ("--json",)))
    assert "  way up   Images have a way up (an upside-down copy is distinguished in 100 of 100, " in words
    assert "no vertical flips or quarter turns; --orientation any has them\n" in words
    assert json.loads(report)["way_up"]["orientation"] == "upright"
    assert json.loads(report)["way_up"]["pairs"] == COUNT


def test_what_a_run_found_is_said_stored_gone_on_with_and_obeyed_by_flips(unet: Run, streets, tmp_path):
    data = tmp_path / "data"
    write(data, street)
    train = ("train", "--data", "data", *TINY, "--name", "run", "--epochs", 1)
    done = unet(*train)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Images have a way up (") == 1
    assert "augmentation full, upright" in done.stderr
    run = tmp_path / "checkpoints" / "run"
    for name in ("best.pth", "last.pth"):
        assert load_checkpoint(run / name).preprocessing.orientation == "upright"
    assert 'orientation = "upright"' in (run / "config.toml").read_text()
    assert ", uint8, upright, " in unet("info", run).stdout
    predicted = unet("predict", "--weights", run, "--input", "data/images", "--flips")
    assert "averaged over the mirror image" in predicted.stderr

    for path in (data / "images").iterdir():  # now nothing could be told from them
        Image.fromarray(np.zeros_like(pixels(path))).save(path)
    done = unet("train", "--resume", run, "--epochs", 2)
    assert done.returncode == 0, done.stderr
    assert "way up" not in done.stderr
    assert load_checkpoint(run / "last.pth").preprocessing.orientation == "upright"
    done = unet("train", "--resume", run, "--epochs", 3, "--orientation", "any")
    assert "--orientation was upright and is now any" in done.stderr
    assert load_checkpoint(run / "last.pth").preprocessing.orientation == "any"


def test_a_run_of_a_version_that_did_not_ask_goes_on_as_it_was(unet: Run, tmp_path):
    write(tmp_path / "data", street)
    done = unet("train", "--data", "data", *TINY, "--name", "run", "--epochs", 1, "--orientation", "any")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "checkpoints" / "run"
    settings = (run / "config.toml").read_text()
    (run / "config.toml").write_text(settings.replace('orientation = "any"\n', ""))
    for name in ("best.pth", "last.pth"):
        content = torch.load(run / name, weights_only=True)
        del content["preprocessing"]["orientation"], content["training"]["orientation"]
        torch.save(content | {"format_version": 4}, run / name)
    done = unet("train", "--resume", run, "--epochs", 2)
    assert done.returncode == 0, done.stderr
    assert "way up (" not in done.stderr
    assert load_checkpoint(run / "last.pth").preprocessing.orientation == "any"


def test_whoever_says_it_by_hand_is_obeyed_and_nothing_is_measured(unet: Run, data, tmp_path):
    done = unet("train", "--data", "data", *TINY, "--epochs", 1, "--orientation", "upright", "--name", "run")
    assert done.returncode == 0, done.stderr
    assert "way up" not in done.stderr
    best = tmp_path / "checkpoints" / "run" / "best.pth"
    assert load_checkpoint(best).preprocessing.orientation == "upright"
