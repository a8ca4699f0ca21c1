"""A trained network as a model of bioimage.io: the zip that Fiji (deepImageJ), ilastik and QuPath read.

The network in it takes raw pixels and gives calibrated probabilities: the intensity rule, resizing and calibration are
in the graph, since programs differ in which steps of the specification they follow. It is there twice: as ONNX, and as
TorchScript, which QuPath and deepImageJ prefer.

Source: the specification of model descriptions 0.5, https://bioimage-io.github.io/spec-bioimage-io.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from unet_cli.data.colours import colours_of
from unet_cli.data.pictures import outlined
from unet_cli.errors import UserError
from unet_cli.export.bioimage_text import MIN_SIDE, channel_names, readme, sizes
from unet_cli.export.graph import Graph
from unet_cli.export.onnx import OPSET, quiet_exporter, traced
from unet_cli.export.yaml import to_yaml
from unet_cli.system.console import few
from unet_cli.version import __version__

FORMAT_VERSION = (
    "0.5.3"  # the oldest that has all that is said here: programs read those of their release and older ones
)
INPUT, OUTPUT = "image", "probabilities"
ONNX_FILE, TORCH_FILE, DESCRIPTION = "weights.onnx", "weights.pt", "rdf.yaml"
TRACED = (75, 83)  # sides of the image that the graphs are traced with, and of one that they are checked with
CHECKED = (64, 130)
COVER_SIDE = 512
EPOCH = (1980, 1, 1, 0, 0, 0)  # time of the files in the zip, so that the same network gives the same zip
U_NET = {
    "text": "Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015",
    "doi": "10.1007/978-3-319-24574-4_28",
}


@dataclass(frozen=True)
class About:
    """What people want to know of a model: its name, 5 to 64 letters, digits, spaces, - and _; authors; an SPDX
    identifier of the licence of its weights."""

    name: str
    authors: Sequence[str]
    licence: str


class Tool(nn.Module):
    """Raw pixels, (1, C, H, W) float32 in the values of the training images -> calibrated probabilities (1, K, h, w)
    float32; h = H and w = W but for networks with a margin, which is lost at either end."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.whole = graph.whole

    def forward(self, image: Tensor) -> Tensor:
        _, probs = self.whole(image[0].permute(1, 2, 0))
        return probs[None]


def bioimage_zip(graph: Graph, about: About, picture: np.ndarray, max_difference: float = 1e-3) -> bytes:
    """The zip, after its networks were found to give the probabilities that torch gives.

    picture: (C, H, W) pixels of an image, of which test tensors and the cover are made. Raises UserError where a
    network in the zip differs by more than `max_difference`, and for slices with their neighbours.
    """
    preprocessing = graph.checkpoint.preprocessing
    if preprocessing.slices > 1:
        raise UserError(
            f"--to bioimage: the network sees {preprocessing.slices} neighbouring slices at once, which these programs "
            "don't gather: use --to onnx"
        )
    tool = Tool(graph).eval().requires_grad_(False)  # or programs would keep activations for a backward pass
    image = _test_image(graph, picture)
    with torch.inference_mode():
        probs = tool(image)
    networks = {TORCH_FILE: _torchscript(tool, graph), ONNX_FILE: _onnx(tool, graph)}
    _check(networks, tool, [image, *_more_images(graph)], max_difference)
    files = {
        **networks,
        "test_input.npy": _npy(image.numpy()),
        "test_output.npy": _npy(probs.numpy()),
        "cover.png": _cover(graph, image[0].numpy(), probs[0]),
        "README.md": readme(graph, about.name).encode(),
    }
    return _zip({DESCRIPTION: to_yaml(description(graph, about, files)).encode(), **files})


def description(graph: Graph, about: About, files: Mapping[str, bytes]) -> dict[str, Any]:
    """The model description. files: those of the zip."""
    checkpoint = graph.checkpoint
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}

    def file(name: str, **more: Any) -> dict[str, Any]:
        return {"source": name, "sha256": digests[name], **more}

    threshold = f"calibrated probabilities; from {graph.predictor.threshold:.4g} on a pixel is of the class"
    meaning = threshold if checkpoint.labels.has_threshold else "calibrated probabilities of each class"
    classes = few(checkpoint.labels.scored_names)
    return {
        "format_version": FORMAT_VERSION,
        "type": "model",
        "name": about.name,
        "description": f"Segments {classes}: {checkpoint.model.describe()}, trained with unet {__version__}",
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "authors": [{"name": name} for name in about.authors],
        "cite": [U_NET],
        "license": about.licence,
        "documentation": "README.md",
        "covers": ["cover.png"],
        "tags": ["segmentation", "semantic-segmentation", "unet", "2d", "pytorch"],
        "inputs": [
            {
                "id": INPUT,
                "description": "pixels as in the files, in the values of the training images: not normalised",
                "axes": [_batch(), _channels(_input_channels(graph)), *_input_sides(graph)],
                "data": {"type": "float32"},
                "test_tensor": file("test_input.npy"),
            }
        ],
        "outputs": [
            {
                "id": OUTPUT,
                "description": meaning,
                "axes": [_batch(), _channels(channel_names(graph)), *_output_sides(graph)],
                "data": {"type": "float32", "range": [0.0, 1.0]},
                "test_tensor": file("test_output.npy"),
            }
        ],
        "weights": {
            "torchscript": file(TORCH_FILE, pytorch_version=torch.__version__.partition("+")[0]),
            "onnx": file(ONNX_FILE, opset_version=OPSET, parent="torchscript"),
        },
        "config": {"unet": {"version": __version__, "threshold": graph.predictor.threshold}},
    }


