"""A run that is interrupted, in whatever way and wherever, goes on and ends as if it never had been.

"As if" is bit for bit: all weights, averages and moments of the interrupted run are compared with those of a run that
was left alone.
"""

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import torch
from conftest import TINY, Run, Started, assert_failed, start_unet, wait_for, write_pairs

from unet_cli.checkpoint import load_checkpoint, save_checkpoint

EPOCHS = 12
OFTEN, SELDOM = ("--save-every", "0.02s"), ("--save-every", "1h")  # often: most moments lie behind some saved state
LEFT_ALONE = "whole"


def start_python(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """`unet train ARGUMENTS` as a shell starts it."""
    command = [sys.executable, "-m", "unet_cli", "train", *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, text=True, **streams)


def start(folder: Path, *arguments: object) -> Started:
    """`unet train ARGUMENTS` in a process that needn't import torch first."""
    return start_unet("train", *arguments, cwd=folder)


def tensors(value: object, name: str = "") -> dict[str, torch.Tensor]:
    """All tensors in nested dictionaries and lists, by their place."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {key: tensor for part, inner in items for key, tensor in tensors(inner, f"{name}/{part}").items()}


def assert_same_end(run: Path, other: Path) -> None:
    for name in ("last.pth", "best.pth"):
        first, second = (load_checkpoint(folder / name) for folder in (run, other))
        ours = tensors({"weights": first.weights, "resume": first.resume})
        theirs = tensors({"weights": second.weights, "resume": second.resume})
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
        assert {**first.metrics, "seconds": 0} == {**second.metrics, "seconds": 0}
    assert [{**row, "seconds": 0} for row in log_of(run)] == [{**row, "seconds": 0} for row in log_of(other)]


def log_of(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and a run that was left alone, checkpoints/whole."""
    folder = tmp_path_factory.mktemp("resume")
    write_pairs(folder / "data", count=10)
    process = start(folder, "--data", "data", *TINY, *SELDOM, "--epochs", EPOCHS, "--name", LEFT_ALONE)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return folder


def interrupt(folder: Path, signum: int, name: str, pause: float = 0.0, start=start) -> str:
    """Begin a run like the undisturbed one, and send it a signal once it has saved, or `pause` seconds after its
    beginning; what it said."""
    process = start(folder, "--data", "data", *TINY, *OFTEN, "--epochs", EPOCHS, "--name", name)
    wait_for(folder / "checkpoints" / name / ("last.pth" if not pause else "config.toml"), process)
    time.sleep(pause)
    process.send_signal(signum)
    _, err = process.communicate(timeout=120)
    assert process.returncode in (0, {signal.SIGINT: 130, signal.SIGTERM: 143}.get(signum, -signum)), err
    return err


def go_on(folder: Path, name: str) -> None:
    run = folder / "checkpoints" / name
    process = start(folder, "--resume", run, *SELDOM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0 or "has finished training" in err, err


@pytest.mark.parametrize(
    ("signum", "start"),
    [(signal.SIGINT, start), (signal.SIGTERM, start_python), (signal.SIGKILL, start)],
    ids=["SIGINT", "SIGTERM", "SIGKILL"],
)
def test_an_interrupted_run_ends_as_one_that_was_left_alone(undisturbed, signum, start):
    name = f"short-{signum}"
    err = interrupt(undisturbed, signum, name, start=start)
    if signum != signal.SIGKILL:
        assert f"To resume: unet train --resume checkpoints/{name}" in err
        assert "Traceback" not in err
    go_on(undisturbed, name)
    assert_same_end(undisturbed / "checkpoints" / name, undisturbed / "checkpoints" / LEFT_ALONE)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("moment", range(10))
def test_wherever_it_is_interrupted(undisturbed, signum, moment):
    """At ten random moments each, from the first step to after the last; a second time while it goes on."""
    whole = undisturbed / "checkpoints" / LEFT_ALONE
    seconds = float(log_of(whole)[-1]["seconds"])
    draw, name = random.Random(f"{signum}-{moment}"), f"moment-{signum}-{moment}"
    interrupt(undisturbed, signum, name, pause=draw.uniform(0.01, 0.9 * seconds))
    run = undisturbed / "checkpoints" / name
    again = start(undisturbed, "--resume", run)
    time.sleep(draw.uniform(0, 1.2 * seconds))
    again.send_signal(signum)
    again.communicate(timeout=120)
    go_on(undisturbed, name)
    assert_same_end(run, whole)
    shutil.rmtree(run)


def assert_goes_on_alike(folder: Path, signum: int, *settings: object) -> tuple[Path, str]:
    """A run on folder/data that is interrupted once it has saved ends like one that is left alone: that one's folder,
    and what it said."""
    runs, said = [folder / "checkpoints" / name for name in ("short", LEFT_ALONE)], ""
    for run, saving in zip(runs, (OFTEN, SELDOM), strict=True):
        process = start(folder, "--data", "data", *TINY, *saving, *settings, "--name", run.name)
        if run.name == "short":
            wait_for(run / "last.pth", process)
            process.send_signal(signum)
        _, said = process.communicate(timeout=300)
    go_on(folder, "short")
    assert_same_end(*runs)
    return runs[1], said


def test_a_run_whose_crops_grow_goes_on_as_if_it_had_not_been_stopped(data, tmp_path):
    whole, said = assert_goes_on_alike(tmp_path, signal.SIGKILL, "--size", 128, "--epochs", 4)
    assert "cropped to 64x64, then 128x128" in said
    plan = load_checkpoint(whole / "last.pth").resume["plan"]
    assert len(plan["sides"]) > 1
    assert plan["sides"][-1] == 128


def test_a_run_without_an_end_ends_when_it_has_stopped_learning(data, tmp_path, unet: Run):
    whole, said = assert_goes_on_alike(tmp_path, signal.SIGINT, "--lr", 0.02, "--augment", "none")
    assert "Training until convergence" in said
    rates = [float(row["lr"]) for row in log_of(whole)]
    assert rates[-1] < 0.2 * max(rates)
    assert "epochs" not in tomllib.loads((whole / "config.toml").read_text())
    assert_failed(unet("train", "--resume", whole), 1, "has finished training")


def test_a_run_of_a_version_without_plans_goes_on(unet: Run, begun):
    last = begun / "last.pth"
    saved = load_checkpoint(last)
    del saved.resume["plan"], saved.resume["progress"]["side"], saved.resume["progress"]["cooling"]
    save_checkpoint(last, saved)
    done = unet("train", "--resume", last, "--epochs", 3)
    assert done.returncode == 0, done.stderr
    assert len(log_of(last.parent)) == 3


def test_a_folder_that_is_no_run(unet: Run, data, tmp_path):
    assert_failed(unet("train", "--resume", "nowhere"), 2, "nowhere does not exist", "checkpoints")
    assert_failed(unet("train", "--resume", "data"), 2, "data holds no config.toml")


def test_a_finished_run_goes_on_where_it_is_given_more(unet: Run, begun):
    run = begun
    assert_failed(unet("train", "--resume", run), 1, "has finished training, 1 epoch", "--epochs")
    assert_failed(unet("train", "--resume", run, "--width", 8), 1, "holds another network", "width 4 there, 8 here")
    assert_failed(unet("train", "--resume", run, "--size", 64), 1, "with --size 32, and can't be resumed with 64")
    assert_failed(unet("train", "--resume", run, "--optimizer", "sgd"), 1, "started with --optimizer adam")
    done = unet("train", "--resume", run / "last.pth", "--epochs", 3)
    assert done.returncode == 0, done.stderr
    assert f"Resuming {run} in epoch 2" in done.stderr
    assert [int(row["epoch"]) for row in log_of(run)] == [1, 2, 3]


def test_the_record_of_a_run_starts_another_like_it(unet: Run, data, tmp_path):
    runs = [tmp_path / "checkpoints" / name for name in ("data-1", "data-2")]
    first = unet("train", "--data", "data", *TINY, "--epochs", 1, "--lr", 0.01, "--max-time", "9m")
    assert first.returncode == 0, first.stderr
    settings = tomllib.loads((runs[0] / "config.toml").read_text())
    assert (settings["width"], settings["batch-size"], settings["max-time"]) == (4, 2, "540s")
    second = unet("train", "--config", runs[0] / "config.toml", "--max-time", "8m")
    assert second.returncode == 0, second.stderr
    assert tomllib.loads((runs[1] / "config.toml").read_text()) == settings | {"max-time": "480s"}


def test_changed_masks_are_said(unet: Run, begun, tmp_path):
    data, run = tmp_path / "data", begun
    shutil.copy(data / "masks" / "cell1.png", tmp_path / "kept.png")
    os.replace(data / "masks" / "cell0.png", tmp_path / "away.png")
    assert_failed(unet("train", "--resume", run, "--epochs", 2), 1, "cell0")
    pixels = (tmp_path / "away.png").read_bytes()
    (data / "masks" / "cell0.png").write_bytes(pixels)
    assert "have changed" not in unet("train", "--resume", run, "--epochs", 2).stderr


def test_two_processes_do_not_train_in_one_folder(data, tmp_path, unet: Run):
    process = start(tmp_path, "--data", "data", *TINY, "--epochs", 100_000, "--name", "run", *SELDOM)
    wait_for(tmp_path / "checkpoints" / "run" / "pictures", process)
    assert_failed(unet("train", "--resume", "checkpoints/run"), 1, "is in use")
    process.terminate()
    process.communicate(timeout=120)


def test_a_disk_with_room_for_the_best_weights_alone_leaves_a_way_back(unet, full_disk, begun, tmp_path):
    settings = ("--data", "data", *TINY, "--epochs", 2, "--name", "r", "--folds", 2, "--fold", "all")
    best, last = ((begun / name).stat().st_size for name in ("best.pth", "last.pth"))
    done = full_disk((best + last) // 2, "train", *settings)
    assert done.returncode == 1
    assert "To resume: unet train --resume checkpoints/r" in done.stderr
    run = tmp_path / "checkpoints/r/fold1"
    assert [(run / name).exists() for name in ("best.pth", "last.pth")] == [True, False]
    before = (run / "best.pth").read_bytes()
    done = unet("train", "--resume", "checkpoints/r")
    assert done.returncode == 0, done.stderr
    assert "starts again from its best weights, kept as" in done.stderr
    assert (run / "best-1.pth").read_bytes() == before
    assert (tmp_path / "checkpoints/r/metrics.json").exists()


def test_images_that_were_added_are_counted_and_the_way_to_train_on_them_is_named(unet, begun, tmp_path):
    for kind in ("images", "masks"):
        for number in (1, 2):
            shutil.copy(tmp_path / f"data/{kind}/cell{number}.png", tmp_path / f"data/{kind}/new{number}.png")
    done = unet("train", "--resume", "checkpoints/run", "--epochs", 2)
    assert done.returncode == 0, done.stderr
    assert "2 pairs added since the run began are not used" in done.stderr
    assert "--init checkpoints/run/best.pth" in done.stderr


def test_where_there_is_a_test_part_the_next_command_evaluates_on_it(unet, tmp_path):
    for part, count in (("train", 5), ("test", 2)):
        write_pairs(tmp_path / "data" / part, count=count, side=40 if part == "train" else 44)
    done = unet("train", "--data", "data", *TINY, "--epochs", 1, "--name", "r")
    assert "Next, see how good the masks of the test part are:" in done.stdout
    command = done.stdout.strip().splitlines()[-1].split()
    assert command[:2] == ["unet", "evaluate"]
    evaluated = unet(*command[1:], "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    assert '"images": 2' in evaluated.stdout


def test_a_run_of_the_first_format_goes_on(unet, begun):
    for name in ("best.pth", "last.pth"):
        path = begun / name
        content = torch.load(path, weights_only=True)
        for part, later in {
            "model": ("dropout", "deep_supervision"),
            "preprocessing": ("files", "pages", "scale"),
            "labels": ("background",),
        }.items():
            for key in later:
                del content[part][key]
        del content["temperature"]
        if content["resume"]:
            del content["resume"]["plan"]
            for key in ("side", "cooling"):
                del content["resume"]["progress"][key]
            for row in content["resume"]["progress"]["rows"]:
                del row["val_set_dice"], row["val_mean_iou"]
        torch.save(content | {"format_version": 1}, path)
    done = unet("train", "--resume", "checkpoints/run", "--epochs", 2)
    assert done.returncode == 0, done.stderr
    best = load_checkpoint(begun)
    assert best.metrics["final_set_dice"] >= 0
