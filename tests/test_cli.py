"""The command line itself: help without torch, exit codes, info, bench."""

import os
import re
import subprocess
import sys

import pytest
from conftest import Run, assert_failed, json_lines

import unet_cli.cli
from unet_cli import __version__
from unet_cli.cli import options
from unet_cli.cli.options import _out_of_memory
from unet_cli.config.base import Output
from unet_cli.config.data import CheckConfig
from unet_cli.config.training import TrainConfig
from unet_cli.errors import Stopped, UserError, explain


def test_every_command_has_help_with_an_example_and_stands_in_the_list_as_it_begins(unet: Run):
    listed = " ".join(unet("--help").stdout.replace("│", " ").split())
    for command, line in unet_cli.cli.COMMANDS.items():
        done = unet(command, "--help")
        assert done.returncode == 0
        helped = " ".join(done.stdout.split())
        assert f"Example: unet {command}" in helped
        assert line.split(":")[0] in helped
        assert f"{command} {line}"[:60] in listed


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("bash", {"COMP_WORDS": "unet train --wid", "COMP_CWORD": "2"}),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "unet train --wid"}),
        ("fish", {"_TYPER_COMPLETE_ARGS": "unet train --wid", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}),
    ],
)
def test_shells_complete_the_options_of_a_command(tmp_path, shell, line):
    environment = os.environ | {"_UNET_COMPLETE": f"complete_{shell}"} | line
    code = "import sys\nsys.argv = ['unet']\nfrom unet_cli.cli import app, main\napp.info.name = 'unet'\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert "--width" in done.stdout, done.stderr


def test_a_command_is_built_alone(tmp_path):
    code = (
        "import sys\nfrom unet_cli.cli import main\n"
        "try: main()\nexcept SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    for arguments, built in ((["--help"], set()), (["predict", "--help"], {"predict"}), (["trian"], set())):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path)
        modules = {
            name.removeprefix("unet_cli.cli.") for name in done.stderr.split() if name.startswith("unet_cli.cli.")
        }
        assert modules & {"predict", "train", "check", "import_"} == built
    assert "Did you mean" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_imports_neither_torch_nor_numpy(arguments, tmp_path):
    code = (
        "import sys\nfrom unet_cli.cli import main\n"
        "try: main()\nfinally: print('LOADED', *sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path)
    loaded = done.stderr.split()
    assert loaded[0] == "LOADED"
    assert not {"torch", "numpy", "PIL", "matplotlib", "torchvision", "tqdm"} & set(loaded)
    assert "pydantic" not in loaded or "train" not in arguments  # as long again as all the rest


def test_help_is_the_same_in_either_spelling_and_beside_other_options(unet: Run):
    said = unet("train", "--help").stdout.split()
    assert said == unet("train", "-h").stdout.split()
    parsed = unet("train", "--quiet", "-h").stdout.split()  # which names the program as it was called
    assert said[said.index("[OPTIONS]") :] == parsed[parsed.index("[OPTIONS]") :]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, "passive"),
        ({"OMP_WAIT_POLICY": "active"}, "active"),
        ({"GOMP_SPINCOUNT": "100"}, None),
        ({"KMP_BLOCKTIME": "200"}, None),
    ],
)
def test_threads_sleep_while_they_wait_unless_the_user_has_said_otherwise(monkeypatch, given, found):
    for name in unet_cli.cli.WAITING:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    unet_cli.cli.let_threads_sleep()
    assert os.environ.get("OMP_WAIT_POLICY") == found
    monkeypatch.setenv("OMP_WAIT_POLICY", "")  # so that it is taken back


def test_torch_finds_threads_that_sleep(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in unet_cli.cli.WAITING}
    command = [sys.executable, "-m", "unet_cli", "info", "nothing.pth"]
    done = subprocess.run(
        command, env=environment | {"OMP_DISPLAY_ENV": "TRUE"}, capture_output=True, text=True, cwd=tmp_path
    )
    assert re.search(r"OMP_WAIT_POLICY *= *'?PASSIVE", done.stderr)


