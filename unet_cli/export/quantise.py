"""Static quantisation of an exported network to 8 bits: calibrated on training images, judged on validation images.

Weights and activations become whole numbers of 8 bits, with a scale for each output channel of a convolution; its sums
are of 32 bits. The file is the exported one with pairs of QuantizeLinear and DequantizeLinear, which ONNX Runtime and
OpenVINO both compute in 8 bits.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018, sections 2 and 3; by channel: Krishnamoorthi, "Quantizing deep convolutional networks for efficient
inference", 2018, section 3.1.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unet_cli.checkpoint import Checkpoint
from unet_cli.data.formats.decoded import Refused
from unet_cli.data.formats.extras import ONNX, ONNXRUNTIME, needed
from unet_cli.data.preprocess import normalize
from unet_cli.data.source import Pair, Source
from unet_cli.errors import UserError, is_out_of_memory
from unet_cli.evaluation.evaluate import evaluate_network
from unet_cli.export.speed import as_exported
from unet_cli.exported import LOGITS, NETWORK_INPUT
from unet_cli.inference.predictor import Predictor
from unet_cli.system.console import Console, counted
from unet_cli.system.device import Compute, cpu_saturates_int8

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# Convolutions and products, and what moves their values without computing much. Softmax, norms and gates stay in float.
QUANTISED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Concat", "MaxPool", "AveragePool", "Relu", "Resize")
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
TILES_EACH = 4  # of a large image, for calibration


@dataclass(frozen=True)
class Judgement:
    """Dice on the validation images at original size, in float as torch computes it, and in 8 bits."""

    images: int
    dice: float
    int8_dice: float

    @property
    def loss(self) -> float:
        return self.dice - self.int8_dice

    def describe(self) -> str:
        return (
            f"Dice {self.dice:.4f} in float, {self.int8_dice:.4f} in 8 bits ({-self.loss:+.4f}) on "
            f"{counted(self.images, 'validation image')}"
        )


def calibration_inputs(predictor: Predictor, sources: Sequence[Source], images: int) -> Iterator[np.ndarray]:
    """What the network sees of up to `images` images, evenly spread over the sources: (1, C, h, w) float32, normalised;
    of images in tiles a few tiles each. Raises UserError where one can't be read, or none is given."""
    if not sources:
        raise UserError(
            "--int8 needs training images to measure the range of values on, and this run's are not found: say where "
            "they are with --data DIR, or leave --int8 out"
        )
    (member,) = predictor.members
    step = max(1, len(sources) // images)
    for source in islice(sources, 0, step * images, step):
        picture = predictor.read(source)
        every = max(1, picture.view_count // TILES_EACH)
        for view in islice(picture.views(), 0, every * TILES_EACH, every):
            measured = view.intensities[0]
            known = None if measured is None else measured[None]
            yield normalize(view.inputs[0][None], member.preprocessing, known).numpy()


def quantised(network: ModelProto, inputs: Iterable[np.ndarray]) -> ModelProto:
    """The network in 8 bits but for its head. network: float32, from `network_input` to `logits`, fixed sides. inputs:
    (1, C, h, w) each, from which the ranges of all values are taken.

    Weights have 7 bits where the processor would saturate. Raises UserError for a missing package, and where ONNX
    Runtime can't quantise the network.
    """
    try:
        onnx, _ = needed(ONNX), needed(ONNXRUNTIME)
    except Refused as error:
        raise UserError(f"--int8 {error}") from error
    from onnxruntime import quantization

    class Inputs(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._inputs = iter(inputs)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self._inputs, None)
            return None if image is None else {NETWORK_INPUT: image}

    root = logging.getLogger()
    level = root.level
    with tempfile.TemporaryDirectory(prefix="unet-") as folder:
        given, path = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        given.write_bytes(network.SerializeToString())  # a model in memory would be emptied into files
        try:
            root.setLevel(logging.ERROR)  # it recommends a step that torch's exporter has done already
            quantization.quantize_static(
                given,
                path,
                Inputs(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=[*QUANTISED],
                per_channel=True,
                reduce_range=cpu_saturates_int8(),
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=[node.name for node in heads(network)],
            )
            model = onnx.load(path)
        except UserError:
            raise
        except Exception as error:  # its graph passes fail in many ways
            if is_out_of_memory(error):
                raise
            raise UserError(
                f"--int8: ONNX Runtime can't quantise this network ({type(error).__name__}: {error}): leave it out"
            ) from error
        finally:
            root.setLevel(level)
    assert isinstance(model, onnx.ModelProto)
    return _of_one_opset(model, network)


def heads(network: ModelProto) -> list[NodeProto]:
    """The last convolutions or products before the logits: one, or several where heads are averaged."""
    made_by = {name: node for node in network.graph.node for name in node.output}
    found: dict[str, NodeProto] = {}
    waiting, seen = [LOGITS], {LOGITS}
    while waiting:
        node = made_by.get(waiting.pop())
        if node is None:  # an input, or a constant
            continue
        if node.op_type in PRODUCTS:
            found[node.name] = node
            continue
        fresh = [name for name in node.input if name not in seen]
        seen.update(fresh)
        waiting += fresh
    return list(found.values())


def judge(
    checkpoint: Checkpoint,
    predictor: Predictor,
    network: ModelProto,
    pairs: Sequence[Pair],
    max_loss: float,
    console: Console,
    workers: int | None = None,
) -> Judgement:
    """Compare masks of the network in 8 bits with those of torch on validation images. predictor: of this checkpoint.

    Raises UserError where the Dice falls by more than `max_loss`, or there are no images.
    """
    if not pairs:
        raise UserError(
            "--int8 is judged on validation images with masks, and this run has none: train with a "
            "validation part, or leave --int8 out"
        )
    settings = replace(predictor.settings, size=None)
    in_int8 = Predictor([as_exported(checkpoint, network)], cpu(predictor.compute), settings)
    dice, int8_dice = (
        float(evaluate_network(one, pairs, workers, console).scores["dice"]) for one in (predictor, in_int8)
    )
    judgement = Judgement(len(pairs), dice, int8_dice)
    if not judgement.loss <= max_loss:  # of NaN too
        raise UserError(
            f"--int8 loses too much: {judgement.describe()}, and --max-loss is {max_loss:g}. Nothing was written: "
            "leave --int8 out, calibrate on more images with --calibrate, or allow more with --max-loss"
        )
    return judgement


def cpu(compute: Compute) -> Compute:
    """Where exported networks run."""
    return Compute(torch.device("cpu"), "float32", compute.channels_last)


def _of_one_opset(model: Any, network: ModelProto) -> Any:
    """The model with the opsets of the network that it was made of, so that it can be merged with other graphs, and
    with the tensors between those called as there. Raises UserError where it needs other ones."""
    ours = {one.domain: one.version for one in network.opset_import}
    used = {node.domain for node in model.graph.node}
    if not used <= ours.keys() or any(one.version != ours.get(one.domain, one.version) for one in model.opset_import):
        raise UserError(f"--int8: this release of ONNX Runtime needs operators of {sorted(used)}: update it")
    del model.opset_import[:]
    model.opset_import.extend(network.opset_import)
    model.ir_version = network.ir_version
    del model.metadata_props[:]
    return model
