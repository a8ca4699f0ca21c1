"""`unet predict` through the real command line: what is written, what is said, and what bad input does."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run, assert_failed, json_lines, pixels
from PIL import Image

from unet_cli.checkpoint import load_checkpoint, save_checkpoint
from unet_cli.config import ModelConfig
from unet_cli.data.labels import LabelMap
from unet_cli.models import build_model


def test_a_folder_is_mirrored_with_masks_of_the_original_sizes(unet: Run, trained, images, tmp_path):
    done = unet("predict", "--weights", trained, "--input", "imgs")
    assert done.returncode == 0, done.stderr
    for name in ("a", "b", "deeper/c"):
        mask, image = pixels(tmp_path / "imgs_masks" / f"{name}.png"), pixels(images / f"{name}.png")
        assert mask.shape == image.shape[:2]
        assert set(np.unique(mask)) <= {0, 255}
    assert "3 masks written to" in done.stdout
    assert "--overlay" in done.stdout


def test_the_printed_next_command_works(unet: Run, trained, images):
    first = unet("predict", "--weights", trained, "--input", "imgs")
    words = first.stdout.strip().splitlines()[-1].split()
    assert words[0] == "unet"
    assert unet(*words[1:]).returncode == 0


def test_file_glob_and_list(unet: Run, trained, images, tmp_path):
    assert unet("predict", "--weights", trained.parent, "--input", "imgs/a.png").returncode == 0
    assert (tmp_path / "imgs_masks" / "a.png").is_file()
    assert unet("predict", "--weights", trained, "--input", "imgs/*.png", "--output", "glob").returncode == 0
    assert sorted(path.name for path in (tmp_path / "glob").iterdir()) == ["a.png", "b.png"]
    listed = unet(
        "predict", "--weights", trained, "--input", "-", "--output", "list", stdin="imgs/b.png\nimgs/deeper/c.png\n"
    )
    assert listed.returncode == 0, listed.stderr
    assert sorted(path.name for path in (tmp_path / "list").iterdir()) == ["b.png", "c.png"]
    assert (pixels(tmp_path / "glob" / "b.png") == pixels(tmp_path / "list" / "b.png")).all()
    assert_failed(unet("predict", "--weights", trained, "--input", "-", stdin="a.png\n"), 1, "--output")


def test_a_mask_does_not_depend_on_its_neighbours(unet: Run, trained, images, tmp_path):
    unet("predict", "--weights", trained, "--input", "imgs", "--output", "all", "--batch-size", 2)
    unet("predict", "--weights", trained, "--input", "imgs/deeper/c.png", "--output", "one", "--batch-size", 2)
    assert (tmp_path / "all" / "deeper" / "c.png").read_bytes() == (tmp_path / "one" / "c.png").read_bytes()


def test_overlay_and_probabilities(unet: Run, trained, images, tmp_path):
    done = unet("predict", "--weights", trained, "--input", "imgs", "--overlay", "--probabilities", "--threshold", 0.4)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "imgs_masks"
    probability = pixels(out / "a_probability.png")
    assert probability.dtype == np.uint16
    clear = np.abs(probability / 65535 - 0.4) > 1e-4
    assert ((probability / 65535 >= 0.4) == (pixels(out / "a.png") == 255))[clear].all()
    assert pixels(out / "a_overlay.png").shape == pixels(images / "a.png").shape


def test_json_has_a_line_for_each_file(unet: Run, trained, images):
    (images / "bad.png").write_text("text")
    done = unet("predict", "--weights", trained, "--input", "imgs", "--json")
    assert done.returncode == 3
    rows = {Path(row["input"]).name: row for row in json_lines(done.stdout)}
    assert "not an image" in rows["bad.png"]["error"]
    assert rows["a.png"]["width"] == 39
    assert rows["a.png"]["height"] == 30
    assert sum(rows["a.png"]["class_shares"]) == pytest.approx(1, abs=1e-5)


def test_bad_files_are_named_and_skipped_and_leave_no_mask_of_an_earlier_run(unet: Run, trained, images, tmp_path):
    unet("predict", "--weights", trained, "--input", "imgs")
    before = (tmp_path / "imgs_masks" / "b.png").read_bytes()
    whole = (images / "a.png").read_bytes()
    (images / "a.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(images / "deep16.png")
    done = unet("predict", "--weights", trained, "--input", "imgs")
    assert_failed(done, 3, "a.png is damaged", "deep16.png holds 16-bit values", "8-bit")
    assert "2 masks written" in done.stdout
    assert "2 images failed" in done.stdout
    assert "--input imgs/b.png" in done.stdout  # the next step is one that works
    assert sorted(path.name for path in (tmp_path / "imgs_masks").rglob("*.png")) == ["b.png", "c.png"]
    assert (tmp_path / "imgs_masks" / "b.png").read_bytes() == before


def test_gray_and_rgba_inputs_are_converted_and_it_is_said(unet: Run, trained, images, tmp_path):
    Image.open(images / "a.png").convert("L").save(images / "gray.png")
    Image.open(images / "b.png").convert("RGBA").save(images / "alpha.png")
    done = unet("predict", "--weights", trained, "--input", "imgs")
    assert done.returncode == 0, done.stderr
    assert "gray was repeated to three channels in 1 image" in done.stderr
    assert (pixels(tmp_path / "imgs_masks" / "alpha.png") == pixels(tmp_path / "imgs_masks" / "b.png")).all()


@pytest.fixture
def three_classes(tmp_path, trained) -> Path:
    """A checkpoint with classes 0, 1 and 10, as masks with small integers have them."""
    model = ModelConfig(base_channels=2, depth=2, num_classes=3)
    torch.manual_seed(1)
    base = load_checkpoint(trained)
    path = tmp_path / "three.pth"
    save_checkpoint(
        path,
        replace(
            base,
            model=model,
            weights=build_model(model).state_dict(),
            labels=LabelMap((0, 1, 10), ("0", "1", "10")),
        ),
    )
    return path


def test_classes_are_written_with_the_training_masks_values_and_visible_colours(
    unet: Run, three_classes, images, tmp_path
):
    done = unet("predict", "--weights", three_classes, "--input", "imgs", "--probabilities")
    assert done.returncode == 0, done.stderr
    mask = Image.open(tmp_path / "imgs_masks" / "a.png")
    assert mask.mode == "P"
    assert set(np.unique(np.asarray(mask))) <= {0, 1, 10}
    maps = [pixels(tmp_path / "imgs_masks" / f"a_probability_{index}.png").astype(int) for index in range(3)]
    assert (np.abs(sum(maps) - 65535) <= 3).all()
    winners = np.array([0, 1, 10])[np.argmax(maps, axis=0)]
    assert (winners == np.asarray(mask)).mean() > 0.99


def test_all_background_is_called_out(unet: Run, trained, images):
    done = unet("predict", "--weights", trained, "--input", "imgs", "--threshold", 1)
    assert "Every mask is all background; the highest foreground probability was" in done.stderr


def test_masks_below_the_input_folder_are_not_input_the_next_time(unet: Run, trained, images, tmp_path):
    for _ in range(2):
        done = unet("predict", "--weights", trained, "--input", "imgs", "--output", "imgs/masks")
        assert "3 masks written" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["--input", "nowhere"], 1, ["nowhere does not exist"]),
        (["--input", "empty"], 1, ["empty holds no images"]),
        (["--input", "imgs", "--output", "imgs"], 1, ["would be written over the image", "choose another --output"]),
        (["--input", "imgs", "--threshold", "2"], 2, ["--threshold is 2: it has to be 0 to 1"]),
        (["--input", "imgs", "--threshold", "high"], 2, ["--threshold", "number"]),
        (["--input", "imgs", "--thresold", "0.4"], 2, ["--thresold", "--threshold"]),
        (["--input", "imgs", "--device", "cuda"], 1, ["--device cuda", "--device cpu"]),
        (["--input", "imgs", "--output", "file.txt"], 1, ["file.txt", "a file is in the way"]),
        ([], 2, ["--input"]),
    ],
)
def test_bad_arguments(unet: Run, trained, images, tmp_path, monkeypatch, arguments, code, parts):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as on a machine without a GPU
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    assert_failed(unet("predict", "--weights", trained, *arguments), code, *parts)
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before and "imgs_masks" not in str(path)] == []


@pytest.mark.parametrize("name", ["missing.pth", "text.pth", "raw.pth"])
def test_weights_that_are_not_ours(unet: Run, images, tmp_path, name):
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "raw.pth")
    assert_failed(unet("predict", "--weights", name, "--input", "imgs"), 1, name, "unet train")
    assert not (tmp_path / "imgs_masks").exists()


def test_two_images_that_would_write_one_mask_are_refused(unet: Run, trained, images, tmp_path):
    shutil.copy(images / "a.png", images / "a.bmp")
    assert_failed(unet("predict", "--weights", trained, "--input", "imgs"), 1, "a.bmp", "a.png", "would both write")
    assert not (tmp_path / "imgs_masks").exists()


def test_a_full_disk_leaves_no_partial_mask(trained, images, tmp_path, full_disk):
    done = full_disk(200, "predict", "--weights", trained, "--input", "imgs", "--output", "out", "--overlay")
    assert_failed(done, 3, "free some space")
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.stat().st_size > 200] == []
    assert list((tmp_path / "out").rglob("*.tmp")) == []


def test_a_folder_that_cannot_be_written(unet: Run, trained, images, read_only):
    done = unet("predict", "--weights", trained, "--input", "imgs", "--output", read_only)
    assert_failed(done, 1, str(read_only), "choose")
    assert os.listdir(read_only) == []


def test_files_that_are_not_ours_are_never_written_over(unet: Run, trained, images, tmp_path):
    out = tmp_path / "truth"
    out.mkdir()
    Image.new("L", (5, 5)).save(out / "a.png")
    before = (out / "a.png").read_bytes()
    done = unet("predict", "--weights", trained, "--input", "imgs", "--output", "truth")
    assert_failed(done, 1, "a.png is there already and was not written by unet", "--output")
    assert (out / "a.png").read_bytes() == before
    assert [path.name for path in out.rglob("*.png")] == ["a.png"]


def test_a_stop_finishes_the_files_at_hand_and_tells_of_each(trained, images, tmp_path):
    for index in range(300):
        shutil.copy(images / "a.png", images / f"copy{index:03d}.png")
    command = [sys.executable, "-m", "unet_cli", "predict", "--weights", str(trained), "--input", "imgs", "--json"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "imgs_masks" / "a.png").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    written = {path.name for path in (tmp_path / "imgs_masks").rglob("*.png")}
    assert {Path(row["output"]).name for row in json_lines(out)} == written
    assert 1 <= len(written) < 303
    assert f"stopped after {len(written)} of 303" in err


def test_quiet_is_quiet(unet: Run, trained, images):
    done = unet("predict", "--weights", trained, "--input", "imgs", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_usual_output_folder_is_not_used_where_it_holds_the_users_files(unet, trained, images, tmp_path):
    (tmp_path / "imgs_masks").mkdir()
    Image.new("L", (5, 5)).save(tmp_path / "imgs_masks" / "truth.png")
    done = unet("predict", "--weights", trained, "--input", "imgs")
    assert_failed(done, 1, "truth.png", "choose an --output")
    assert [path.name for path in (tmp_path / "imgs_masks").iterdir()] == ["truth.png"]
