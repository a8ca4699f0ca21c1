"""The exported network as an ONNX model: before -> network -> after, each traced by itself and then merged."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unet_cli.export.graph import Graph
from unet_cli.exported import LOGITS, NETWORK_INPUT
from unet_cli.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import ModelProto

OPSET = 18  # the first that torch's exporter writes; runtimes since 2023 read it
MISSING = "missing"  # beside NETWORK_INPUT and LOGITS, between the three parts
IMAGE, STATISTICS, MASK, PROBABILITIES = "image", "statistics", "mask", "probabilities"


def network_model(graph: Graph) -> ModelProto:
    """The network by itself: network_input (1, C, h, w) float32 -> logits (1, K, h', w') float32."""
    example = torch.zeros(1, graph.checkpoint.preprocessing.in_channels, *graph.network_sides)
    return traced(graph.network, (example,), [NETWORK_INPUT], [LOGITS])


def merged(graph: Graph, network: ModelProto, metadata: Mapping[str, str]) -> ModelProto:
    """The whole file: image, and statistics where the graph takes them, -> mask and probabilities. network: of
    `network_model`, perhaps with other weights; its own opsets have to be these."""
    import onnx
    from onnx import compose, helper

    inputs = [IMAGE, STATISTICS][: len(graph.example)]
    before = traced(graph.before, graph.example, inputs, [NETWORK_INPUT, MISSING], graph.dynamic)
    after_example, after_dynamic = _after_example(graph, network)
    after = traced(graph.after, after_example, [LOGITS, MISSING], [MASK, PROBABILITIES], after_dynamic)
    parts = {"before/": before, "network/": network, "after/": after}
    # Names within a part may be those of another; the tensors between them keep theirs.
    first, second, third = (
        compose.add_prefix(part, prefix, rename_inputs=False, rename_outputs=False) for prefix, part in parts.items()
    )
    for part in (first, second, third):
        part.ir_version = max(one.ir_version for one in (first, second, third))
        del part.graph.value_info[:], part.metadata_props[:]
    whole = compose.merge_models(first, second, io_map=[(NETWORK_INPUT, NETWORK_INPUT)])
    whole = compose.merge_models(whole, third, io_map=[(LOGITS, LOGITS), (MISSING, MISSING)])
    _name_sides(whole, graph)
    between = {one.name: _shape(one) for one in (*network.graph.input, *network.graph.output)}
    for name in (NETWORK_INPUT, LOGITS):
        whole.graph.value_info.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, between[name]))
    whole.graph.name, whole.producer_name, whole.producer_version = "unet", "unet", __version__
    helper.set_model_props(whole, dict(metadata))
    onnx.checker.check_model(whole, full_check=False)
    return whole


def _after_example(graph: Graph, network: ModelProto) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
    """Inputs of `after`, and which of their sides may change."""
    sides = (graph.side, graph.side) if graph.side is not None else graph.example[0].shape[:2]
    missing = torch.zeros(*sides, dtype=torch.bool)
    dynamic = None if graph.is_tile else {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    return (torch.zeros(_shape(network.graph.output[0])), missing), (None, dynamic)


def traced(
    module: nn.Module, example: tuple[Tensor, ...], inputs: Sequence[str], outputs: Sequence[str], dynamic: Any = None
) -> ModelProto:
    """The module as a model of its own. dynamic: which sides of the example may change, for torch.export."""
    with quiet_exporter(), torch.no_grad():
        # In two steps: torch.onnx.export would try other ways of tracing where this one fails, and hide why.
        program = torch.export.export(module, example, dynamic_shapes=dynamic, strict=False)
        made = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, input_names=[*inputs], output_names=[*outputs], verbose=False
        )
    assert made is not None
    return made.model_proto


def _shape(value: Any) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _name_sides(model: ModelProto, graph: Graph) -> None:
    """Call the sides that may change height and width, in inputs and outputs."""
    if graph.is_tile:
        return
    sides = {IMAGE: (0, 1), PROBABILITIES: (1, 2), MASK: (1, 2) if graph.after.labels.overlapping else (0, 1)}
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in zip(sides.get(value.name, ()), ("height", "width"), strict=False):
            value.type.tensor_type.shape.dim[axis].dim_param = name


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Without what torch's exporter has to say to its own developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
