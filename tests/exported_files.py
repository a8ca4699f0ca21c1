"""Small exported files in the form that `unet export` gives them: before -> network -> after, and the description."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unet_cli.checkpoint import Checkpoint, described
from unet_cli.data.formats.extras import OPENVINO, needed
from unet_cli.models import Fitted
from unet_cli.models.fold import fold_batch_norm
from unet_cli.system.device import processor_name

OPSET = 18


def network_graph(checkpoint: Checkpoint, side: int | None = None, context: int = 0, folder: Path | None = None) -> Any:
    """The network alone, as an onnx.ModelProto from `network_input` to `logits`. side: of its input."""
    import onnx

    network = Fitted(fold_batch_norm(checkpoint.build()), context).eval()
    image = torch.zeros(1, checkpoint.model.in_channels, *[side or checkpoint.preprocessing.size] * 2)
    program = torch.onnx.export(
        network, (image,), input_names=["network_input"], output_names=["logits"], opset_version=OPSET, dynamo=True,
        verbose=False,
    )  # fmt: skip
    assert program is not None
    graph = program.model_proto
    assert isinstance(graph, onnx.ModelProto)
    return graph


def whole_graph(network: Any, checkpoint: Checkpoint) -> Any:
    """With what comes before and after it, from `image` to `mask` and `probabilities`."""
    from onnx import TensorProto, compose, helper, numpy_helper

    rule, opset = checkpoint.preprocessing, network.opset_import
    size = tuple(side.dim_value for side in network.graph.input[0].type.tensor_type.shape.dim)
    out = tuple(side.dim_value for side in network.graph.output[0].type.tensor_type.shape.dim)
    constants = {
        "size": np.array(size),
        "mean": np.float32(rule.mean)[:, None, None],
        "std": np.float32(rule.std)[:, None, None],
        "first": np.array([0]),
        "half": np.float32([checkpoint.threshold]),
    }
    stored = {name: numpy_helper.from_array(value, name) for name, value in constants.items()}
    value = helper.make_tensor_value_info
    before = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["real"], ["planes"], perm=[2, 0, 1]),
            helper.make_node("Unsqueeze", ["planes", "first"], ["batch"]),
            helper.make_node("Resize", ["batch", "", "", "size"], ["resized"], mode="linear"),
            helper.make_node("Sub", ["resized", "mean"], ["centred"]),
            helper.make_node("Div", ["centred", "std"], ["prepared"]),
        ],
        "before",
        [value("image", TensorProto.UINT8, ["H", "W", rule.in_channels])],
        [value("prepared", TensorProto.FLOAT, size)],
        [stored[name] for name in ("size", "mean", "std", "first")],
    )
    after = helper.make_graph(
        [
            helper.make_node("Sigmoid", ["given"], ["probabilities"]),
            helper.make_node("GreaterOrEqual", ["probabilities", "half"], ["mask"]),
        ],
        "after",
        [value("given", TensorProto.FLOAT, out)],
        [value("probabilities", TensorProto.FLOAT, out), value("mask", TensorProto.BOOL, out)],
        [stored["half"]],
    )

    def model(graph: Any) -> Any:
        return helper.make_model(graph, opset_imports=opset, ir_version=network.ir_version)

    begun = compose.merge_models(model(before), network, [("prepared", "network_input")])
    whole = compose.merge_models(begun, model(after), [("logits", "given")])
    # The tensor between two merged graphs has the name of the first one's output.
    for node in whole.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = "network_input" if name == "prepared" else name
    del whole.graph.value_info[:]
    whole.graph.value_info.extend(
        [value("network_input", TensorProto.FLOAT, size), value("logits", TensorProto.FLOAT, out)]
    )
    return whole


def texts_of(checkpoint: Checkpoint, **speed: float) -> dict[str, str]:
    """The texts of an exported file's metadata. speed: seconds and torch_seconds."""
    texts = {"unet": json.dumps(described(checkpoint))}
    return texts | ({"unet_speed": json.dumps({"processor": processor_name(), **speed})} if speed else {})


def write_onnx(path: Path, graph: Any, texts: dict[str, str]) -> Path:
    from onnx import ModelProto, helper

    graph = ModelProto.FromString(graph.SerializeToString())
    helper.set_model_props(graph, texts)
    path.write_bytes(graph.SerializeToString())
    return path


def write_openvino(path: Path, graph: Any, texts: dict[str, str]) -> Path:
    openvino = needed(OPENVINO)
    # Not convert_model, which merges the division before the network into its first convolution.
    model = openvino.Core().read_model(graph.SerializeToString())
    for name, text in texts.items():
        model.set_rt_info(text, [name])
    openvino.save_model(model, path, compress_to_fp16=False)
    return path
