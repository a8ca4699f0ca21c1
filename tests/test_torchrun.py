"""`unet train` under torchrun, two processes on a CPU: what they train, score, save and log is what one process would.

Where torchrun itself isn't the point, its processes are forked from one that has imported torch: see prepared.py.
Stopped, killed and restarted processes are real ones. Nothing depends on how fast they are: a test waits for a file
that a run writes, and then acts while the run has much left to do.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PREPARED, TINY, Started, run_unet, start_unet, wait_for, write_pairs
from PIL import Image
from torch import distributed

from unet_cli.checkpoint import load_checkpoint
from unet_cli.system.distributed import agreed_name

TWO = ["--nproc-per-node", "2"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", *TWO]
IGNORED_VALUE = 128  # in the masks
SETTINGS = [*TINY, "--norm", "group", "--augment", "light", "--val-fraction", "0.3", "--ignore-index", IGNORED_VALUE]
OFTEN = ("--save-every", "0.1s")
ENDLESS = 100_000  # epochs
EPOCHS = 20  # of a run that is killed and comes to its end
FIXED = ("--class-weights", "auto", "--optimizer", "sgd", "--lr", "0.1", "--clip-grad", "1000", "--epochs", "2")

Start = Callable[..., "Started | subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data of 13 pairs for training, one more than fits batches of 4, and 5 for validation.

    Most of what one process sees in a batch is ignored, and little of what the other does.
    """
    folder = tmp_path_factory.mktemp("distributed")
    write_pairs(folder / "data", count=18)
    for number, path in enumerate(sorted((folder / "data" / "masks").iterdir())):
        mask = np.array(Image.open(path))
        mask[: (0, 4, 30)[number % 3]] = IGNORED_VALUE
        Image.fromarray(mask).save(path)
    return folder


@pytest.fixture
def torchrun(place: Path) -> Iterator[Start]:
    """Begin `unet train ARGUMENTS` in two processes; what is left of them at the test's end is killed."""
    started: list[Started | subprocess.Popen[str]] = []

    def start(*arguments: object, restarts: int = 0, forked: bool = True) -> Started | subprocess.Popen[str]:
        options, words = ["--max-restarts", str(restarts)], ["train", *map(str, arguments)]
        process: Started | subprocess.Popen[str]
        if forked:
            process = PREPARED.start(words, place, torchrun=[*TWO, *options])
        else:
            command = [*TORCHRUN, *options, "-m", "unet_cli", *words]
            process = subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            left = workers(process)  # each leads a process group of its own
            process.kill()
            for number in left.values():
                os.killpg(number, signal.SIGKILL)
            process.communicate(timeout=60)


def workers(process: Started | subprocess.Popen[str]) -> dict[int, int]:
    """The process numbers of what torchrun started, by rank."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("needs Linux to find torchrun's processes")
    found = {}
    for number in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        variables = Path(f"/proc/{number}/environ").read_bytes().split(b"\0")
        ranks = [int(variable[5:]) for variable in variables if variable.startswith(b"RANK=")]
        name = Path(f"/proc/{number}/comm").read_text().split()  # of one that was forked
        ranks += [int(name[1])] if name[0] == "rank" else []
        found |= {rank: int(number) for rank in ranks}
    return found


def outcome(process: Started | subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, output and errors."""
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def alone(place: Path, *arguments: object) -> str:
    """`unet train ARGUMENTS` in one process: what it said."""
    done = run_unet("train", *arguments, cwd=place)
    assert done.returncode == 0, done.stderr
    return done.stderr


