"""What only a GPU shows. The commands run as a user's would, in processes of their own, and what a GPU makes of tiny
data is compared with what the processor makes of it: the same but for rounding, which with TF32 and bf16 is coarse.

Skipped where torch sees no NVIDIA GPU.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import pixels, write_pairs

from unet_cli.data.samples.augment import AUGMENTATIONS, Augmentation, augment

pytestmark = pytest.mark.cuda

SMALL = ("--size", 32, "--width", 4, "--depth", 2)
ALIKE = ("--batch-size", 2, "--augment", "none", "--seed", 1)  # on every device

# `unet ARGUMENTS` with the first argument's bytes of the GPU's memory, as if others had taken the rest.
SHORT_OF_MEMORY = """
import sys, torch
from unet_cli.cli import main
torch.cuda.set_per_process_memory_fraction(int(sys.argv.pop(1)) / torch.cuda.mem_get_info()[1])
main()
"""


def called(folder: Path, *command: object) -> subprocess.CompletedProcess[str]:
    """It succeeded."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, *map(str, command)]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done


def unet(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return called(folder, "-m", "unet_cli", *arguments)


def train(folder: Path, name: str, *settings: object) -> list[dict[str, str]]:
    """Train checkpoints/NAME on data; its log, a row an epoch."""
    unet(folder, "train", "--data", "data", "--name", name, *SMALL, *settings)
    return log_of(folder, name)


def log_of(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "checkpoints" / name / "log.csv").open() as file:
        return list(csv.DictReader(file))


def losses(rows: list[dict[str, str]]) -> list[float]:
    return [float(row["train_loss"]) for row in rows]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and a run of three epochs on a GPU, checkpoints/usual."""
    folder = tmp_path_factory.mktemp("cuda")
    write_pairs(folder / "data", count=6)
    train(folder, "usual", *ALIKE, "--device", "cuda", "--precision", "float32", "--epochs", 3)
    return folder


@pytest.mark.parametrize("precision", ["float32", "bf16", "float16"])
def test_steps_on_a_gpu_are_those_on_the_processor_but_for_rounding(place, precision):
    settings = (*ALIKE, "--epochs", 2, "--lr", 0.001)
    if not (place / "checkpoints/cpu").exists():
        train(place, "cpu", *settings, "--device", "cpu", "--precision", "float32")
    rows = train(place, precision, *settings, "--device", "cuda", "--precision", precision)
    assert losses(rows) == pytest.approx(losses(log_of(place, "cpu")), rel=0.05)


def test_a_batch_size_is_found_by_trial_and_what_is_not_said_suits_a_gpu(place):
    rows = train(place, "auto", "--device", "cuda", "--epochs", 2)
    assert len(rows) == 2
    assert all(np.isfinite(losses(rows)))


def samples() -> tuple[torch.Tensor, torch.Tensor, list[tuple[int, int, int]]]:
    """Smooth images, so that a shift by the rounding of a coordinate changes little; masks; keys."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    image = torch.stack([(rows * k + columns).sin() for k in range(1, 13)]).view(4, 3, 64, 64)
    mask = (image[:, 0] > 0.2).long()
    return image, mask, [(0, 1, index) for index in range(4)]


def on_both(strength: Augmentation) -> list[tuple[torch.Tensor, torch.Tensor]]:
    image, mask, keys = samples()
    found = [augment(image.to(d), mask.to(d), strength, keys) for d in ("cpu", "cuda")]
    return [(image.cpu(), mask.cpu()) for image, mask in found]


@pytest.mark.parametrize("name", ["light", "full", "paper"])
def test_augmentation_on_a_gpu_is_that_on_the_processor(name):
    strength = replace(AUGMENTATIONS[name], chance=1.0, ramp=0, noise=0.0)
    (image, mask), (other, other_mask) = on_both(strength)
    assert (image - other).abs().max() < 0.01
    assert (mask != other_mask).double().mean() < 0.001


def test_noise_is_drawn_on_the_gpu_and_by_the_key():
    strength = Augmentation(flips=False, noise=0.5, chance=1.0)
    image, mask, keys = samples()
    first, second = (augment(image.cuda(), mask.cuda(), strength, keys)[0] for _ in range(2))
    assert first.is_cuda
    assert torch.equal(first, second)
    assert (first.cpu() - image).std() > 0.05


def predict(place: Path, output: str, *settings: object, weights: str = "checkpoints/usual/best.pth") -> np.ndarray:
    """The first image's probabilities."""
    arguments = ("--weights", weights, "--input", "data/images", "--output", output, "--probabilities")
    unet(place, "predict", *arguments, *settings)
    return probabilities_in(place / output)


def probabilities_in(folder: Path) -> np.ndarray:
    return pixels(folder / "cell0_probability.png") / 65535


@pytest.mark.parametrize("mode", [("--mode", "resize"), ("--mode", "tile"), ("--flips",)])
def test_probabilities_of_a_gpu_are_those_of_the_processor_but_for_rounding(place, mode):
    name = "-".join(mode).strip("-")
    expected, *others = (
        predict(place, f"{name}-{device}-{precision}", *mode, "--device", device, "--precision", precision)
        for device, precision in (("cpu", "float32"), ("cuda", "float32"), ("cuda", "bf16"))
    )
    for found in others:
        assert np.abs(found - expected).max() < 0.03


def test_a_compiled_network_trains_and_predicts_as_the_plain_one(place):
    settings = (*ALIKE, "--device", "cuda", "--precision", "float32")
    rows = train(place, "compiled", *settings, "--epochs", 3, "--compile")
    assert losses(rows) == pytest.approx(losses(log_of(place, "usual")), rel=0.05)
    plain, compiled = (
        predict(place, f"out{''.join(flags)}", *flags, "--device", "cuda", "--precision", "float32")
        for flags in ((), ("--compile",))
    )
    assert np.abs(plain - compiled).max() < 0.03


@pytest.mark.parametrize("precision", ["bf16", "float16"])
def test_a_run_goes_on_on_the_gpu_with_its_optimizer_and_its_scale_of_losses(place, precision):
    name = f"resumed-{precision}"
    train(place, name, *ALIKE, "--device", "cuda", "--precision", precision, "--epochs", 2)
    done = unet(place, "train", "--resume", f"checkpoints/{name}", "--epochs", 4)
    assert f"Resuming checkpoints/{name} in epoch 3" in done.stderr
    rows = log_of(place, name)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert losses(rows)[-1] < losses(rows)[0]


def test_a_run_of_a_gpu_predicts_and_goes_on_without_one(place):
    hidden = ("--device", "cpu", "--precision", "float32")
    assert predict(place, "without", *hidden).shape == (40, 40)
    train(place, "moved", *ALIKE, "--device", "cuda", "--precision", "float32", "--epochs", 1)
    unet(place, "train", "--resume", "checkpoints/moved", "--epochs", 2, *hidden)
    assert len(log_of(place, "moved")) == 2


def test_training_that_runs_out_of_memory_goes_on_with_parts_of_the_batch(place):
    """Four images of 256x256 take some 400 MiB at this width, two some 200."""
    arguments = ("train", "--data", "data", "--name", "short", "--size", 256, "--width", 16, "--batch-size", 4)
    settings = ("--val-fraction", 0.2, "--epochs", 1, "--device", "cuda", "--precision", "float32")
    done = called(place, "-c", SHORT_OF_MEMORY, 320 * 2**20, *arguments, *settings)
    assert "Out of memory with 4 images at once: continuing with 2 at once" in done.stderr
    assert all(np.isfinite(losses(log_of(place, "short"))))


def test_prediction_that_runs_out_of_memory_goes_on_with_halved_batches(place):
    """A batch is filled up, and so takes its whole memory even of six images."""
    settings = ("--device", "cuda", "--precision", "float32")
    expected = predict(place, "roomy", *settings)
    arguments = ("predict", "--weights", "checkpoints/usual/best.pth", "--input", "data/images", "--output", "narrow")
    batches = ("--batch-size", 16384, "--probabilities")
    called(place, "-c", SHORT_OF_MEMORY, 128 * 2**20, *arguments, *settings, *batches)
    assert len(list((place / "narrow").iterdir())) == 12  # of each image its mask and its probabilities
    assert np.abs(probabilities_in(place / "narrow") - expected).max() < 0.03
