"""The contents of exported files, and how each is run again in its runtime."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch

from unet_cli.config.export import Runtime
from unet_cli.data.formats.extras import ONNX, ONNXRUNTIME, ONNXSCRIPT, OPENVINO, Package, is_installed, needed
from unet_cli.errors import UserError
from unet_cli.export.graph import Graph
from unet_cli.export.metadata import metadata_of
from unet_cli.export.onnx import MASK, PROBABILITIES, STATISTICS, merged, network_model, quiet_exporter
from unet_cli.exported import DESCRIPTION, SPEED

if TYPE_CHECKING:
    from onnx import ModelProto

NEEDED: dict[Runtime, tuple[Package, ...]] = {
    "onnx": (ONNX, ONNXSCRIPT, ONNXRUNTIME),
    "openvino": (ONNX, ONNXSCRIPT, OPENVINO),
    "torch": (),
    "bioimage": (ONNX, ONNXSCRIPT, ONNXRUNTIME),
}

ABOUT = "about"  # of the information in an OpenVINO file, what is for people and other programs

Contents = Mapping[str, bytes]  # of each file, by its extension; the one that is opened comes last
Run = Callable[[np.ndarray, np.ndarray | None], tuple[np.ndarray, np.ndarray]]  # image and statistics: mask and probs


def check_packages(to: Runtime) -> None:
    """Raises UserError that names all that are missing."""
    missing = [package.name for package in NEEDED[to] if not is_installed(package)]
    if missing:
        extra = "openvino" if to == "openvino" else "onnx"
        raise UserError(
            f"--to {to} needs packages that aren't here: pip install {' '.join(missing)} (the extra `{extra}`: pip "
            f"install 'unet-cli[{extra}]')"
        )


def contents_of(
    graph: Graph, to: Runtime, network: ModelProto | None = None, more: Mapping[str, str] = MappingProxyType({})
) -> Contents:
    """network: of onnx.network_model, perhaps in 8 bits. more: of the metadata."""
    metadata = {**metadata_of(graph), **more}
    if to == "torch":
        return {".pt2": _program(graph, metadata)}
    content = merged(graph, network or network_model(graph), metadata).SerializeToString()
    return {".onnx": content} if to == "onnx" else _openvino(content, metadata)


def _program(graph: Graph, metadata: Mapping[str, str]) -> bytes:
    with quiet_exporter(), torch.no_grad():
        program = torch.export.export(graph.whole, graph.example, dynamic_shapes=graph.dynamic, strict=False)
        memory = io.BytesIO()
        torch.export.save(program, memory, extra_files=dict(metadata))
    return memory.getvalue()


def _openvino(content: bytes, metadata: Mapping[str, str]) -> Contents:
    openvino = needed(OPENVINO)
    # convert_model would merge what comes before the network into its first convolution, and lose its input's name.
    model = openvino.Core().read_model(content)
    for key, text in metadata.items():  # OpenVINO has a version of its own, and others may come
        model.set_rt_info(text, [key] if key in (DESCRIPTION, SPEED) else [ABOUT, key])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.xml"
        openvino.save_model(model, path, compress_to_fp16=False)  # in half precision masks would not be the same
        return {kind: path.with_suffix(kind).read_bytes() for kind in (".bin", ".xml")}


def opened(contents: Contents) -> Run:
    """The network in its runtime, in float32 on the CPU."""
    kind = list(contents)[-1]
    return {".onnx": _in_onnxruntime, ".xml": _in_openvino, ".pt2": _in_torch}[kind](contents)


def _in_onnxruntime(contents: Contents) -> Run:
    runtime = needed(ONNXRUNTIME)
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = runtime.InferenceSession(contents[".onnx"], options, providers=["CPUExecutionProvider"])

    def run(image: np.ndarray, statistics: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        given = {} if statistics is None else {STATISTICS: statistics}
        mask, probs = session.run([MASK, PROBABILITIES], {"image": image, **given})
        return mask, probs

    return run


def _in_openvino(contents: Contents) -> Run:
    core = needed(OPENVINO).Core()
    model = core.read_model(contents[".xml"], contents[".bin"])
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(image: np.ndarray, statistics: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        given = {} if statistics is None else {STATISTICS: statistics}
        answer = compiled({"image": image, **given})
        return answer[MASK].copy(), answer[PROBABILITIES].copy()

    return run


def _in_torch(contents: Contents) -> Run:
    with quiet_exporter():
        program = torch.export.load(io.BytesIO(contents[".pt2"])).module()

    def run(image: np.ndarray, statistics: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        given = [torch.from_numpy(part) for part in (image, statistics) if part is not None]
        with torch.inference_mode():
            mask, probs = program(*given)
        return mask.numpy(), probs.numpy()

    return run
