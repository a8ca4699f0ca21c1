"""Exported networks in their runtimes: ONNX Runtime and OpenVINO, on the CPU."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unet_cli.checkpoint import Checkpoint, described
from unet_cli.config.hardware import Hardware
from unet_cli.config.model import ModelConfig
from unet_cli.config.prediction import Inference
from unet_cli.data.formats.decoded import Refused
from unet_cli.data.formats.extras import ONNXRUNTIME, OPENVINO, Package, needed
from unet_cli.errors import UserError, is_out_of_memory
from unet_cli.exported import AGAIN, LOGITS, NETWORK_INPUT, RUNTIMES, Exported, is_exported, measured_speed
from unet_cli.models import weightless
from unet_cli.system.console import sides
from unet_cli.system.device import Compute, choose_compute, processor_name

PACKAGES: dict[str, Package] = {"onnxruntime": ONNXRUNTIME, "openvino": OPENVINO}
# Before the reason in errors of ONNX Runtime: its name, a number, a line of its source and the function there.
SAYS = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |/\S+:\d+ .*\) (?=[A-Z])")
MAX_REASON = 200  # characters
INSTEAD = "give the best.pth that the file was exported from, or leave out what it can't do"

Run = Callable[[np.ndarray], np.ndarray]


class Session(nn.Module):
    """The network of an exported file, prepared to run with as many threads as torch has.

    (N, C, *spatial) -> logits (N, K, *spatial less the context at either end), on the CPU. The file's batches are of
    one image, so the images are run in turn: none depends on the others. Threads may share it.

    context: pixels at either end of the input that have no logits. shape: of the input, (1, C, *spatial), None where a
    side is not fixed. Raises UserError for a missing package, and a file that the runtime can't run or that is not as
    it says.
    """

    def __init__(self, exported: Exported, model: ModelConfig, context: int) -> None:
        super().__init__()
        self.exported, self.context, self.outputs = exported, context, model.out_channels
        images = (1, model.in_channels, *[None] * weightless(model).spatial_dims)
        self.shape = exported.shape or images
        start = _start_openvino if exported.runtime == "openvino" else _start_onnxruntime
        try:
            self._run, logits = start(exported.model)
        except Refused as error:
            raise UserError(f"{exported.path} {error}") from error
        except Exception as error:  # a graph of any content may fail in any way
            raise self._failed(error, "can't be run by") from error
        expected = (1, self.outputs, *(side and side - 2 * context for side in self.shape[2:]))
        # Where the file doesn't tell the sides of its input, the runtime may not know the logits' before it has run.
        if not (_agree(self.shape, images) and (not logits or _agree(logits, expected))):
            raise UserError(
                f"{exported.path} disagrees with its own description, of {model.describe()} with {model.in_channels} "
                f"channels and {self.outputs} outputs: {NETWORK_INPUT} is {_sides(self.shape)}, and {LOGITS} "
                f"{_sides(logits)}: {INSTEAD}"
            )

    def forward(self, image: Tensor) -> Tensor:
        images = image.detach().float().cpu().contiguous(memory_format=torch.contiguous_format).numpy()
        wanted = (1, self.outputs, *(side - 2 * self.context for side in image.shape[2:]))
        parts = []
        for one in np.split(images, len(images)):
            try:
                logits = self._run(one)
            except Exception as error:
                raise self._failed(error, "failed in") from error
            if logits.shape != wanted:
                raise UserError(f"{self.exported.path} gave logits of {_sides(logits.shape)}, not {_sides(wanted)}")
            parts.append(torch.from_numpy(logits))
        return torch.cat(parts)

    def _failed(self, error: Exception, how: str) -> UserError:
        """Raises MemoryError instead, where that is what it means."""
        if is_out_of_memory(error):
            raise MemoryError(str(error)) from error
        exported, runtime = self.exported, PACKAGES[self.exported.runtime]
        reason = next((line for line in reversed(str(error).strip().splitlines()) if line), type(error).__name__)
        release = needed(runtime).__version__.split("-")[0]
        return UserError(
            f"{exported.path} {how} {RUNTIMES[exported.runtime]} {release} ({SAYS.sub('', reason)[:MAX_REASON]}): "
            f"update it with pip install -U {runtime.name}, or export the network again with the versions that are "
            f"here: {AGAIN} {runtime.extra}"
        )


def _start_onnxruntime(model: bytes) -> tuple[Run, tuple[int | None, ...]]:
    """The function that runs the model, and the shape of its logits. Raises whatever the runtime does."""
    onnxruntime = needed(ONNXRUNTIME)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 4  # errors are raised, so their lines on stderr would be second ones
    options.use_deterministic_compute = True
    # Threads that wait for work would otherwise take processors from those that read and write images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    shape = tuple(side if isinstance(side, int) else None for side in session.get_outputs()[0].shape)
    return lambda image: session.run([LOGITS], {NETWORK_INPUT: image})[0], shape


def _start_openvino(model: Any) -> tuple[Run, tuple[int | None, ...]]:
    """Likewise."""
    core = needed(OPENVINO).Core()
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",  # bf16 would be the default of some processors
        "ENABLE_CPU_PINNING": False,
    }
    compiled = core.compile_model(model, "CPU", settings)
    request, lock = compiled.create_infer_request(), threading.Lock()
    partial = compiled.output(0).get_partial_shape()
    shape = tuple(side.get_length() if side.is_static else None for side in partial)

    def run(image: np.ndarray) -> np.ndarray:
        with lock:  # a request is for one call at a time, and its output is overwritten by the next
            return np.array(request.infer([image], share_inputs=True)[0])

    return run, shape


def check_supported(path: Path, settings: Inference, size: int) -> None:
    """Raises UserError for settings that an exported network can't follow. size: side of its input."""
    for flag, is_given, why in (
        ("--size", settings.size not in (None, size), f"has inputs of {sides((size, size))} pixels only"),
        ("--prune", settings.prune is not None, "holds the network as it was exported, with all that it computes"),
        ("--attention-maps", settings.attention_maps, "gives logits only, and no attention maps"),
        ("--compile", settings.compile, "is for a runtime that compiles it as it needs, without torch"),
    ):
        if is_given:
            raise UserError(f"{flag}: {path} {why}: {INSTEAD}")


