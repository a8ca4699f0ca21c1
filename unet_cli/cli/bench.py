"""`unet bench`: speed of unet on this machine against plain implementations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unet_cli.cli import app
from unet_cli.cli.options import DONE, command
from unet_cli.config.base import Output
from unet_cli.config.hardware import BenchConfig
from unet_cli.system.console import Console

if TYPE_CHECKING:
    from unet_cli.runs.benchmarks import Timed
    from unet_cli.system.device import Compute

TRAINED_BATCH = 16  # batch size of the training benchmark on a GPU


@command(app, "bench", BenchConfig, example="unet bench --rounds 5")
def bench_cli(config: BenchConfig, output: Output) -> int:
    """Time training, augmentation, prediction and evaluation, each against a plain implementation."""
    from unet_cli.runs import benchmarks
    from unet_cli.system.device import choose_compute

    console = Console(output.json, output.quiet)
    compute = choose_compute(config.device, config.precision)
    console.say(
        f"Network unet, width {config.width}, depth 4, 3 channels; {compute.describe()}; {config.rounds} rounds in turn"
    )
    each = benchmarks.disk_to_disk(config.width, compute, config.images)
    report = {f"{name}_seconds": seconds for name, seconds in each.items()}
    report["predict_ratio"] = each["plain_loop"] / each["predict"]
    report["network_ratio"] = each["predict"] / each["network"]
    console.result(
        f"{config.images} JPEGs of 1024x768 from disk to disk, plain loop against unet predict: "
        f"{each['plain_loop']:.3f} s an image against {each['predict']:.3f} s, ratio {report['predict_ratio']:.2f}; "
        f"unet predict against the network alone: {report['network_ratio']:.2f}"
    )
    for name, what, ways in (
        ("step", "training step, batch 2, 256x256", benchmarks.steps(config.width, compute)),
        ("forward", "forward pass, batch 1, 512x512", benchmarks.forwards(config.width, compute)),
    ):
        ours, plain, ratio = _timed(ways, compute, config.rounds)
        report |= {f"{name}_seconds": ours, f"{name}_plain_seconds": plain, f"{name}_ratio": ratio}
        console.result(f"{what}: {ours:.3f} s against {plain:.3f} s, ratio {ratio:.2f}")
    report |= _augmentation(console, compute, config.rounds) | _evaluation(console, compute, config)
    if compute.device.type == "cuda":
        report |= _training(console, compute, config.width)
    console.document(report)
    console.result("Next, train on the sample data:", "  unet train --data data/ --max-time 3m")
    return DONE


def _timed(ways: tuple[Timed, Timed], compute: Compute, rounds: int) -> tuple[float, float, float]:
    """Median seconds of both, timed alternately after a warm-up round, and the median of their ratio."""
    from statistics import median

    from unet_cli.runs.benchmarks import seconds

    ours, plain = ways
    # Alternating rounds: a change of the processor's clock rate or load affects both alike.
    pairs = [(seconds(ours, compute), seconds(plain, compute)) for _ in range(rounds + 1)][1:]
    return median(a for a, _ in pairs), median(b for _, b in pairs), median(a / b for a, b in pairs)


def _augmentation(console: Console, compute: Compute, rounds: int) -> dict[str, float]:
    from unet_cli.runs.benchmarks import AUGMENTED_BATCH, AUGMENTED_BATCHES, augmentations

    ours, plain, ratio = _timed(augmentations(compute), compute, rounds)
    images = AUGMENTED_BATCH * AUGMENTED_BATCHES
    console.result(
        f"full augmentation, batches of {AUGMENTED_BATCH}, 512x512x3 and masks: {images / ours:.1f} images/s against "
        f"{images / plain:.1f} with torchvision sample by sample, ratio {ratio:.3f}: {1 / ratio:.1f} times as fast"
    )
    return {
        "augmentation_seconds": ours / images,
        "augmentation_torchvision_seconds": plain / images,
        "augmentation_ratio": ratio,
    }


def _evaluation(console: Console, compute: Compute, config: BenchConfig) -> dict[str, float]:
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from unet_cli.runs.benchmarks import evaluations

    with TemporaryDirectory() as folder:
        ours, plain, ratio = _timed(evaluations(Path(folder), config.masks), compute, config.rounds)
    console.result(
        f"{config.masks} masks of 512x512 evaluated from disk, every score: {1000 * ours / config.masks:.1f} ms each, "
        f"against {1000 * plain / config.masks:.1f} ms for the surface metrics alone in a plain loop over scipy, ratio "
        f"{ratio:.3f}"
    )
    return {
        "evaluation_seconds": ours / config.masks,
        "evaluation_plain_seconds": plain / config.masks,
        "evaluation_ratio": ratio,
    }


def _training(console: Console, compute: Compute, width: int) -> dict[str, float]:
    from unet_cli.runs.benchmarks import matrix_peak, training_pace

    peak = matrix_peak(compute)
    report = {"matrix_peak_flops": peak}
    for name, compiled in (("eager", False), ("compiled", True)):
        pace = training_pace(width, compute, compiled, TRAINED_BATCH)
        speed, share = pace["images_per_second"], pace["images_per_second"] * pace["flops"] / peak
        report |= {
            f"training_{name}_images_per_second": speed,
            f"training_{name}_peak_share": share,
            f"training_{name}_bytes": pace["bytes"],
        }
        console.result(
            f"training, {name}, batch {TRAINED_BATCH}, 512x512: {speed:.1f} images/s, {share:.0%} of the "
            f"{peak / 1e12:.0f} TFLOP/s of large bf16 products here, at most {pace['bytes'] / 2**30:.1f} GiB"
        )
    return report
