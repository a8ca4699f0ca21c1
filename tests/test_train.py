"""`unet train` through the real command line: what it leaves, what it says, and what bad input or a signal does."""

import csv
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, Run, Started, assert_failed, json_lines, pixels, start_unet, wait_for, write_pairs
from PIL import Image

from unet_cli.checkpoint import load_checkpoint


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("draws")
def test_a_run_leaves_weights_log_curves_and_pictures(unet: Run, data, tmp_path):
    done = unet("train", "--data", "data", *TINY, "--epochs", 12)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "checkpoints" / "data-1"
    assert sorted(path.name for path in run.iterdir()) == [
        "best.pth", "config.toml", "curves.png", "last.pth", "log.csv", "metrics.json", "pictures",
        "report.html", "run.json", "split.json",
    ]  # fmt: skip
    rows = rows_of(run)
    assert [int(row["epoch"]) for row in rows] == list(range(1, 13))
    assert all(0 <= float(row["val_dice"]) <= 1 for row in rows)
    names = [f"epoch_{epoch:04d}.png" for epoch in [*range(1, 11), 12]]
    assert sorted(path.name for path in (run / "pictures").iterdir()) == names
    picture = pixels(run / "pictures" / "epoch_0012.png")
    assert picture.shape[1] == 3 * 256 + 8
    assert 256 < picture.shape[0] < 300  # a row, and the legend
    assert pixels(run / "curves.png").std() > 0

    best, last = load_checkpoint(run / "best.pth"), load_checkpoint(run / "last.pth")
    assert best.metrics["val_dice"] == pytest.approx(max(float(row["val_dice"]) for row in rows), abs=1e-5)
    assert 0 < best.best_threshold < 1
    assert best.threshold == 0.5
    assert "final_dice" in best.metrics
    assert best.resume is None
    assert last.resume["learner"]["step"] == 36
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["scores"]["dice"] == best.metrics["final_dice"]
    assert metrics["averaged"] == best.metrics["averaged"]
    (record,) = json.loads((run / "run.json").read_text())["calls"]
    assert record["command"].startswith("unet train --data data --size 32")
    assert {"torch", "device", "data_fingerprint", "python"} <= record.keys()


def test_it_says_what_it_found_and_what_it_will_do_and_what_to_do_next(unet: Run, data):
    done = unet("train", "--data", "data", *TINY, "--epochs", 3)
    for part in (
        "6 pairs (train 6), images and masks of the same name",
        "sides of 40 to 45 pixels; RGB, 8 bits",
        "2 classes (0 is background, 255 foreground)",
        "foreground",
        "5 for training, 1 for validation (drawn with --seed 0)",
        "Network unet, width 4, depth 2, transposed upsampling",
        "parameters",
        "CPU",
        "float32",
        "the run ends in about",
        "Threshold that scores best",
    ):
        assert part in done.stderr, part
    assert "Best weights: checkpoints/data-1/best.pth" in done.stdout
    words = done.stdout.strip().splitlines()[-1].split()
    assert words == ["unet", "predict", "--weights", "checkpoints/data-1/best.pth", "--input", "data/images"]
    assert unet(*words[1:]).returncode == 0


def test_no_run_overwrites_another(unet: Run, data, tmp_path):
    for _ in range(2):
        assert unet("train", "--data", "data", *TINY, "--epochs", 1).returncode == 0
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["data-1", "data-2"]
    assert_failed(unet("train", "--data", "data", *TINY, "--name", "data-1"), 1, "data-1 exists", "--name")


def test_the_same_seed_and_epochs_give_the_same_weights_twice(unet: Run, data, tmp_path):
    weights = []
    for name, workers in (("a", 1), ("b", 4)):
        done = unet("train", "--data", "data", *TINY, "--epochs", 2, "--name", name, "--workers", workers)
        assert done.returncode == 0, done.stderr
        weights.append(load_checkpoint(tmp_path / "checkpoints" / name / "last.pth").weights)
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_time_budget_ends_annealed_and_with_both_checkpoints(unet: Run, data, tmp_path):
    done = unet("train", "--data", "data", *TINY, "--max-time", "12s")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "checkpoints" / "data-1"
    rows = rows_of(run)
    assert float(rows[-1]["lr"]) < 2e-4  # a tenth of the highest: how close it gets is up to the clock
    assert (run / "best.pth").is_file()
    assert (run / "last.pth").is_file()


