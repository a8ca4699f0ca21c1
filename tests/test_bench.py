"""What `unet bench` computes from its timings, on tiny sizes and, where times would matter, with counted calls."""

import pytest
import torch

from unet_cli.cli import bench
from unet_cli.config.model import ModelConfig
from unet_cli.models import build_model
from unet_cli.system.console import Console
from unet_cli.system.device import Compute

CPU = Compute(torch.device("cpu"), "float32")


@pytest.fixture(scope="module")
def benchmarks():
    """The module, which takes seconds to import."""
    from unet_cli.runs import benchmarks

    return benchmarks


@pytest.fixture
def clock(monkeypatch, benchmarks):
    """Every timed call takes two seconds."""
    monkeypatch.setattr(benchmarks, "seconds", lambda function, compute: (function(), 2.0)[1])


def test_training_pace_counts_images_and_operations(clock, benchmarks):
    pace = benchmarks.training_pace(2, CPU, compiled=False, batch_size=3, size=32, rounds=2)
    assert pace["images_per_second"] == 2 * 3 / 2.0
    assert pace["bytes"] == 0
    convolutions = [m for m in build_model(ModelConfig(base_channels=2)).modules() if isinstance(m, torch.nn.Conv2d)]
    first = 2 * 32 * 32 * 2 * 3 * 9  # of one image, forward
    assert convolutions[0].weight.shape == (2, 3, 3, 3)
    assert pace["flops"] > 3 * first
    wider = benchmarks.training_pace(4, CPU, compiled=False, batch_size=1, size=32, rounds=1)
    assert 3 < wider["flops"] / pace["flops"] < 4  # fourfold but for the first and the last layer


def test_the_peak_is_that_of_all_products(clock, benchmarks):
    assert benchmarks.matrix_peak(CPU, size=16, rounds=3) == 3 * 2 * 16**3 / 2.0


def test_shares_of_the_peak_are_reported(monkeypatch, capsys, benchmarks):
    paces = {False: {"images_per_second": 50.0, "flops": 4e12, "bytes": 2**30}}
    paces[True] = paces[False] | {"images_per_second": 100.0}
    monkeypatch.setattr(benchmarks, "matrix_peak", lambda compute: 8e14)
    monkeypatch.setattr(benchmarks, "training_pace", lambda width, compute, compiled, batch_size: paces[compiled])
    report = bench._training(Console(False, False), CPU, 64)
    assert report["training_eager_peak_share"] == 0.25
    assert report["training_compiled_peak_share"] == 0.5
    assert "compiled, batch 16, 512x512: 100.0 images/s, 50% of the 800 TFLOP/s" in capsys.readouterr().out


def test_ratios_are_medians_of_rounds_after_the_first(monkeypatch, benchmarks):
    times = iter([99.0, 1.0, 1.0, 4.0, 2.0, 4.0, 9.0, 4.0])
    monkeypatch.setattr(benchmarks, "seconds", lambda function, compute: next(times))
    assert bench._timed((lambda: None, lambda: None), CPU, rounds=3) == (2.0, 4.0, 0.5)


def test_both_ways_of_augmenting_change_as_many_images(monkeypatch, clock, capsys, benchmarks):
    small = benchmarks.augmentations(CPU, size=64)
    monkeypatch.setattr(benchmarks, "augmentations", lambda compute: small)
    report = bench._augmentation(Console(False, False), CPU, rounds=2)
    assert report["augmentation_seconds"] == report["augmentation_torchvision_seconds"] == 2.0 / 8
    assert report["augmentation_ratio"] == 1.0
    assert "4.0 images/s against 4.0" in capsys.readouterr().out


def test_torchvision_changes_image_and_mask_together(benchmarks):
    strength = benchmarks.AUGMENTATIONS["full"]
    transforms = benchmarks._torchvision_transforms(strength, 128)
    inside = torch.zeros(1, 128, 128)
    inside[:, 30:90, 20:70] = 1
    overlaps = []
    torch.manual_seed(0)
    for _ in range(10):
        image, mask = transforms(
            benchmarks.tv_tensors.Image(inside.expand(3, -1, -1)), benchmarks.tv_tensors.Mask(inside[0])
        )
        assert image.shape == (3, 128, 128)
        assert mask.shape == (128, 128)
        bright = image.mean(0) > (image.max() + image.min()) / 2
        overlaps.append((bright & (mask > 0)).sum() / (bright | (mask > 0)).sum())
    assert torch.stack(overlaps).mean() > 0.85