def test_version(unet: Run):
    assert unet("--version").stdout.strip() == f"unet {__version__}"


def test_an_unknown_command_suggests_the_nearest(unet: Run):
    assert_failed(unet("trian"), 2, "trian", "train")


def test_info_says_what_a_checkpoint_is(unet: Run, trained):
    done = unet("info", trained)
    assert done.returncode == 0, done.stderr
    for part in (
        "unet, width 4, depth 2",
        "2 classes",
        "3 channels, 32x32, uint8",
        "6 pairs",
        "val_dice",
        "final_dice",
        __version__,
    ):
        assert part in done.stdout
    report = json_lines(unet("info", trained, "--json").stdout)[0]
    assert report["model"]["base_channels"] == 4
    assert report["training"]["epochs"] == 3
    assert_failed(unet("info", "nothing.pth"), 1, "nothing.pth does not exist")


def test_bench_prints_ratios(unet: Run):
    done = unet("bench", "--rounds", 1, "--width", 2, "--images", 1, "--masks", 1, "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    report = json_lines(done.stdout)[0]
    assert report["step_ratio"] == pytest.approx(report["step_seconds"] / report["step_plain_seconds"])
    assert report["forward_ratio"] > 0
    assert report["predict_ratio"] == pytest.approx(report["plain_loop_seconds"] / report["predict_seconds"])
    assert report["network_ratio"] == pytest.approx(report["predict_seconds"] / report["network_seconds"])


def test_sample_prints_the_next_command(unet: Run, tmp_path):
    done = unet("sample", "cells", "--count", 2)
    assert done.returncode == 0
    assert "unet train --data cells --max-time 3m" in done.stdout
    assert len(list((tmp_path / "cells").rglob("*.png"))) == 2


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("look here"), 1, "unet: look here\n"),
        (PermissionError(13, "Permission denied", "x"), 1, "unet: x: Permission denied: choose a folder that you may"),
        (KeyboardInterrupt(), 130, "stopped"),
        (Stopped(15), 143, "stopped"),
        (ZeroDivisionError("oops"), 70, "defect of unet"),
    ],
)
def test_exit_codes(error, code, message, capsys):
    def fail(output: Output) -> int:
        raise error

    assert options._exit_code(fail, (Output,), {"json": False, "quiet": False, "debug": False}) == code
    assert message in capsys.readouterr().err


def test_a_defect_keeps_its_traceback_in_a_file_and_debug_shows_it(capsys):
    def fail(output: Output) -> int:
        raise ZeroDivisionError("oops")

    options._exit_code(fail, (Output,), {"json": False, "quiet": False, "debug": False})
    message = capsys.readouterr().err
    assert "Traceback" not in message
    with open(message.split()[-1]) as log:
        assert "ZeroDivisionError: oops" in log.read()
    options._exit_code(fail, (Output,), {"json": False, "quiet": False, "debug": True})
    assert "Traceback" in capsys.readouterr().err


def test_models_are_printed_with_what_they_cost(unet: Run):
    from unet_cli.models import MODELS

    done = unet("models", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json_lines(done.stdout)}
    assert list(rows) == list(MODELS)
    assert rows["unet"]["parameters"] == 31_037_633
    assert rows["unet"]["multiply_adds"] == pytest.approx(192.67e9, rel=1e-3)
    assert rows["unet-paper"]["least_side"] == 188
    assert rows["unet-paper"]["settings"] == {"--width": 64, "--depth": 4, "--dropout": 0.5}
    assert rows["unet3d"]["spatial"] == [64, 64, 64]
    assert rows["unet3d"]["multiply_adds"] == pytest.approx(244.67e9, rel=1e-3)


def test_advice_on_short_memory_is_what_the_command_can_do():
    assert "--gradient-checkpointing" in _out_of_memory((TrainConfig,))
    advice = _out_of_memory((CheckConfig, Output))
    assert "--workers" in advice
    assert "--batch-size" not in advice


def test_a_system_without_a_folder_for_temporary_files_is_told_what_to_set():
    error = FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp']")
    assert "set TMPDIR" in str(explain(error))