def test_train_and_val_folders(unet: Run, tmp_path):
    write_pairs(tmp_path / "data" / "train", count=3, mask_suffix="_mask")
    write_pairs(tmp_path / "data" / "val", count=2, mask_suffix="_mask", extension=".bmp")
    done = unet("train", "--data", "data", *TINY, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    assert "3 for training, 2 for validation (a folder of its own)" in done.stderr
    assert "mask NAME_mask for image NAME" in done.stderr


def test_classes_sixteen_bits_and_palettes_go_from_training_to_predicted_masks(unet: Run, data, tmp_path):
    for path in (data / "masks").iterdir():
        mask = (pixels(path) > 0).astype(np.uint8)
        mask[:6, :6] = 5
        Image.fromarray(mask).save(path)
    for path in (data / "images").iterdir():
        Image.fromarray(np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 10 + 33_000).save(path)
    done = unet("train", "--data", "data", *TINY, "--epochs", 2, "--json")
    assert done.returncode == 0, done.stderr
    assert "3 classes (0, 1, 5)" in done.stderr
    assert "gray, 16 bits" in done.stderr
    report = json_lines(done.stdout)[0]
    assert report["epochs"] == 2
    assert unet(*report["next"].split()[1:]).returncode == 0
    masks = [Image.open(path) for path in (tmp_path / "data" / "images_masks").iterdir()]
    assert len(masks) == 6
    assert all(mask.mode == "P" and set(np.unique(np.asarray(mask))) <= {0, 1, 5} for mask in masks)


def test_starting_from_weights_of_the_same_network(unet: Run, data, trained, tmp_path):
    options = ["--depth", 2, "--size", 32, "--epochs", 1, "--device", "cpu"]
    done = unet("train", "--data", "data", "--init", trained, *options, "--lr", 1e-8, "--augment", "none")
    assert done.returncode == 0, done.stderr
    old, new = load_checkpoint(trained), load_checkpoint(tmp_path / "checkpoints" / "data-1" / "best.pth")
    assert new.model == old.model  # its width as well
    kernels = [name for name, value in new.weights.items() if value.ndim == 4]
    assert all(torch.allclose(new.weights[name], old.weights[name], atol=1e-6) for name in kernels)
    other = unet("train", "--data", "data", "--init", trained, "--depth", 3, "--size", 32)
    assert_failed(other, 1, "holds another network: depth 2 there, 3 here")


def test_settings_from_a_file_and_flags_win(unet: Run, data, tmp_path):
    (tmp_path / "run.toml").write_text(
        'data = "data"\nsize = 32\nwidth = 4\ndepth = 2\nmax-time = "2h"\nepochs = 7\nname = "x"\n'
    )
    done = unet("train", "--config", "run.toml", "--epochs", 1, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    training = load_checkpoint(tmp_path / "checkpoints" / "x" / "best.pth").training
    assert (training["epochs"], training["size"], training["max_time"]) == (1, 32, 7200)
    (tmp_path / "typo.toml").write_text('data = "data"\nepoch = 7\n')
    assert_failed(unet("train", "--config", "typo.toml"), 2, "'epoch'", "did you mean epochs?")
    (tmp_path / "bad.toml").write_text("epochs = = 7")
    assert_failed(unet("train", "--config", "bad.toml"), 2, "bad.toml is not TOML")
    (tmp_path / "range.toml").write_text('data = "data"\nval_fraction = 3.0\n')
    assert_failed(unet("train", "--config", "range.toml"), 2, "--val-fraction")


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["--data", "nowhere"], 1, ["nowhere does not exist", "--data"]),
        (["--data", "empty"], 1, ["empty has no images folder", "holds nothing"]),
        (["--data", "data", "--max-time", "soon"], 2, ["--max-time", "'soon' is not a time", "2h30m"]),
        (["--data", "data", "--size", "64", "--depth", "8"], 1, ["--size 64 is too small", "at least --size 512"]),
        (["--data", "data", "--model", "atention"], 1, ["no network 'atention'", "did you mean attention"]),
        (["--data", "data", "--model", "unet-paper", "--norm", "batch"], 1, ["--norm doesn't apply to unet-paper"]),
        (["--data", "data", "--model", "unet3d"], 1, ["a network for volumes takes NIfTI"]),
        (["--data", "data", "--encoder-weights", "imagenet"], 1, ["--encoder-weights is for networks with an encoder"]),
        (["--data", "data", "--model", "unet-dilated-published", "--mode", "tile"], 1, ["use --mode resize"]),
        (["--data", "data", "--epoch", "4"], 2, ["--epoch", "--epochs"]),
        (["--data", "data", "--output", "file.txt"], 1, ["file.txt", "a file is in the way"]),
        (["--data", "data", "--init", "none.pth"], 1, ["none.pth does not exist"]),
    ],
)
def test_bad_arguments(unet: Run, data, tmp_path, arguments, code, parts):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    assert_failed(unet("train", *arguments), code, *parts)
    assert list(tmp_path.glob("checkpoints/*")) == []


