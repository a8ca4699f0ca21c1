"""How fast exported networks are beside torch, on this machine and in one run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from unet_cli.checkpoint import Checkpoint
from unet_cli.config.hardware import CPU_PREDICT_BATCH
from unet_cli.config.prediction import Inference
from unet_cli.data.formats.extras import OPENVINO, needed
from unet_cli.exported import RUNTIMES, Exported, Speed
from unet_cli.inference.member import make_member
from unet_cli.system.device import DTYPES, Compute, choose_compute, keep_freed_memory, processor_name

if TYPE_CHECKING:
    from onnx import ModelProto

Forward = Callable[[Tensor], Any]
Runtime = Literal["onnxruntime", "openvino"]

MIN_ROUNDS, MAX_ROUNDS = 3, 20
SECONDS = 6.0  # for all rounds together, unless MIN_ROUNDS take longer
TORCH, FLOAT, INT8 = "torch", "exported", "int8"


@dataclass(frozen=True)
class Row:
    """A network in a runtime. seconds: of a forward pass of one image. bytes: of its file, of weights for torch."""

    name: str
    seconds: float
    bytes: int


def as_exported(checkpoint: Checkpoint, network: ModelProto, runtime: Runtime = "onnxruntime") -> Checkpoint:
    """A checkpoint whose network is the exported one, as `unet predict` would read it from a file. network: from
    network_input to logits."""
    shape = tuple(side.dim_value or None for side in network.graph.input[0].type.tensor_type.shape.dim)
    model: Any = network.SerializeToString()
    if runtime == "openvino":
        model = needed(OPENVINO).Core().read_model(model)
    exported = Exported(Path(f"the exported network ({RUNTIMES[runtime]})"), runtime, "", model, shape)
    return replace(checkpoint, weights={}, exported=exported)


def compare_speed(
    checkpoint: Checkpoint,
    networks: Mapping[str, ModelProto],
    mode: str,
    runtime: Runtime = "onnxruntime",
    seconds: float = SECONDS,
) -> list[Row]:
    """Torch as `unet predict` runs it on this CPU, then each network in the runtime: all on the same input, in turn.

    networks: by name, with inputs of one shape. mode: 'resize' or 'tile'. Raises UserError where one can't be run.
    """
    compute = choose_compute("cpu", "auto", by_trial=False)
    keep_freed_memory(compute)
    settings = Inference(device="cpu")
    checkpoints = {TORCH: checkpoint}
    checkpoints |= {name: as_exported(checkpoint, network, runtime) for name, network in networks.items()}
    forwards = {name: _forward(one, compute, settings, mode) for name, one in checkpoints.items()}
    sides = [side.dim_value for side in next(iter(networks.values())).graph.input[0].type.tensor_type.shape.dim[1:]]
    image = torch.randn(CPU_PREDICT_BATCH, *sides, generator=torch.Generator().manual_seed(0))
    times = alternated({name: partial(run, image) for name, run in forwards.items()}, seconds)
    sizes = {TORCH: sum(weight.nbytes for weight in checkpoint.weights.values())}
    sizes |= {name: network.ByteSize() for name, network in networks.items()}
    return [Row(name, times[name] / len(image), sizes[name]) for name in checkpoints]


def alternated(runs: Mapping[str, Callable[[], object]], seconds: float = SECONDS) -> dict[str, float]:
    """Seconds of each, the fastest of several rounds in which all take their turn after one that isn't counted: what
    else the machine does only adds to them, and changes in its course meet all alike."""
    for run in runs.values():
        run()
    fastest = dict.fromkeys(runs, float("inf"))
    begun = time.perf_counter()
    for number in range(MAX_ROUNDS):
        if number >= MIN_ROUNDS and time.perf_counter() - begun > seconds:
            break
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            fastest[name] = min(fastest[name], time.perf_counter() - start)
    return fastest


def metadata_of(rows: list[Row]) -> str:
    """The text of an exported file's `unet_speed`. rows: of `compare_speed`; the last one is the file's."""
    return json.dumps(asdict(Speed(processor_name(), rows[-1].seconds, rows[0].seconds)))


def describe_speed(rows: list[Row]) -> list[str]:
    """A line for each row: milliseconds, how many times as fast as torch, and megabytes."""
    torch_seconds, widest = rows[0].seconds, max(len(row.name) for row in rows)
    return [
        f"  {row.name:<{widest}}  {row.seconds * 1000:8.1f} ms  {torch_seconds / row.seconds:5.2f} x  "
        f"{row.bytes / 1e6:8.1f} MB"
        for row in rows
    ]


def _forward(checkpoint: Checkpoint, compute: Compute, settings: Inference, mode: str) -> Forward:
    """A forward pass of normalised (N, C, h, w) as in prediction."""
    run_in = compute if checkpoint.exported is None else replace(compute, precision="float32")
    model = make_member(checkpoint, run_in, settings, mode).model

    @torch.inference_mode()
    def forward(image: Tensor) -> Tensor:
        return model(image.to(DTYPES[run_in.precision]).contiguous(memory_format=run_in.memory_format(2)))

    return forward
