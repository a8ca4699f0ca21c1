"""Near the limit of what stretching may cost, two short runs decide; elsewhere, and in short runs, the masks do."""

import math
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_stretching import line, write_masks

from unet_cli.checkpoint import Checkpoint, load_checkpoint
from unet_cli.config import ModelConfig, TrainConfig
from unet_cli.console import Console
from unet_cli.data import stretching
from unet_cli.data.layout import find_layout
from unet_cli.run import train
from unet_cli.runs import modes

TINY = {"size": 32, "width": 4, "depth": 2, "batch_size": 2, "device": "cpu", "precision": "float32", "epochs": 1}
NETWORK = ModelConfig(name="unet", in_channels=1, num_classes=2, base_channels=8)


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """Trains on thin lines with any limit close and any run long enough; what was said, and the best weights."""
    write_masks(tmp_path / "thin", [line(72)] * 5)
    monkeypatch.setattr(stretching, "CLOSE", 1.0)
    monkeypatch.setattr(modes, "TRYING", math.inf)
    monkeypatch.setattr(modes, "STEPS", 6)

    def call(**settings) -> tuple[str, Checkpoint]:
        config = TrainConfig(data=tmp_path / "thin", output=tmp_path / "runs", **(TINY | settings))
        report = train(config, find_layout(config.data), Console(), time.monotonic())
        assert report is not None
        return capsys.readouterr().err, load_checkpoint(Path(report.best))

    return call


@pytest.mark.parametrize(("of_stretched", "of_crops", "taken"), [(0.5, 0.4, "resize"), (0.505, 0.5, "tile")])
def test_the_mode_that_the_masks_speak_for_is_left_where_the_other_is_clearly_better(
    said, monkeypatch, of_stretched, of_crops, taken
):
    """The masks speak for crops, since a line of one pixel doesn't survive."""
    dice = {"resize": of_stretched, "tile": of_crops}
    monkeypatch.setattr(modes, "_learned", lambda *arguments: dice[arguments[-2]])
    text, checkpoint = said()
    assert checkpoint.preprocessing.mode == taken
    assert "close to the limit of 0.985: training both ways for 6 steps" in text
    assert f"Set Dice on 1 validation image: {of_stretched:.3f} stretched, {of_crops:.3f} on crops" in text


def test_both_short_runs_are_real_and_what_they_find_does_not_depend_on_a_clock(said):
    first, second = said(seed=3), said(seed=3)
    assert [line for line in first[0].splitlines() if "Set Dice on" in line]
    assert first[0].split("Set Dice on")[1].splitlines()[0] == second[0].split("Set Dice on")[1].splitlines()[0]


def test_the_run_itself_is_what_it_would_be_without_them(said, monkeypatch):
    _, tried = said()
    monkeypatch.setattr(stretching, "CLOSE", 0.0)
    _, told = said(mode=tried.preprocessing.mode)
    assert all(torch.equal(value, told.weights[name]) for name, value in tried.weights.items())


@pytest.mark.parametrize(("epochs", "is_worth"), [(None, True), (100, True), (2, False)])
def test_a_run_by_epochs_is_tried_where_that_is_a_small_share_of_it(epochs, is_worth):
    """Two times 300 batches of 4 crops, 16 to an image, are the work of 150 images: a tenth of 75 epochs of 20."""
    config = SimpleNamespace(batch_size=4, size=512, epochs=epochs, max_time=None)
    call = SimpleNamespace(config=config, compute=SimpleNamespace(device=SimpleNamespace(type="cpu")))
    assert modes.is_worth_trying(call, NETWORK, 20) is is_worth


@pytest.mark.parametrize(("seconds", "is_worth"), [(600, True), (180, False)])
def test_a_run_by_the_clock_is_tried_where_that_is_a_small_share_of_it(monkeypatch, seconds, is_worth):
    """With 0.25 s for the work of an image, 150 of them are a tenth of 375 s of training."""
    cost = SimpleNamespace(seconds=0.25 / modes.work(NETWORK, 512))
    monkeypatch.setattr(modes, "measured", lambda *_: cost)
    config = SimpleNamespace(batch_size=4, size=512, epochs=None, max_time=seconds)
    call = SimpleNamespace(
        config=config, compute=SimpleNamespace(device=SimpleNamespace(type="cpu")), started=time.monotonic()
    )
    assert modes.is_worth_trying(call, NETWORK, 20) is is_worth


def test_check_says_where_a_run_may_try_both(unet, tmp_path):
    rows, columns = np.ogrid[:1100, :1100]
    write_masks(tmp_path / "d", [((rows // 9 + columns // 300) % 11 == 0).astype(np.uint8)] * 2)
    assert "(close to the limit: a run that is long enough tries both)" in unet("check", "--data", "d").stdout