def test_bad_files_are_all_named_before_anything_is_trained(unet: Run, data, tmp_path):
    (data / "images" / "cell1.png").write_text("not an image")
    Image.new("L", (7, 7)).save(data / "masks" / "cell3.png")
    done = unet("train", "--data", "data", *TINY)
    assert_failed(done, 1, "2 problems", "cell1.png is not an image", "cell3.png is 7x7 but its image", "is 43x40")
    (data / "masks" / "cell5.png").unlink()
    assert_failed(unet("train", "--data", "data", *TINY), 1, "image without a mask: data/images/cell5.png")
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_one_pair_needs_a_word(unet: Run, tmp_path):
    write_pairs(tmp_path / "data", count=1)
    assert_failed(unet("train", "--data", "data", *TINY), 1, "--val-fraction 0")
    done = unet("train", "--data", "data", *TINY, "--epochs", 2, "--val-fraction", 0)
    assert done.returncode == 0, done.stderr
    assert "(not validated)" in done.stdout


def test_a_folder_that_cannot_be_written(unet: Run, data, read_only):
    assert_failed(unet("train", "--data", "data", *TINY, "--output", read_only), 1, str(read_only), "choose")
    assert os.listdir(read_only) == []


def test_a_full_disk_leaves_no_half_checkpoint(data, tmp_path, full_disk):
    done = full_disk(20_000, "train", "--data", "data", *TINY, "--epochs", 2)
    assert_failed(done, 1, "best.pth", "free some space", "Training continues, and saving will be tried again")
    left = sorted(path.name for path in (tmp_path / "checkpoints" / "data-1").iterdir())
    assert left == ["config.toml", "log.csv", "pictures", "run.json", "split.json"]


def start(tmp_path: Path, *arguments: object) -> Started:
    return start_unet("train", "--data", "data", *TINY, "--epochs", 100_000, *arguments, cwd=tmp_path)


@pytest.mark.parametrize(
    ("signum", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),  # test_resume and test_console send it too
    ],
)
def test_a_signal_saves_says_so_and_leaves(data, tmp_path, signum, code):
    process = start(tmp_path)
    run = tmp_path / "checkpoints" / "data-1"
    wait_for(run / "pictures", process)
    process.send_signal(signum)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Stopped in epoch" in err
    assert "To resume: unet train --resume checkpoints/data-1" in err
    assert "Traceback" not in err
    assert out == ""
    progress = load_checkpoint(run / "last.pth").resume["progress"]
    assert progress["epoch"] == int(rows_of(run)[-1]["epoch"]) + 1
    load_checkpoint(run / "best.pth")


def test_a_folder_that_vanishes_is_said_and_made_again(data, tmp_path):
    process = start(tmp_path, "--save-every", "0.1s")
    run = tmp_path / "checkpoints" / "data-1"
    wait_for(run / "last.pth", process)
    run.rename(tmp_path / "gone")
    wait_for(run / "last.pth", process)
    process.terminate()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert "Traceback" not in err
    assert {"config.toml", "split.json", "best.pth", "last.pth"} <= {path.name for path in run.iterdir()}


def test_a_disk_that_has_gone_ends_the_run_with_1(data, tmp_path):
    disk = tmp_path / "disk"
    process = start(tmp_path, "--save-every", "0.1s", "--output", disk)
    wait_for(disk / "data-1" / "last.pth", process)
    disk.rename(tmp_path / "unplugged")
    while "saving will be tried again" not in process.said():
        assert process.poll() is None, process.communicate(timeout=10)
        time.sleep(0.01)
    process.terminate()
    _, err = process.communicate(timeout=120)
    assert_failed(subprocess.CompletedProcess([], process.returncode, "", err), 1, "No such file or directory")
    assert "Training continues, and saving will be tried again" in err
    load_checkpoint(tmp_path / "unplugged" / "data-1" / "last.pth")


