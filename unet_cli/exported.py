"""Networks that were exported for other runtimes: ONNX files, and those of OpenVINO.

The graph of such a file is three: what comes before the network, the network, and what comes after it. The tensors
between them are called `network_input`, (1, C, *spatial) float32, and `logits`, (1, K, *spatial) float32. Beside the
graph the file holds, as JSON, what a checkpoint says; see checkpoint.described.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Literal
from xml.etree import ElementTree

import numpy as np

from unet_cli.data.formats.decoded import Refused
from unet_cli.data.formats.extras import ONNX, OPENVINO, needed
from unet_cli.errors import UserError, explain, is_out_of_memory
from unet_cli.system.schema import json_of, parsed

NETWORK_INPUT, LOGITS = "network_input", "logits"  # tensors of the graph
DESCRIPTION, SPEED = "unet", "unet_speed"  # texts of the metadata, JSON
EXTENSIONS = (".onnx", ".xml")
MAX_BYTES = 2**31  # of a protobuf message
RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")  # types of ONNX
METADATA, KEY, VALUE = 14, 1, 2  # numbers of the fields of an ONNX model, and of an entry of its metadata
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # how a field of a protobuf message is stored
AGAIN = "unet export --weights RUN --to"


@dataclass(frozen=True)
class Exported:
    """The network of an exported file, which `runtime` can run.

    digest: of the file, that of OpenVINO's weights included. model: the network alone, from NETWORK_INPUT to LOGITS:
    the bytes of an ONNX file, or an openvino.Model. shape: of its input, (1, C, *spatial), None where a side is not
    fixed; empty where the file doesn't tell.
    """

    path: Path
    runtime: Literal["onnxruntime", "openvino"]
    digest: str
    model: Any
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Speed:
    """What export measured: seconds of a forward pass in the file's runtime and in torch, on a processor."""

    processor: str
    seconds: float
    torch_seconds: float


def is_exported(path: Path) -> bool:
    """By its extension."""
    return path.suffix.lower() in EXTENSIONS


def read_exported(path: Path) -> tuple[str, Exported]:
    """The description in the file's metadata, and its network. Nothing is run, and no other file is read but the .bin
    beside an .xml.

    Raises UserError: for a missing package; a file that is damaged, no network, or of another tool; external data;
    weights that are not finite.
    """
    read = _read_openvino if path.suffix.lower() == ".xml" else _read_onnx
    try:
        return read(path)
    except OSError as error:
        raise explain(error, error.filename or path) from error
    except Refused as error:
        raise UserError(f"{path} {error}") from error


def measured_speed(path: Path, description: object) -> Speed | None:
    """The speed in an exported file's metadata; None where it has none, can't be read, or has another description.

    description: plain values as JSON holds them.
    """
    try:
        texts = _texts_of_xml(path) if path.suffix.lower() == ".xml" else _texts_of_onnx(path)
        if SPEED not in texts or json_of(texts.get(DESCRIPTION, "")) != description:
            return None
        told = parsed(dict[str, Any], json_of(texts[SPEED]), SPEED)
        return parsed(Speed, {spec.name: told[spec.name] for spec in fields(Speed) if spec.name in told}, SPEED)
    except (OSError, Refused, ValueError):
        return None


def _content(path: Path) -> bytes:
    """Raises OSError, and Refused."""
    if path.stat().st_size >= MAX_BYTES:
        raise Refused("has 2 GB or more, and is no network that `unet export` wrote")
    return path.read_bytes()


def _description(texts: dict[str, str], kind: str) -> str:
    """Raises Refused."""
    if DESCRIPTION not in texts:
        raise Refused(
            "is of another tool: its metadata don't say how images are prepared for it, and what its classes are. "
            f"Give a file that `unet export` wrote: {AGAIN} {kind}"
        )
    return texts[DESCRIPTION]


def _damaged(error: BaseException | str, kind: str) -> Refused:
    if isinstance(error, BaseException) and is_out_of_memory(error):
        raise error
    lines = [line for line in str(error).strip().splitlines() if line] or [type(error).__name__]
    return Refused(f"is damaged, or no network that `unet export` wrote ({lines[-1]}): export it again: {AGAIN} {kind}")


