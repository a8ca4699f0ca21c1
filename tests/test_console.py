"""Telling never ends the work: logs that can't be written, readers that leave, names that can't be printed, signals.

The faults are real: /dev/full, closed pipes, another encoding, signals to a process of its own.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY, run_unet, start_unet, wait_for, write_pairs

from unet_cli.errors import Stopped
from unet_cli.runs.train import _fit_and_save
from unet_cli.system.console import Console
from unet_cli.system.signals import ENDING, StopRequest
from unet_cli.system.streams import Unbreakable, printable

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full and the signals of Linux")
TRAIN = ("--data", "data", *TINY, "--epochs", 3, "--name", "r")


def unet(folder: Path, *arguments: object, environment: dict[str, str] | None = None, **streams: object):
    command = [sys.executable, "-m", "unet_cli", *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=os.environ | (environment or {}), timeout=300, check=False, **streams
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_pairs(tmp_path / "data", count=6)
    return tmp_path


def is_whole(folder: Path) -> bool:
    run = folder / "checkpoints/r"
    return json.loads((run / "metrics.json").read_text())["epochs"] == 3 and (run / "best.pth").exists()


def test_a_full_disk_of_the_log_does_not_end_training(data):
    process = start_unet("train", *TRAIN, cwd=data, stderr="/dev/full")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert "Best weights" in out
    assert is_whole(data)


def test_a_result_that_can_not_be_printed_is_an_error_when_the_work_is_done(data):
    process = start_unet("train", *TRAIN, cwd=data, stdout="/dev/full")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "the result could not be printed" in err
    assert "Traceback" not in err
    assert is_whole(data)


def test_a_reader_that_leaves_does_not_end_training(data):
    process = subprocess.Popen(
        [sys.executable, "-m", "unet_cli", "train", *map(str, TRAIN)],
        cwd=data, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=300) == 1
    assert is_whole(data)


def test_names_that_can_not_be_encoded_are_spelled_out(data, trained):
    for name in (os.fsdecode(b"zelle\xff.png"), "細胞.png", "red\x1b[31m.png"):
        os.link(data / "data/images/cell0.png", data / name) if not (data / "in").mkdir(exist_ok=True) else None
        os.rename(data / name, data / "in" / name)
    call = ("predict", "--weights", trained, "--input", "in", "--output", "out", "--overlay")
    done = unet(data, *call, "--json", capture_output=True, environment={"PYTHONIOENCODING": "cp1252:strict"})
    assert done.returncode == 0, done.stderr
    assert len([json.loads(line) for line in done.stdout.decode("ascii").splitlines()]) == 3
    told = run_unet(*call, cwd=data)
    assert told.returncode == 0, told.stderr
    assert "\x1b[31m" not in told.stderr + told.stdout


def test_control_characters_do_not_reach_the_terminal():
    assert printable("a\x1b[2J\x07b\x9bc\td\ne") == "a\\x1b[2J\\x07b\\x9bc\td\ne"


def test_a_closed_stream_takes_what_is_written(tmp_path):
    with open(tmp_path / "log", "w") as file:
        stream = Unbreakable(file)
        stream.write("before")
        assert stream.failed is None
    stream.write("after")
    stream.flush()
    assert stream.failed is not None
    stream.writelines(["more"])


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1"])
def test_every_signal_that_ends_a_process_is_obeyed_after_saving(data, name):
    settings = ("--epochs", 10_000, "--name", "r", "--save-every", "1h")
    process = start_unet("train", *TRAIN[:-4], *settings, cwd=data)
    wait_for(data / "checkpoints/r/last.pth", process)
    before = (data / "checkpoints/r/last.pth").stat().st_mtime_ns
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + getattr(signal, name)
    assert "To resume: unet train --resume" in err
    assert (data / "checkpoints/r/last.pth").stat().st_mtime_ns > before


def test_a_signal_that_is_ignored_from_the_start_stays_ignored(data):
    command = f"trap '' HUP; exec {sys.executable} -m unet_cli train {' '.join(map(str, TRAIN))}"
    process = subprocess.Popen(["sh", "-c", command], cwd=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(data / "checkpoints/r/last.pth", process)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert is_whole(data)


class Failing:
    """A run that breaks in a way that nobody thought of, and what saves it."""

    def __init__(self, is_consistent: bool) -> None:
        self.learner, self.is_consistent, self.saved = self, is_consistent, 0
        self.step, self.console = 3, Console(quiet=True)
        self.config = type("Config", (), {"deterministic": False})

    def save_final(self, snapshot) -> None:
        self.saved += 1


@pytest.mark.parametrize(
    ("error", "is_consistent", "saved"),
    [(ZeroDivisionError(), True, 1), (ZeroDivisionError(), False, 0), (Stopped(15), True, 0)],
)
def test_whatever_leaves_the_loop_is_saved_first_unless_it_is_torn_or_in_a_hurry(
    error, is_consistent, saved, monkeypatch
):
    def fail(*_):
        raise error

    monkeypatch.setattr("unet_cli.runs.train.fit", fail)
    failing = Failing(is_consistent)
    with pytest.raises(type(error)):
        _fit_and_save(failing, failing, None)
    assert failing.saved == saved


def test_a_signal_that_the_kernel_repeats_is_noted_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("unet_cli.system.signals.time.monotonic", lambda: now[0])
    with StopRequest() as stop:
        for _ in range(10):
            os.kill(os.getpid(), signal.SIGXCPU)
            now[0] += 1
        assert stop.signum == signal.SIGXCPU
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGTERM)


def test_a_full_disk_of_the_log_is_not_given_up():
    class Full:
        said, failures = "", [OSError(28, "No space left on device")]

        def write(self, text: str) -> None:
            if self.failures:
                raise self.failures.pop(0)
            self.said += text

    stream = Unbreakable(Full())
    stream.write("lost")
    stream.write("told")
    assert stream.said == "told"
    assert stream.failed is not None


def test_a_slow_reader_of_a_pipe_that_does_not_wait_gets_all_of_it():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    code = (
        "from unet_cli.system.streams import make_streams_unbreakable\nmake_streams_unbreakable()\n"
        "for number in range(20_000): print(number, 'x' * 50)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=writing)
    os.close(writing)
    with os.fdopen(reading) as file:
        assert [line.split()[0] for line in file] == list(map(str, range(20_000)))
    assert process.wait(timeout=60) == 0


def test_these_signals_end_a_process():
    assert {"SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"} == {one.name for one in ENDING}


def test_what_catches_any_exception_lets_a_stop_pass():
    assert not issubclass(Stopped, Exception)