def test_tile_mode_trains_on_crops_and_predicts_in_tiles(unet: Run, tmp_path):
    write_pairs(tmp_path / "data", count=6, side=90)
    done = unet("train", "--data", "data", *TINY, "--mode", "tile", "--epochs", 2, "--show-augmented", 5)
    assert done.returncode == 0, done.stderr
    assert "Images are cropped to 32x32 (33% on foreground)" in done.stderr
    assert pixels(tmp_path / "checkpoints" / "data-1" / "augmented.png").ndim == 3
    checkpoint = load_checkpoint(tmp_path / "checkpoints" / "data-1" / "best.pth")
    assert checkpoint.preprocessing.mode == "tile"
    done = unet("predict", "--weights", "checkpoints/data-1", "--input", "data/images")
    assert done.returncode == 0, done.stderr


def test_masks_that_are_all_empty_are_refused_in_words(unet: Run, data):
    for path in (data / "masks").iterdir():
        Image.fromarray(np.zeros_like(pixels(path))).save(path)
    assert_failed(unet("train", "--data", "data", *TINY, "--epochs", 1), 1, "masks")


def test_another_optimizer_schedule_loss_and_norm(unet: Run, data):
    others = ["--schedule", "poly", "--class-weights", "auto", "--norm", "group", "--patience", 2, "--deterministic"]
    done = unet("train", "--data", "data", *TINY, "--epochs", 2, "--optimizer", "sgd", *others)
    assert done.returncode == 0, done.stderr
    assert "Loss bce+dice, sgd, learning rate" in done.stderr
    assert "group norm" in done.stderr


def test_tensorboard_without_its_package_names_it(unet: Run, data):
    try:
        import tensorboard  # noqa: F401  # whether it is there decides what is expected
    except ImportError:
        assert_failed(unet("train", "--data", "data", *TINY, "--tensorboard"), 1, "unet-cli[tensorboard]")
    else:
        assert unet("train", "--data", "data", *TINY, "--epochs", 1, "--tensorboard").returncode == 0


