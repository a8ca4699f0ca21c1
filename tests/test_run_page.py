"""`unet report`, and the page that `unet train` leaves: what it says of a run, and of runs that have little to say."""

import json
import re
import shutil

import numpy as np
import pytest
from conftest import TINY, assert_failed, split_foreground, write_pairs
from PIL import Image

from unet_cli.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("draws")

CPU = ("--device", "cpu", "--precision", "float32")


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a finished run."""
    return shutil.copytree(trained.parent, tmp_path / "checkpoints" / "run")


def test_train_leaves_a_page_and_a_temperature(run):
    page = (run / "report.html").read_text()
    split = json.loads((run / "split.json").read_text())
    for name in split["val"]:
        assert name in page
    assert "unet train --data" in page
    assert f"{len(split['train'])} for training" in page
    assert load_checkpoint(run).temperature != 1


def test_the_same_page_can_be_written_again(unet, run):
    before = (run / "report.html").read_text()
    (run / "report.html").unlink()
    done = unet("report", run, *CPU)
    assert done.returncode == 0, done.stderr
    assert str(run / "report.html") in done.stdout
    assert (run / "report.html").read_text() == before


def test_suspects_are_listed_and_shown(unet, tmp_path):
    data = write_pairs(tmp_path / "data", count=14, side=48)
    unet("train", "--data", data, *TINY, "--epochs", 12, "--augment", "none", "--name", "run")
    split = json.loads((tmp_path / "checkpoints" / "run" / "split.json").read_text())
    spoiled = data / "masks" / f"{split['train'][0]}.png"
    Image.fromarray(255 - np.asarray(Image.open(spoiled))).save(spoiled)
    done = unet("report", "checkpoints/run", "--suspects", "--output", "look/page.html", "--json", *CPU)
    assert done.returncode == 0, done.stderr
    assert [one["name"] for one in json.loads(done.stdout)["suspects"]][:1] == [spoiled.stem]
    assert spoiled.stem in (tmp_path / "look" / "page.html").read_text()


def test_a_run_without_validation_has_a_page_without_scores(unet, data, tmp_path):
    done = unet("train", "--data", data, *TINY, "--epochs", 1, "--val-fraction", 0, "--name", "all")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "checkpoints" / "all" / "report.html").read_text()
    assert "no scores" in page
    assert unet("report", "checkpoints/all", *CPU).returncode == 0


def test_several_classes_have_a_confusion_matrix(unet, tmp_path):
    data = write_pairs(tmp_path / "data", count=4)
    split_foreground(data / "masks")
    done = unet("train", "--data", data, *TINY, "--epochs", 1, "--classes", "none,<b>cell</b>,other", "--name", "run")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "checkpoints" / "run" / "report.html").read_text()
    assert re.search("confus", page, re.IGNORECASE)
    assert "<b>cell</b>" not in page


def test_images_that_have_moved_are_found_with_data(unet, trained, tmp_path):
    data = shutil.copytree(trained.parent.parent / "data", tmp_path / "data")
    done = unet("train", "--images", data / "images", "--masks", data / "masks", *TINY, "--epochs", 1, "--name", "here")
    assert done.returncode == 0, done.stderr
    data.rename(tmp_path / "moved")
    assert_failed(unet("report", "checkpoints/here", *CPU), 1, "does not exist")
    assert unet("report", "checkpoints/here", "--data", "moved", *CPU).returncode == 0


def test_data_that_have_changed_are_spoken_of_on_the_page(unet, run, trained, tmp_path):
    shutil.copytree(trained.parent.parent / "data", tmp_path / "changed")
    for path in (tmp_path / "changed" / "masks").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    done = unet("report", run, "--data", "changed", *CPU)
    assert "The data have changed" in done.stderr
    assert "The data have changed" in (run / "report.html").read_text()


def test_what_is_no_run_or_a_damaged_one_is_refused(unet, run, trained, tmp_path):
    (tmp_path / "other").mkdir()
    assert_failed(unet("report", "other"), 1, "does not exist")
    shutil.copytree(run, tmp_path / "checkpoints" / "again")
    assert_failed(unet("report", "checkpoints", *CPU), 1, "not folds of one run")
    assert unet("report", run / "best.pth", *CPU).returncode == 0
    (run / "run.json").write_text("[]")
    assert_failed(unet("report", run, *CPU), 1, "run.json")
    shutil.copy(trained.parent / "run.json", run)
    (run / "log.csv").write_text("epoch\n")
    assert_failed(unet("report", run, *CPU), 1, "log.csv")
    (run / "split.json").unlink()
    assert_failed(unet("report", run, *CPU), 1, "split.json")