def log_of(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open() as file:
        return list(csv.DictReader(file))


def epochs_of(run: Path) -> list[int]:
    return [int(row["epoch"]) for row in log_of(run)]


def train_alone(place: Path, name: str) -> Path:
    """A run of one process with the batches of two."""
    run = place / "checkpoints" / name
    if not run.exists():
        alone(place, "--data", "data", *SETTINGS, *FIXED, "--batch-size", 4, "--name", name)
    return run


def test_two_processes_train_as_one_with_batches_twice_as_large(place, torchrun):
    """With a last batch of a single sample, an uneven share of ignored pixels, and classes that are weighted."""
    single = train_alone(place, "single")
    code, out, err = outcome(torchrun("--data", "data", *SETTINGS, *FIXED, "--batch-size", 2, "--name", "double"))
    double = place / "checkpoints" / "double"

    assert code == 0, err
    assert out.count("Best weights: checkpoints/double/best.pth") == 1
    for said in ("13 for training, 5 for validation", "batches of 4;", "2 processes", "epoch   1 ", "epoch   2 "):
        assert err.count(said) == 1, err
    assert "warn" not in err.lower().replace("worth", "")
    assert "Traceback" not in err
    assert not list(place.glob("checkpoints/double-*"))
    assert sorted(path.name for path in double.iterdir()) == sorted(path.name for path in single.iterdir())

    ours, theirs = (load_checkpoint(run / "last.pth") for run in (double, single))
    assert ours.resume is not None
    assert theirs.resume is not None
    assert ours.resume["learner"]["step"] == theirs.resume["learner"]["step"] == 8
    for name, weights in theirs.weights.items():
        torch.testing.assert_close(ours.weights[name], weights, rtol=1e-4, atol=1e-5)
    for one, other in zip(log_of(double), log_of(single), strict=True):
        assert float(one["train_loss"]) == pytest.approx(float(other["train_loss"]), rel=1e-4)


def test_two_processes_score_exactly_as_one_and_stop_together_when_the_time_is_up(place, torchrun):
    """Five validation images in tiles, whose counts lie in both processes, and weights that do not move."""
    weights = train_alone(place, "single") / "last.pth"
    still = ["--data", "data", *SETTINGS, "--mode", "tile", "--init", weights, "--optimizer", "sgd", "--lr", "1e-8"]
    alone(place, *still, "--epochs", 1, "--name", "score-single")
    code, _, err = outcome(torchrun(*still, "--max-time", "3s", "--name", "score-double"))
    assert code == 0, err
    (expected,) = log_of(place / "checkpoints" / "score-single")
    assert 0 < float(expected["val_dice"]) < 1
    rows = log_of(place / "checkpoints" / "score-double")
    assert rows
    for row, score in itertools.product(rows, ("val_dice", "val_iou", "val_foreground")):
        assert row[score] == expected[score]


def test_two_processes_leave_a_frozen_encoder_as_it_was(place, torchrun):
    options = ["--data", "data", *TINY, "--ignore-index", IGNORED_VALUE, "--epochs", 1]
    alone(place, *options, "--name", "thawed")
    run = place / "checkpoints" / "thawed"
    code, _, err = outcome(torchrun(*options, "--init", run, "--freeze", "encoder", "--name", "frozen"))
    assert code == 0, err
    before, after = (load_checkpoint(path / "best.pth").weights for path in (run, place / "checkpoints" / "frozen"))
    same = {name for name, value in before.items() if torch.equal(after[name], value)}
    assert {name for name in before if name.startswith(("stem", "encoder"))} <= same
    assert "decoder.0.convs.1.running_mean" not in same


def stop(process: Started | subprocess.Popen[str], run: Path, epoch: int = 0) -> str:
    """Stop torchrun, or one process, with SIGTERM once it has saved an epoch after that one; what was said."""
    wait_for(run / "last.pth", process)
    while epoch and epochs_of(run)[-1] <= epoch:
        assert process.poll() is None, process.communicate(timeout=10)
        time.sleep(0.01)
    process.terminate()
    _, err = process.communicate(timeout=240)
    assert process.returncode != 0
    assert err.count(f"To resume: unet train --resume checkpoints/{run.name}") == 1, err
    assert load_checkpoint(run / "last.pth").metrics["epoch"] == epochs_of(run)[-1]
    return err


def test_a_run_of_one_process_goes_on_in_two_and_then_in_one_again(place, torchrun):
    run = place / "checkpoints" / "one-two-one"
    settings = (*SETTINGS, *OFTEN, "--epochs", ENDLESS, "--name", run.name)
    stop(start_unet("train", "--data", "data", *settings, cwd=place), run)
    before, stopped = load_checkpoint(run / "last.pth").resume, epochs_of(run)[-1]
    assert before is not None
    err = stop(torchrun("--resume", f"checkpoints/{run.name}"), run, stopped)
    assert f"after {before['learner']['step']} steps" in err
    last = epochs_of(run)[-1] + 2
    assert f"Resuming {run}" in alone(place, "--resume", run, "--epochs", last)
    assert epochs_of(run) == list(range(1, last + 1))


def killed(place: Path, torchrun: Start, rank: int, forked: bool) -> tuple[Path, str]:
    """A run of which a process was killed after the first save, and that torchrun started again; what it said."""
    output = f"killed-{rank}-{forked}"
    process = torchrun("--data", "data", *SETTINGS, *OFTEN, "--epochs", EPOCHS, "--output", output, restarts=2,
                       forked=forked)  # fmt: skip
    wait_for(place / output / "data-1" / "last.pth", process)
    os.kill(workers(process)[rank], signal.SIGKILL)
    code, out, err = outcome(process)
    assert code == 0, err
    assert out.count("Best weights") == 1
    return place / output, err


@pytest.mark.parametrize(
    ("rank", "forked"), [(1, True), *(pytest.param(rank, False, marks=pytest.mark.slow) for rank in (0, 1))]
)
def test_a_job_that_torchrun_restarts_goes_on_in_its_folder(place, torchrun, rank, forked):
    output, err = killed(place, torchrun, rank, forked)
    assert [path.name for path in output.iterdir()] == ["data-1"]
    assert err.count(f"Resuming {output.name}/data-1 in epoch ") == 1, err
    assert "communication with the other processes of the job failed" in err
    assert "defect" not in err
    assert epochs_of(output / "data-1") == list(range(1, EPOCHS + 1))
    assert json.loads((output / "data-1" / "metrics.json").read_text())["epochs"] == EPOCHS


def test_a_mistake_is_told_and_ends_all_processes(place, torchrun):
    code, out, err = outcome(torchrun("--data", "nowhere", *SETTINGS, forked=False))
    assert code != 0
    assert out == ""
    assert 1 <= err.count("nowhere does not exist") <= 2, err


def test_the_processes_do_not_meet_under_the_name_of_an_earlier_start():
    """torchrun's store still holds that name, and that it was agreed upon, when it starts the processes again."""
    store = distributed.HashStore()
    for key in ("unet", "old/1", "old/2", "old/agreed"):
        store.set(key, {"unet": "old"}.get(key, "agreed"))
    names: list[str] = []
    ranks = [
        threading.Thread(target=lambda rank=rank: names.append(agreed_name(store, rank, 3)), daemon=True)
        for rank in range(3)
    ]
    for each in ranks[1:]:
        each.start()
    while store.get("old/2") == b"agreed":  # until they have seen the old name
        time.sleep(0.01)
    ranks[0].start()
    for each in ranks:
        each.join(timeout=10)
    assert len(names) == 3
    assert len(set(names)) == 1
    assert "old" not in names