@pytest.mark.parametrize(
    ("model", "others", "said"),
    [
        (
            "unet-paper",
            ["--mode", "tile", "--loss", "paper+dice", "--augment", "paper", "--width", 2],
            "Loss paper+dice",
        ),
        ("nnunet", ["--width", 4, "--depth", 3], "Network nnunet, width 4, depth 3, deep supervision, "),
        ("transunet-light", ["--width", 16, "--class-weights", "auto"], "learning rate 0.002"),
    ],
)
def test_other_networks_train_go_on_and_predict(unet: Run, data, model, others, said):
    settings = ["--size", 32, "--batch-size", 2, "--device", "cpu", "--precision", "float32", "--name", "run"]
    done = unet("train", "--data", "data", "--model", model, *others, *settings, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    assert said in done.stderr
    done = unet("train", "--resume", "checkpoints/run", "--epochs", 2)
    assert done.returncode == 0, done.stderr
    assert "Resuming checkpoints/run in epoch 2" in done.stderr
    done = unet("predict", "--weights", "checkpoints/run", "--input", "data/images", "--output", "masks")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("validation", "settings"),
    [
        (0.15, ["--model", "unet-paper", "--width", 2, "--mode", "tile", "--augment", "none"]),
        (0, ["--model", "unet-paper", "--width", 2, "--mode", "tile", "--augment", "paper"]),
        (0.15, ["--model", "unet-paper", "--width", 2, "--mode", "resize"]),
    ],
)
def test_pictures_show_the_same_pixels_of_image_mask_and_prediction(unet: Run, tmp_path, validation, settings):
    """Also where an unpadded network needs more of the image around them. Images are bright where their mask is."""
    data = write_pairs(tmp_path / "data", count=6, side=80)
    for path in (data / "masks").iterdir():
        mask = np.zeros((80, 80), np.uint8)
        mask[13:47, 21:66] = 255
        Image.fromarray(mask).save(path)
        Image.fromarray(mask // 2 + 20).save(data / "images" / path.name)
    common = ["--size", 64, "--batch-size", 2, "--device", "cpu", "--epochs", 1, "--name", "run"]
    done = unet("train", "--data", "data", *settings, *common, "--val-fraction", validation)
    assert done.returncode == 0, done.stderr
    picture = pixels(tmp_path / "checkpoints" / "run" / "pictures" / "epoch_0001.png").astype(int)
    rows = [picture[top : top + 256] for top in range(0, len(picture) - 256, 260)]
    shown = [row for row in rows if row[:, 260:516].max() == 255]  # further tiles of one image may have no foreground
    assert len(shown) >= (1 if validation else 4)
    for row in shown:
        image, mask = row[:, :256, 0], row[:, 260:516, 0]
        counted = np.abs(mask - 128) > 20  # what lies in two tiles of an image counts in the first
        assert counted.mean() > 0.2
        assert (np.abs(image - mask) > 60)[counted].mean() < 0.02


@pytest.fixture
def painted(tmp_path: Path) -> Path:
    """Pairs whose masks are painted: two classes, green and the blue that usually marks what is false."""
    data = write_pairs(tmp_path / "data", count=6, side=64)
    for path in (data / "masks").iterdir():
        inside = pixels(path) > 0
        mask = np.zeros((*inside.shape, 3), np.uint8)
        mask[inside] = 0, 200, 0
        mask[:20][inside[:20]] = 86, 180, 233
        mask[:8, :8] = 86, 180, 233
        Image.fromarray(mask).save(path)
    return data


@pytest.mark.usefixtures("draws")
def test_everything_is_drawn_in_the_colours_of_the_masks_with_a_legend(unet: Run, painted, tmp_path):
    colours = [(0, 200, 0), (86, 180, 233)]

    def held(path: Path) -> list[int]:
        return [int((pixels(path)[..., :3] == colour).all(-1).sum()) for colour in colours]

    assert unet("check", "--data", "data", "--pictures", "look").returncode == 0
    assert min(held(tmp_path / "look" / "contact_sheet.png")) > 100
    done = unet("train", "--data", "data", *TINY, "--epochs", 1, "--name", "run", "--show-augmented", 4)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "checkpoints" / "run"
    picture = pixels(run / "pictures" / "epoch_0001.png")
    for colour in [(0, 0, 0), *colours]:
        assert (picture[256:] == colour).all(-1).sum() > 50  # in the legend
        assert colour == (0, 0, 0) or (picture[:256, 260:516] == colour).all(-1).any()
    assert min(held(run / "augmented.png")) > 50
    page = (run / "report.html").read_text()
    parts = [page.index(part) for part in ("worst of", 'alt="prediction of', "<svg", 'class="headline"', "<details>")]
    assert parts == sorted(parts)
    assert all(f"rgb{colour}" in page for colour in colours)
    errors = page[page.index("In the panel of errors") :].split("</ul>")[0]
    assert not any(f"rgb{colour}" in errors for colour in colours)
    done = unet("predict", "--weights", run, "--input", "data/images/cell0.png", "--output", "out", "--overlay")
    assert done.returncode == 0, done.stderr
    overlay = pixels(tmp_path / "out" / "cell0_overlay.png")
    assert overlay.shape[1] == 64
    assert all((overlay[64:] == colour).all(-1).sum() > 30 for colour in colours)


def test_an_encoder_begins_with_the_weights_of_a_file(unet: Run, data, tmp_path):
    from torchvision.models import resnet18

    torch.manual_seed(3)
    state = resnet18().state_dict()
    torch.save(state, tmp_path / "encoder.pth")
    train = ["train", "--data", "data", "--model", "resnet18-unet", "--size", 64, "--batch-size", 2, "--epochs", 1]
    done = unet(*train, "--encoder-weights", "encoder.pth", "--lr", 1e-8, "--name", "run")
    assert done.returncode == 0, done.stderr
    weights = torch.load(tmp_path / "checkpoints" / "run" / "last.pth", weights_only=True)["weights"]
    assert torch.allclose(weights["encoder.conv1.weight"], state["conv1.weight"], atol=1e-5)
    assert_failed(unet(*train, "--encoder-weights", "nothing.pth"), 1, "nothing.pth does not exist")


def test_the_papers_loss_learns_from_numbered_objects(unet: Run, data):
    for index, path in enumerate(sorted((data / "masks").iterdir())):
        numbers = np.zeros(pixels(path).shape, np.uint16)
        for number in range(20):
            numbers[number // 5 * 9 : number // 5 * 9 + 9, number % 5 * 8 : number % 5 * 8 + 8] = (
                300 + 7 * number + index
            )
        Image.fromarray(numbers).save(path)
    train = ["train", "--data", "data", *TINY, "--epochs", 1, "--augment", "paper", "--loss", "paper"]
    done = unet(*train, "--show-augmented", 4, "--name", "run")
    assert done.returncode == 0, done.stderr
    assert "numbered objects are foreground" in done.stderr
