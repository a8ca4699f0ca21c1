"""`unet compare`: every network on the same data, and the failure of one stops no other."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TINY, Run, assert_failed, json_lines, wait_for, write_pairs

from unet_cli.errors import UserError
from unet_cli.models import MODELS
from unet_cli.runs.compare import chosen


def test_names_all_and_all_but_some():
    assert chosen("unet++, unet") == ["unet++", "unet"]
    assert chosen("all,-transunet") == [name for name in MODELS if name != "transunet" and not name.endswith("3d")]
    assert chosen("all", dims=3) == ["unet3d", "resunet3d", "attention3d", "nnunet3d", "nnunet-resenc3d"]
    with pytest.raises(UserError, match="did you mean attention"):
        chosen("unet,atention")
    with pytest.raises(UserError, match="leaves no network"):
        chosen("unet,-unet")


def test_each_network_is_trained_scored_on_the_test_part_and_ranked(unet: Run, data, tmp_path):
    write_pairs(tmp_path / "held", count=2)
    settings = ["--size", 32, "--batch-size", 2, "--epochs", 1, "--device", "cpu", "--precision", "float32"]
    done = unet("compare", "--data", "data", "--test", "held", "--models", "unet,unet-paper,unet-strided", *settings,
                "--width", 4, "--norm", "batch", "--depth", 2)  # fmt: skip
    assert done.returncode == 3, done.stderr
    lines = done.stdout.splitlines()
    assert columns(lines[1]) == ["network", "width", "parameters", "epochs", "test Dice", "set Dice", "IoU", "ms/image"]
    assert lines[3].startswith("unet ")
    assert re.fullmatch(r"0\.\d{3} \(0\.\d{3} to 0\.\d{3}\)", columns(lines[3])[4])
    assert "unet-paper failed: --norm doesn't apply to unet-paper" in done.stdout
    assert "--weights checkpoints/data-1/unet/best.pth" in lines[-1]
    assert (tmp_path / "checkpoints" / "data-1" / "unet" / "metrics.json").exists()


def columns(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")]


def test_a_network_is_trained_once_for_each_time(unet: Run, data, tmp_path):
    write_pairs(tmp_path / "held", count=3, side=44)
    call = ("compare", "--data", "data", "--test", "held", *TINY, "--minutes", "0.02,0.03")
    done = unet(*call, "--models", "unet", "--json")
    assert done.returncode == 0, done.stderr
    rows = {f"{row['network']}-{row['minutes']}m": row for row in json_lines(done.stdout)}
    assert sorted(rows) == ["unet-0.02m", "unet-0.03m"]
    for name, row in rows.items():
        assert row["run"] == f"checkpoints/data-1/{name}"
        assert f'max-time = "{60 * row["minutes"]:g}s"' in (tmp_path / row["run"] / "config.toml").read_text()
        assert (row["part"], row["error"]) == ("test", None)
    flags = ("--device", "cpu", "--precision", "float32", "--json")
    found = unet("evaluate", "--weights", rows["unet-0.03m"]["run"], "--data", "held", *flags)
    assert found.returncode == 0, found.stderr
    scores = {score["metric"]: score for score in json_lines(found.stdout)[0]["scores"]}
    assert rows["unet-0.03m"]["dice"] == pytest.approx(scores["dice"]["value"])
    assert rows["unet-0.03m"]["iou"] == pytest.approx(scores["iou"]["value"])
    assert rows["unet-0.03m"]["dice_interval"] == pytest.approx([scores["dice"]["low"], scores["dice"]["high"]])


def test_the_table_has_a_row_for_each_time_the_shortest_first(unet: Run, data):
    done = unet("compare", "--data", "data", *TINY, "--models", "unet,unet-paper", "--norm", "batch",
                "--val-fraction", 0.5, "--minutes", "0.03,0.02")  # fmt: skip
    assert done.returncode == 3, done.stderr
    lines = done.stdout.splitlines()
    assert columns(lines[1]) == ["network", "minutes", "width", "parameters", "epochs", "validation Dice", "set Dice",
                                 "IoU", "ms/image"]  # fmt: skip
    assert [columns(line)[:2] for line in lines[3:5]] == [["unet", "0.02"], ["unet", "0.03"]]
    assert "95 % confidence interval" in done.stdout
    assert done.stdout.count("unet-paper failed: --norm doesn't apply") == 1
    best = re.search(r"predict --weights checkpoints/data-1/unet-(0\.0[23])m/best.pth", lines[-1])
    dice = {minutes: columns(line)[5] for minutes, line in zip(("0.02", "0.03"), lines[3:5], strict=True)}
    assert best
    assert dice[best[1]] == max(dice.values())


def test_a_single_time_needs_no_name_of_its_own(unet: Run, data, tmp_path):
    done = unet("compare", "--data", "data", *TINY, "--models", "unet", "--minutes", 0.02, "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json_lines(done.stdout)
    assert (row["run"], row["minutes"]) == ("checkpoints/data-1/unet", 0.02)


@pytest.mark.parametrize("minutes", ["", "3,", "3,ten", "0", "3,-1", "nan", "inf", "1e308", "3m"])
def test_what_are_no_minutes_is_refused(unet: Run, minutes):
    done = unet("compare", "--data", "data", "--models", "unet", "--minutes", minutes)
    assert_failed(done, 2, "are no minutes: write", "such as 3,10")


@pytest.mark.parametrize("flags", [("--max-time", "3m"), ("--epochs", 3), ("--deterministic",)])
def test_minutes_and_another_length_of_training_exclude_each_other(unet: Run, flags):
    done = unet("compare", "--data", "data", "--models", "unet", "--minutes", 3, *flags)
    assert_failed(done, 2, f"--minutes says how long each network is trained: leave out {flags[0]}")


def test_widths_are_chosen_so_that_steps_take_alike(unet: Run, data):
    settings = ["--size", 32, "--batch-size", 1, "--epochs", 1, "--device", "cpu", "--json"]
    done = unet("compare", "--data", "data", "--models", "attention,unet", *settings)
    assert done.returncode == 0, done.stderr
    attention, plain = json_lines(done.stdout)
    assert plain["width"] == 32
    assert attention["width"] % 4 == 0
    assert attention["width"] <= 64
    assert 0 <= plain["dice"] <= 1
    assert plain["iou"] <= plain["dice"]
    assert (plain["part"], plain["minutes"]) == ("validation", None)
    assert plain["dice_interval"] is None  # of the only validation image


def test_what_cannot_be_trained_or_scored_is_told_before_anything_is_trained(unet: Run, data, tmp_path):
    settings = ["compare", "--data", "data", "--size", 32, "--batch-size", 2, "--epochs", 1, "--width", 4]
    done = unet(*settings, "--models", "unet3d,unet-paper", "--norm", "batch", "--json")
    assert done.returncode == 3, done.stderr
    assert [row["error"].split()[0] for row in json_lines(done.stdout)] == ["--norm", "--norm"]
    assert "epoch" not in done.stderr
    (write_pairs(tmp_path / "held", count=2) / "images" / "cell1.png").write_bytes(b"no picture")
    done = unet(*settings, "--models", "unet", "--test", "held")
    assert_failed(done, 1, "--test: ", "cell1.png")
    assert "epoch" not in done.stderr


def test_what_is_of_one_network_is_refused(unet: Run, data):
    done = unet("compare", "--data", "data", *TINY, "--model", "attention")
    assert done.returncode == 2
    assert "name several with --models" in done.stderr


def trainer_of(process: subprocess.Popen[str]) -> int:
    """The number of the process in which a network is trained, once there is one: forked from a child."""
    for _ in range(3000):
        for child in children_of(process.pid):
            if "forkserver" in Path(f"/proc/{child}/cmdline").read_text():
                for one in children_of(child):
                    return one
        time.sleep(0.02)
    raise AssertionError("nothing is trained")


def children_of(number: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{number}/task/{number}/children").read_text().split()]


COMPARE = ("compare", "--data", "data", *TINY)


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """The command in a process that isn't forked from a prepared one, and so has the server of its children too."""
    command = [sys.executable, "-m", "unet_cli", *COMPARE, *map(str, arguments)]
    # Tests that run in the background of a shell have inherited that SIGINT is ignored.
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, preexec_fn=_heeding_signals, **pipes)


def _heeding_signals() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes below /proc")


@needs_proc
def test_a_network_that_dies_is_a_row_and_the_others_are_trained(data, tmp_path):
    process = start(tmp_path, "--models", "unet,resunet", "--epochs", 1)
    assert process.stderr is not None
    while "== unet" not in process.stderr.readline():
        pass
    os.kill(trainer_of(process), signal.SIGSEGV)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 3, err
    lines = out.splitlines()
    assert columns(lines[3])[0] == "resunet"
    assert "unet failed: its process died with signal SIGSEGV" in lines
    assert "--weights checkpoints/data-1/resunet/best.pth" in lines[-1]


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_comparison_that_is_stopped_lets_the_network_be_saved(data, tmp_path, number):
    settings = ("--models", "unet", "--epochs", 100_000, "--save-every", "1h")
    process = start(tmp_path, *settings)
    last = tmp_path / "checkpoints/data-1/unet/last.pth"
    wait_for(last, process)
    before, trainer = last.stat().st_mtime_ns, trainer_of(process)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number, err
    assert "To resume: unet train --resume checkpoints/data-1/unet" in err
    assert "Traceback" not in err
    assert last.stat().st_mtime_ns > before
    assert not Path(f"/proc/{trainer}").exists()