def _check_finite(values: np.ndarray, name: str) -> None:
    if not np.isfinite(values).all():
        raise Refused(f"holds weights that are not finite ({name}), so every mask would be empty: train again")


def _read_onnx(path: Path) -> tuple[str, Exported]:
    content = _content(path)
    model = _parsed_onnx(content)
    description = _description({one.key: one.value for one in model.metadata_props}, "onnx")
    for tensor in _tensors(model):
        if tensor.external_data or tensor.data_location:
            raise Refused(
                f"keeps weights in other files ({ascii(tensor.name)}), which could be any file of this machine, and "
                f"files of `unet export` never do: export it again: {AGAIN} onnx"
            )
    types, numbers = import_module("onnx").TensorProto.DataType, import_module("onnx.numpy_helper")
    try:
        graph = _cut_out(model)
        kind = graph.graph.input[0].type.tensor_type
        shape = tuple(side.dim_value or None for side in kind.shape.dim)
        if kind.elem_type != types.Value("FLOAT"):
            raise ValueError(f"{NETWORK_INPUT} is {types.Name(kind.elem_type)}, and not FLOAT")
        for tensor in _tensors(graph):
            if types.Name(tensor.data_type) in FLOATS:
                _check_finite(numbers.to_array(tensor), tensor.name)
        alone = graph.SerializeToString()
    except Exception as error:  # a graph of any content may fail in any way
        if isinstance(error, Refused):
            raise
        raise _damaged(error, "onnx") from error
    return description, Exported(path, "onnxruntime", _digest(content), alone, shape)


def _cut_out(model: Any) -> Any:
    """The network of a model of ONNX, from NETWORK_INPUT to LOGITS. Raises an exception of any kind where there is
    none."""
    graph, make = model.graph, import_module("onnx").helper.make_tensor_value_info
    # Tools that optimise or quantise leave out what is known of inner tensors: then the runtime finds it.
    known = {one.name for one in (*graph.value_info, *graph.input, *graph.output)}
    for name in (NETWORK_INPUT, LOGITS):
        if name not in {one for node in graph.node for one in (*node.input, *node.output)}:
            raise ValueError(f"it has no tensor {name}")
        if name not in known:
            graph.value_info.append(make(name, import_module("onnx").TensorProto.FLOAT, None))
    alone = import_module("onnx.utils").Extractor(model).extract_model([NETWORK_INPUT], [LOGITS])
    del alone.graph.value_info[:]  # the runtime infers the shapes, whatever the file says
    alone.graph.output[0].type.tensor_type.ClearField("shape")
    return alone


def _parsed_onnx(content: bytes) -> Any:
    """Raises Refused where it is none, and for a missing package."""
    needed(ONNX)
    try:
        model = import_module("onnx").ModelProto.FromString(content)
    except Exception as error:  # of protobuf, whichever implementation is installed
        raise _damaged("it can't be parsed as ONNX" if not is_out_of_memory(error) else error, "onnx") from error
    if not model.graph.node:
        raise _damaged("it has no graph", "onnx")
    return model


def _texts_of_onnx(path: Path) -> dict[str, str]:
    """The metadata, without reading the network, which may be large. Raises OSError, and ValueError where it is no
    message of protobuf."""
    with path.open("rb") as file:
        entries = [dict(_fields_of(io.BytesIO(entry))) for _, entry in _fields_of(file, METADATA)]
    return {entry[KEY].decode(): entry[VALUE].decode() for entry in entries if {KEY, VALUE} <= entry.keys()}