def compute_for(checkpoints: Sequence[Checkpoint], hardware: Hardware) -> Compute:
    """`choose_compute` for networks of which some may be exported: those run on the CPU, in the precision that they
    were exported in. Raises UserError."""
    exported = next((one.exported.path for one in checkpoints if one.exported), None)
    if exported is None:
        return choose_compute(hardware.device, hardware.precision)
    for flag, given, possible in (
        ("--device", hardware.device, ("auto", "cpu")),
        ("--precision", hardware.precision, ("auto", "float32")),
    ):
        if given not in possible:
            why = "runs on the CPU" if flag == "--device" else "computes as it was exported"
            raise UserError(f"{flag} {given}: {exported} {why}: {INSTEAD}")
    return choose_compute("cpu", "float32")


def faster_beside(path: Path, checkpoint: Checkpoint) -> list[str]:
    """A line on the fastest file that was exported from this checkpoint, lies in its folder, and was measured to be
    faster than torch on a processor like this. That is from files as they are: nothing is run, and nothing chosen."""
    folder = path if path.is_dir() else path.parent
    files = [file for file in sorted(folder.glob("*")) if is_exported(file)]
    description = json.loads(json.dumps(described(checkpoint))) if files else None
    speeds = {file: speed for file in files if (speed := measured_speed(file, description))}
    here = processor_name() if speeds else ""
    faster = [
        (speed.seconds, file, speed)
        for file, speed in speeds.items()
        if speed.processor == here and 0 < speed.seconds < speed.torch_seconds
    ]
    if not faster:
        return []
    _, file, speed = min(faster, key=lambda one: one[0])
    return [
        f"{file} would be {speed.torch_seconds / speed.seconds:.1f} times as fast on this processor (measured at its "
        f"export: {speed.seconds:.3g} and {speed.torch_seconds:.3g} seconds): --weights {file}"
    ]


def _agree(shape: Sequence[int | None], other: Sequence[int | None]) -> bool:
    """Whether they may be of one tensor."""
    sides = zip(shape, other, strict=False)
    return len(shape) == len(other) and all(one == two or None in (one, two) for one, two in sides)


def _sides(shape: Sequence[int | None]) -> str:
    return sides("?" if side is None else side for side in shape)