def _batch() -> dict[str, Any]:
    return {"type": "batch", "size": 1}  # statistics of an image and the sizes of a batch would differ


def _channels(names: Sequence[str]) -> dict[str, Any]:
    return {"type": "channel", "channel_names": [*names]}


def _input_channels(graph: Graph) -> list[str]:
    count, has_alpha = graph.checkpoint.preprocessing.in_channels, graph.checkpoint.preprocessing.keep_alpha
    usual = {1: ["gray"], 2: ["gray", "alpha"], 3: ["red", "green", "blue"], 4: ["red", "green", "blue", "alpha"]}
    is_usual = count in (1, 3) or (has_alpha and count in usual)
    return usual[count] if is_usual else [f"channel{number}" for number in range(1, count + 1)]


def _input_sides(graph: Graph) -> list[dict[str, Any]]:
    side = sizes(graph).side
    size: Any = {"min": MIN_SIDE, "step": 1} if side is None else side
    return [{"type": "space", "id": axis, "size": size, "concatenable": side is not None} for axis in "yx"]


def _output_sides(graph: Graph) -> list[dict[str, Any]]:
    known = sizes(graph)
    halo = {"halo": known.halo} if known.halo else {}
    return [
        {
            "type": "space",
            "id": axis,
            "size": {"tensor_id": INPUT, "axis_id": axis, "offset": -2 * known.margin},
            **halo,
        }
        for axis in "yx"
    ]


def _test_image(graph: Graph, picture: np.ndarray) -> Tensor:
    """(1, C, H, W) float32, of the size that the network takes."""
    side = sizes(graph).side
    if side is not None:
        picture = picture[:, : min(side, picture.shape[1]), : min(side, picture.shape[2])]
        picture = np.pad(picture, [(0, 0), *((0, side - have) for have in picture.shape[1:])], mode="symmetric")
    elif max(picture.shape[1:]) > COVER_SIDE:
        picture = picture[:, :COVER_SIDE, :COVER_SIDE]
    return torch.from_numpy(np.ascontiguousarray(picture, dtype=np.float32))[None]


def _more_images(graph: Graph) -> list[Tensor]:
    """Of other sizes, where the network takes them."""
    if graph.is_tile:
        return []
    preprocessing = graph.checkpoint.preprocessing
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (preprocessing.mean, preprocessing.std))
    noise = torch.randn(len(mean), *CHECKED, generator=torch.Generator().manual_seed(0))
    return [(noise * std + mean)[None]]


def _torchscript(tool: Tool, graph: Graph) -> bytes:
    memory = io.BytesIO()
    with quiet_exporter(), torch.no_grad():
        torch.jit.save(torch.jit.trace(tool, (_traced_image(graph),), check_trace=False), memory)
    return memory.getvalue()


def _onnx(tool: Tool, graph: Graph) -> bytes:
    sides = None if graph.is_tile else {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    return traced(tool, (_traced_image(graph),), [INPUT], [OUTPUT], (sides,)).SerializeToString()


def _traced_image(graph: Graph) -> Tensor:
    sides = graph.network_sides if graph.is_tile else TRACED
    return torch.ones(1, graph.checkpoint.preprocessing.in_channels, *sides)


def _check(networks: Mapping[str, bytes], tool: Tool, images: Sequence[Tensor], max_difference: float) -> None:
    """Raises UserError where a network gives other probabilities than torch."""
    for name, content in networks.items():
        run = _run_onnx(content) if name == ONNX_FILE else _run_torch(content)
        for image in images:
            with torch.inference_mode():
                difference = float((run(image) - tool(image)).abs().max())
            if not difference <= max_difference:
                raise UserError(
                    f"--to bioimage: {name} gives probabilities that differ by {difference:.2g} from ours, and "
                    f"--max-difference is {max_difference:g}: update torch and onnxruntime, or allow more. Nothing was "
                    "written"
                )


def _run_onnx(content: bytes) -> Callable[[Tensor], Tensor]:
    session = import_module("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run([OUTPUT], {INPUT: image.numpy()})[0])


def _run_torch(content: bytes) -> Callable[[Tensor], Tensor]:
    with quiet_exporter():
        return torch.jit.load(io.BytesIO(content))


def _cover(graph: Graph, pixels: np.ndarray, probs: Tensor) -> bytes:
    """A PNG: the image beside its outlines."""
    margin = sizes(graph).margin
    inner = pixels[:, margin : pixels.shape[1] - margin, margin : pixels.shape[2] - margin]
    labels = graph.checkpoint.labels
    own = probs[: len(probs) - labels.cores]
    is_any = (own >= graph.predictor.threshold).any(0)
    indices = np.asarray((is_any if labels.has_threshold else own.argmax(0)).numpy(), dtype=np.uint8)
    dtype = graph.checkpoint.preprocessing.dtype
    inner = inner if dtype == "float32" else np.rint(inner).astype(dtype)
    colours, nothing = colours_of(labels), np.zeros_like(indices)
    plain, drawn = (outlined(inner, one, colours, has_legend=False) for one in (nothing, indices))
    cover = Image.new("RGB", (2 * drawn.width, drawn.height))
    cover.paste(plain, (0, 0))
    cover.paste(drawn, (drawn.width, 0))
    cover.thumbnail((2 * COVER_SIDE, COVER_SIDE))
    memory = io.BytesIO()
    cover.save(memory, "png")
    return memory.getvalue()


def _npy(array: np.ndarray) -> bytes:
    memory = io.BytesIO()
    np.save(memory, array)
    return memory.getvalue()


def _zip(files: Mapping[str, bytes]) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), content, zipfile.ZIP_DEFLATED)
    return memory.getvalue()