def _fields_of(file: BinaryIO, only: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each field of a protobuf message that has a length, or only of those of one number; others
    are passed over. See https://protobuf.dev/programming-guides/encoding. Raises ValueError."""
    left = file.seek(0, os.SEEK_END)
    file.seek(0)
    while file.tell() < left:
        tag = _varint(file)
        kind = tag & 7
        if kind not in (VARINT, FIXED64, LENGTH, FIXED32):
            raise ValueError("it is no message of protobuf")
        if kind == VARINT:
            _varint(file)
            continue
        length = _varint(file) if kind == LENGTH else 8 if kind == FIXED64 else 4
        if length > left - file.tell():
            raise ValueError("it is truncated")
        if kind == LENGTH and only in (None, tag >> 3):
            yield tag >> 3, file.read(length)
        else:
            file.seek(length, os.SEEK_CUR)


def _varint(file: BinaryIO) -> int:
    """A number of protobuf: seven bits in each byte, the lowest first. Raises ValueError."""
    number = 0
    for place in range(10):
        byte = file.read(1)
        if not byte:
            raise ValueError("it is truncated")
        number |= (byte[0] & 127) << (7 * place)
        if byte[0] < 128:
            return number
    raise ValueError("it is no message of protobuf")


def _tensors(model: Any) -> Iterator[Any]:
    """All tensors of a model of ONNX, those of inner graphs and functions included."""
    tensor_kind = import_module("onnx").TensorProto.DESCRIPTOR
    waiting = [model]
    while waiting:
        message = waiting.pop()
        if message.DESCRIPTOR is tensor_kind:
            yield message
            continue
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting += [value] if hasattr(value, "DESCRIPTOR") else list(value)


def _read_openvino(path: Path) -> tuple[str, Exported]:
    description = _description(_texts_of_xml(path), "openvino")
    openvino, beside = needed(OPENVINO), path.with_suffix(".bin")
    if not beside.is_file():
        raise Refused(f"needs its weights, {beside.name}, beside it: copy both files, or {AGAIN} openvino")
    content, weights = _content(path), _content(beside)
    try:
        # From memory: the bytes whose digest is taken. _texts_of_xml has made sure that it is XML; other formats, which
        # the same function reads, may name files.
        model = openvino.Core().read_model(content, openvino.Tensor(np.frombuffer(weights, np.uint8)))
        ports = {name: port for op in model.get_ordered_ops() for port in op.outputs() for name in port.get_names()}
        if missing := {NETWORK_INPUT, LOGITS} - ports.keys():
            raise ValueError(f"it has no tensor {min(missing)}")
        inner, functions = ports[NETWORK_INPUT], import_module("openvino.opset13")
        given = functions.parameter(inner.get_partial_shape(), np.float32, name=NETWORK_INPUT)
        if inner.get_element_type() != given.output(0).get_element_type():
            raise ValueError(f"{NETWORK_INPUT} is {inner.get_element_type().get_type_name()}, and not f32")
        for target in inner.get_target_inputs():
            target.replace_source_output(given.output(0))
        alone = openvino.Model([functions.result(ports[LOGITS])], [given], "network")
        for op in alone.get_ordered_ops():
            if op.get_type_name() == "Constant" and op.get_element_type().is_real():
                _check_finite(op.get_data(dtype=np.float32), op.get_friendly_name())
        shape = tuple(side.get_length() if side.is_static else None for side in given.get_output_partial_shape(0))
    except Exception as error:  # a graph of any content may fail in any way
        if isinstance(error, Refused):
            raise
        raise _damaged(error, "openvino") from error
    return description, Exported(path, "openvino", _digest(content, weights), alone, shape)


def _texts_of_xml(path: Path) -> dict[str, str]:
    """Raises OSError, and Refused where it is no network of OpenVINO."""
    content = _content(path)
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the latter two for odd encodings
        raise _damaged(error, "openvino") from error
    if root.tag != "net" or not content.lstrip().startswith((b"<?xml", b"<net")):
        raise Refused(f"is XML, but no network of OpenVINO: give a file that `unet export` wrote: {AGAIN} openvino")
    return {one.tag: one.get("value", "") for one in root.findall("rt_info/*")}


def _digest(*contents: bytes) -> str:
    return hashlib.blake2b(b"".join(hashlib.blake2b(content).digest() for content in contents)).hexdigest()
