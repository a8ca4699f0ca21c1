"""`unet bench`: what this machine gains from memory layout and number format."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from unet_cli.cli import app
from unet_cli.cli.options import DONE, command
from unet_cli.config import BenchConfig, ModelConfig, Output
from unet_cli.console import Console

if TYPE_CHECKING:
    from unet_cli.device import Compute


@command(app, "bench", BenchConfig, example="unet bench --rounds 5")
def bench_cli(config: BenchConfig, output: Output) -> int:
    """Time a training step and a forward pass as unet runs them against float32 in the default memory layout."""
    from statistics import median

    from unet_cli.device import choose_compute

    console = Console(output.json, output.quiet)
    compute = choose_compute(config.device, config.precision)
    console.say(
        f"Network unet, width {config.width}, depth 4, 3 channels; {compute.describe()}; {config.rounds} rounds in turn"
    )
    report: dict[str, float] = {}
    for name, what, ours, plain in (
        ("step", "training step, batch 2, 256x256", *_steps(config, compute)),
        ("forward", "forward pass, batch 1, 512x512", *_forwards(config, compute)),
    ):
        pairs = [(_seconds(ours, compute), _seconds(plain, compute)) for _ in range(config.rounds + 1)][1:]
        times = median(a for a, _ in pairs), median(b for _, b in pairs)
        report |= {f"{name}_seconds": times[0], f"{name}_plain_seconds": times[1]}
        report[f"{name}_ratio"] = median(a / b for a, b in pairs)
        console.result(f"{what}: {times[0]:.3f} s against {times[1]:.3f} s, ratio {report[f'{name}_ratio']:.2f}")
    console.document(report)
    console.result("Next, train on the sample data:", "  unet train --data data/ --max-time 3m")
    return DONE


def _steps(config: BenchConfig, compute: Compute) -> tuple[Callable[[], object], Callable[[], object]]:
    """Forward, loss, backward and step in the layout and format of `unet train`, and the plain ones."""
    import torch

    from unet_cli.models import build_model
    from unet_cli.training.losses import bce_dice

    def step_of(tuned: bool) -> Callable[[], object]:
        layout = torch.channels_last if tuned else torch.contiguous_format
        model = build_model(ModelConfig(base_channels=config.width)).to(compute.device).to(memory_format=layout)
        optimizer = torch.optim.Adam(model.parameters(), fused=tuned and compute.device.type in ("cpu", "cuda") or None)
        image = torch.randn(2, 3, 256, 256, device=compute.device).contiguous(memory_format=layout)
        mask = torch.rand(2, 256, 256, device=compute.device) > 0.5

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with compute.autocast() if tuned else torch.autocast(compute.device.type, enabled=False):
                logits = model(image)
            bce_dice(logits, mask).backward()
            optimizer.step()

        return step

    return step_of(True), step_of(False)


def _forwards(config: BenchConfig, compute: Compute) -> tuple[Callable[[], object], Callable[[], object]]:
    """A forward pass in the layout and format of `unet predict`, and the plain one."""
    import torch

    from unet_cli.models import build_model

    def forward_of(tuned: bool) -> Callable[[], object]:
        layout = torch.channels_last if tuned else torch.contiguous_format
        model = build_model(ModelConfig(base_channels=config.width)).to(compute.device).to(memory_format=layout).eval()
        image = torch.randn(1, 3, 512, 512, device=compute.device).contiguous(memory_format=layout)

        def forward() -> None:
            with (
                torch.inference_mode(),
                compute.autocast() if tuned else torch.autocast(compute.device.type, enabled=False),
            ):
                model(image)

        return forward

    return forward_of(True), forward_of(False)


def _seconds(function: Callable[[], object], compute: Compute) -> float:
    import torch

    start = time.perf_counter()
    function()
    if compute.device.type != "cpu":
        torch.get_device_module(compute.device).synchronize()
    return time.perf_counter() - start
