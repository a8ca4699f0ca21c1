"""What is told while a run goes on, and before each thing that takes a while."""

import json
import subprocess
import sys

import pytest
from conftest import TINY

from unet_cli.system.console import Console
from unet_cli.training import progress
from unet_cli.training.progress import EpochPrinter, EpochResult


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def epoch(number: int, best: bool = False) -> EpochResult:
    return EpochResult(number, number, 0.0, 0.1, 0.5, 0.5, 0.5, 0.5, 0.5, averaged=True, is_best=best)


def told(capsys) -> list[str]:
    lines = capsys.readouterr().err.splitlines()
    return [f"{line.split()[1]}{'*' * ('(best)' in line)}" for line in lines if line.startswith("epoch ")]


def test_of_short_epochs_the_first_the_last_and_one_every_few_seconds_are_told_and_the_best(clock, capsys):
    log = EpochPrinter(Console())
    for number in range(1, 14):
        log.add(epoch(number, best=number in (1, 5, 12)))
        clock.now += 0.5
    log.flush()
    log.flush()
    assert told(capsys) == ["1*", "5*", "7", "12*", "13"]


def test_of_long_epochs_each_is_told_and_one_that_was_judged_again_once(clock, capsys):
    log = EpochPrinter(Console())
    for number in range(1, 4):
        clock.now += 10
        log.add(epoch(number))
    log.add(epoch(4))
    log.add(epoch(4, best=True))
    log.flush()
    assert told(capsys) == ["1", "2", "3", "4*"]


def test_that_epochs_are_short_is_said_once(clock, capsys):
    log = EpochPrinter(Console())
    for number in range(1, 30):
        log.add(epoch(number))
        clock.now += 0.5
    assert capsys.readouterr().err.count("Epochs are short") == 1


NOTE = """
import json, os, sys, unet_cli.system.console
RUN = "checkpoints/data-1"
say = unet_cli.system.console.Console.say
def noted(self, *lines):
    made = sorted(set(os.listdir(RUN) if os.path.isdir(RUN) else ()) & {"curves.png", "metrics.json", "report.html"})
    print(json.dumps([lines[0] if lines else "", "torch" in sys.modules, made]))
    say(self, *lines)
unet_cli.system.console.Console.say = noted
from unet_cli.cli import main
main()
"""


def test_train_says_what_it_reads_before_torch_is_loaded_and_each_thing_at_its_end_before_it_is_done(data, tmp_path):
    command = [sys.executable, "-c", NOTE, "train", "--data", "data", *TINY, "--epochs", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True)
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert said[0][:2] == ["Reading data, 6 pairs", False]
    lines = [line for line, *_ in said]
    order = ["epoch", "Training is finished", "Scoring the best weights on 1 validation image", "Threshold",
             "Writing checkpoints/data-1/report.html"]  # fmt: skip
    places = [next(place for place, line in enumerate(lines) if line.startswith(start)) for start in order]
    assert places == sorted(places)
    made = [said[place][2] for place in places]
    assert made == [[], [], ["curves.png"], ["curves.png"], ["curves.png", "metrics.json"]]
