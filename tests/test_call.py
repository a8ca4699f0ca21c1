"""What a run that is gone on with has to have, and what may be other than it was."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unet_cli.checkpoint import Checkpoint
from unet_cli.config.base import plain
from unet_cli.config.training import TrainConfig
from unet_cli.data.folder.layout import Layout
from unet_cli.errors import UserError
from unet_cli.run_folder import independent
from unet_cli.runs.resume import Call, saved_state
from unet_cli.system.console import Console
from unet_cli.system.device import Compute
from unet_cli.system.distributed import World


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A run's folder with both checkpoints and a log."""
    for name in ("best.pth", "last.pth", "log.csv"):
        shutil.copy(trained.parent / name, tmp_path)
    return tmp_path


def call(saved: Checkpoint | None, **settings) -> Call:
    config = TrainConfig(data=Path("data"), **settings)
    compute = Compute(torch.device("cpu"), "float32")
    return Call(config, Layout(Path("data"), {}, ""), compute, World(), Console(quiet=True), 0.0, Path("run"), saved)


def test_a_saved_run_is_found(run):
    assert saved_state(run).resume["seconds"] > 0


def test_a_run_that_was_killed_before_its_first_save_begins_again(run):
    (run / "last.pth").unlink()
    (run / "log.csv").unlink()
    assert saved_state(run) is None  # best.pth is written first


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        pytest.param(
            lambda run: (run / "last.pth").rename(run / "metrics.json"),
            "finished training, and .*last.pth is missing: restore it, or .*--init",
            id="gone",
        ),
        pytest.param(
            lambda run: (run / "last.pth").write_bytes(b"no"), "damaged.*restore it, or .*--init", id="damaged"
        ),
        pytest.param(
            lambda run: (run / "last.pth").write_bytes((run / "best.pth").read_bytes()),
            "holds only weights, and no state to resume from",
            id="best.pth in its place",
        ),
        pytest.param(lambda run: (run / "best.pth").unlink(), "best.pth is missing", id="best.pth gone"),
    ],
)
def test_a_run_that_has_lost_a_file_is_not_trained_over(run, damage, parts):
    damage(run)
    with pytest.raises(UserError, match=parts):
        saved_state(run)


def test_settings_that_have_changed_are_told_and_lasting_ones_refused(run):
    then = TrainConfig(data=Path("data"), lr=0.1, size=64, mode="tile")
    saved = replace(saved_state(run), training=plain(independent(then)))
    assert call(saved, lr=0.1, size=64, mode="auto").changes() == {}
    other = call(saved, lr=0.2, size=64, mode="tile", epochs=7)
    assert other.changes() == {"lr": (0.1, 0.2), "epochs": (None, 7)}
    other.check_lasting()
    with pytest.raises(UserError, match="started with --size 64, and can't be resumed with 32"):
        call(saved, lr=0.1, size=32, depth=4, mode="tile").check_lasting()
