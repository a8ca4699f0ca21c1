"""Near the limit of what stretching may cost, two short runs decide; elsewhere, and in short runs, the masks do."""

import math
import re
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_stretching import disc, line, write_masks

from unet_cli.checkpoint import Checkpoint, load_checkpoint
from unet_cli.config.model import ModelConfig
from unet_cli.config.training import TrainConfig
from unet_cli.data.check import stretching
from unet_cli.data.folder.layout import find_layout
from unet_cli.runs import modes
from unet_cli.runs.train import train
from unet_cli.system.console import Console

TINY = {"size": 32, "width": 4, "depth": 2, "batch_size": 2, "device": "cpu", "precision": "float32", "epochs": 1}
NETWORK = ModelConfig(name="unet", in_channels=1, num_classes=2, base_channels=8)

pytestmark = pytest.mark.usefixtures("undrawn")
LINES = [line(72)] * 5
BLOBS = [disc(72, radius) for radius in (15, 18, 21, 24, 27)]


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """Trains on thin lines, or on `masks`, with any limit close and any run long enough; what was said, and the best
    weights."""
    monkeypatch.setattr(stretching, "CLOSE", math.inf)
    monkeypatch.setattr(modes, "MAX_SHARE", math.inf)
    monkeypatch.setattr(modes, "STEPS", 10)

    def call(masks=LINES, **settings) -> tuple[str, Checkpoint]:
        if not (tmp_path / "d").exists():
            write_masks(tmp_path / "d", masks)
        config = TrainConfig(data=tmp_path / "d", output=tmp_path / "runs", val_fraction=0.4, **(TINY | settings))
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
    assert "close to the limit of 0.985: training for 10 steps in each mode" in text
    assert f"Set Dice on 2 validation images: {of_stretched:.3f} stretched, {of_crops:.3f} on crops" in text


def test_both_short_runs_are_real_and_what_they_find_does_not_depend_on_a_clock(said):
    (first, _), (second, _) = said(BLOBS, lr=0.01), said(BLOBS, lr=0.01)
    (found,) = re.findall(r"images: (0\.\d+) stretched, (0\.\d+) on crops", first)
    assert 0 < float(found[0]) != float(found[1]) > 0
    assert f"{found[0]} stretched, {found[1]} on crops" in second


def test_the_run_itself_is_what_it_would_be_without_them(said, monkeypatch):
    _, tried = said()
    monkeypatch.setattr(stretching, "CLOSE", 1.0)
    _, told = said(mode=tried.preprocessing.mode)
    assert all(torch.equal(value, told.weights[name]) for name, value in tried.weights.items())


def test_validation_images_without_foreground_decide_nothing(said):
    masks = [line(72)] + [np.zeros((72, 72), np.uint8)] * 4
    assert "steps in each mode" not in said(masks, seed=1)[0]


@pytest.mark.parametrize("settings", [{"deterministic": True}, {"mode": "resize"}])
def test_short_runs_are_not_for_every_run(said, settings):
    assert "steps in each mode" not in said(**settings)[0]


@pytest.mark.parametrize(
    ("epochs", "images", "is_short"), [(None, 20, True), (100, 20, True), (2, 20, False), (None, 1, False)]
)
def test_of_a_run_by_epochs_they_take_a_small_share(epochs, images, is_short):
    """Two times 300 batches of 4 crops, 16 to an image, are the work of 150 images: a tenth of 75 epochs of 20."""
    assert modes.are_short(call_of("cpu", epochs), NETWORK, NETWORK, True, images) is is_short


@pytest.mark.parametrize(("device", "seconds", "is_short"), [("cuda", 900, True), ("cuda", 30, False)])
def test_on_a_gpu_a_run_by_the_clock_has_to_be_long(device, seconds, is_short):
    assert modes.are_short(call_of(device, max_time=seconds), NETWORK, NETWORK, True, 20) is is_short


@pytest.mark.parametrize(("seconds", "is_short"), [(600, True), (180, False)])
def test_of_a_run_by_the_clock_they_take_a_small_share(monkeypatch, seconds, is_short):
    """With 0.25 s for the work of an image, 150 of them are a tenth of 375 s of training."""
    cost = SimpleNamespace(seconds=0.25 / modes.work(NETWORK, (512, 512)))
    monkeypatch.setattr(modes, "affordable", lambda *_: (NETWORK, cost))
    assert modes.are_short(call_of("cpu", max_time=seconds), NETWORK, NETWORK, True, 20) is is_short


def call_of(device: str, epochs: int | None = None, max_time: float | None = None) -> SimpleNamespace:
    config = SimpleNamespace(batch_size=4, size=512, epochs=epochs, max_time=max_time)
    compute = SimpleNamespace(device=SimpleNamespace(type=device))
    return SimpleNamespace(config=config, compute=compute, started=time.monotonic())


def test_check_says_where_a_run_may_try_both(unet, tmp_path):
    rows, columns = np.ogrid[:1100, :1100]
    write_masks(tmp_path / "d", [((rows + columns // 3) % 20 < 5).astype(np.uint8)] * 2)
    assert "(close to the limit: a run that is long enough tries both)" in unet("check", "--data", "d").stdout
