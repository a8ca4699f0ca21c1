"""Exported files as `unet export` writes them, with the least before and after the network."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import exported_files
import numpy as np
import torch

from unet_cli.checkpoint import Checkpoint, described
from unet_cli.inference.views import tile_sides
from unet_cli.models import Fitted
from unet_cli.models.fold import fold_batch_norm
from unet_cli.system.device import Compute


def onnx_of(checkpoint: Checkpoint, dynamo: bool = False, **texts: object):
    """The ModelProto of a checkpoint. dynamo: by the new exporter, which takes ten times as long. texts: metadata
    beside the description."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from unet_cli.config.prediction import Inference
    from unet_cli.inference.member import make_member

    preprocessing = checkpoint.preprocessing
    compute = Compute(torch.device("cpu"), "float32", channels_last=False)
    member = make_member(checkpoint, compute, Inference(), preprocessing.mode)
    sides, margin = preprocessing.sides, 0
    if preprocessing.mode == "tile":
        sides = tuple(member.input_side(side, axis) for axis, side in enumerate(tile_sides([member])))
        margin = member.geometry.margin
    model = Fitted(fold_batch_norm(checkpoint.build()), margin).eval()
    blank, file = torch.zeros(1, preprocessing.in_channels, *sides), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {"input_names": ["network_input"], "output_names": ["logits"]}
        program = torch.onnx.export(model, (blank,), None if dynamo else file, dynamo=dynamo, verbose=False, **names)
    network = program.model_proto if dynamo else onnx.load_model_from_string(file.getvalue())
    before = [
        helper.make_node("Cast", ["image"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["values"], ["planes"], perm=[2, 0, 1]),
        helper.make_node("Unsqueeze", ["planes", "first"], ["batch"]),
        helper.make_node("Resize", ["batch", "", "", "sizes"], ["network_input"], mode="linear"),
    ]
    after = [helper.make_node("Sigmoid", ["logits"], ["probabilities"])]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["H", "W", preprocessing.in_channels])
    probabilities = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, None)
    constants = [
        numpy_helper.from_array(np.array([0]), "first"),
        numpy_helper.from_array(np.array(blank.shape), "sizes"),
    ]
    graph = helper.make_graph(
        [*before, *network.graph.node, *after],
        "unet",
        [image],
        [probabilities],
        [*network.graph.initializer, *constants],
        value_info=[*network.graph.input, *network.graph.output],
    )
    merged = helper.make_model(graph, opset_imports=network.opset_import, ir_version=network.ir_version)
    helper.set_model_props(merged, {"unet": json.dumps(described(checkpoint)), **texts})
    return merged


def write_openvino(path: Path, model, **texts: str) -> Path:
    """PATH.xml and PATH.bin of a ModelProto, with the texts of its metadata and these."""
    return exported_files.write_openvino(path, model, {one.key: one.value for one in model.metadata_props} | texts)
