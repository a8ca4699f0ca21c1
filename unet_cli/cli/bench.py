"""`unet bench`: what this machine gains from the way in which unet computes."""

from __future__ import annotations

from unet_cli.cli import app
from unet_cli.cli.options import DONE, command
from unet_cli.config import BenchConfig, Output
from unet_cli.console import Console


@command(app, "bench", BenchConfig, example="unet bench --rounds 5")
def bench_cli(config: BenchConfig, output: Output) -> int:
    """Time a training step, a forward pass and prediction from disk to disk against the plain way of doing the same."""
    from statistics import median

    from unet_cli import benchmarks
    from unet_cli.device import choose_compute

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
    for name, what, (ours, plain) in (
        ("step", "training step, batch 2, 256x256", benchmarks.steps(config.width, compute)),
        ("forward", "forward pass, batch 1, 512x512", benchmarks.forwards(config.width, compute)),
    ):
        pairs = [tuple(benchmarks.seconds(way, compute) for way in (ours, plain)) for _ in range(config.rounds + 1)][1:]
        times = median(a for a, _ in pairs), median(b for _, b in pairs)
        report |= {f"{name}_seconds": times[0], f"{name}_plain_seconds": times[1]}
        report[f"{name}_ratio"] = median(a / b for a, b in pairs)
        console.result(f"{what}: {times[0]:.3f} s against {times[1]:.3f} s, ratio {report[f'{name}_ratio']:.2f}")
    console.document(report)
    console.result("Next, train on the sample data:", "  unet train --data data/ --max-time 3m")
    return DONE
