"""What an exported file is made of: the network in float or in 8 bits, measured beside torch; or a bioimage.io zip."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unet_cli.config.export import ExportConfig
from unet_cli.config.hardware import Hardware
from unet_cli.data.samples.split import Split
from unet_cli.errors import UserError
from unet_cli.export.bioimage import About, bioimage_zip
from unet_cli.export.files import Contents, contents_of
from unet_cli.export.graph import Graph
from unet_cli.export.images import Found, drawn_sample, samples_of
from unet_cli.export.onnx import network_model
from unet_cli.export.quantise import Judgement, calibration_inputs, judge, quantised
from unet_cli.export.speed import FLOAT, INT8, Runtime, compare_speed, describe_speed, metadata_of
from unet_cli.exported import RUNTIMES, SPEED
from unet_cli.report.runs import trained_run
from unet_cli.system.console import Console

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class Made:
    """The contents of the file, what the user is told of them, and the same as plain values."""

    contents: Contents
    lines: list[str] = field(default_factory=list)
    document: dict[str, Any] = field(default_factory=dict)


def make(graph: Graph, config: ExportConfig, weights: Path, found: Found | None, console: Console) -> Made:
    """weights: the checkpoint's file, in the folder of its run. found: images for comparison. Raises UserError, also
    where 8 bits lose too much."""
    if config.to == "bioimage":
        assert config.licence is not None  # see ExportConfig
        about = About(config.name or _name_after(weights), config.authors or ("unknown",), config.licence)
        sample = drawn_sample(graph) if found is None else next(samples_of(graph, found))
        content = bioimage_zip(graph, about, sample.pixels, config.max_difference)
        shown = "drawn, since the run's images are not found" if found is None else f"an image {found.where}"
        return Made({".zip": content}, [f"Its example and cover are {shown}", f"Its licence is {about.licence}"])
    if config.to == "torch":
        return Made(contents_of(graph, config.to))
    networks = {FLOAT: network_model(graph)}
    judgement = None
    if config.int8:
        networks[INT8], judgement = _in_int8(graph, networks[FLOAT], config, weights, console)
    runtime: Runtime = "openvino" if config.to == "openvino" else "onnxruntime"
    rows = compare_speed(graph.checkpoint, networks, graph.predictor.mode, runtime)
    contents = contents_of(graph, config.to, networks[rows[-1].name], {SPEED: metadata_of(rows)})
    lines = [f"A forward pass on this processor, in {RUNTIMES[runtime]} beside torch:", *describe_speed(rows)]
    document: dict[str, Any] = {"speed": [asdict(row) for row in rows]}
    if judgement is not None:
        lines.append(judgement.describe())
        document |= {"dice": judgement.dice, "int8_dice": judgement.int8_dice}
    return Made(contents, lines, document)


def _in_int8(
    graph: Graph, network: ModelProto, config: ExportConfig, weights: Path, console: Console
) -> tuple[ModelProto, Judgement]:
    split = _split(config, weights, console)
    predictor = graph.predictor
    sources = [pair.image for pair in split.train]
    total = min(config.calibrate, len(sources))
    inputs = calibration_inputs(predictor, sources, config.calibrate)
    model = quantised(network, console.progress(inputs, total, "calibrating", "inputs"))
    found = judge(graph.checkpoint, predictor, model, split.val, config.max_loss, console, config.workers)
    return model, found


def _split(config: ExportConfig, weights: Path, console: Console) -> Split:
    """Training and validation images of the run. Raises UserError."""
    try:
        return trained_run(weights, config.data, Hardware(device="cpu", workers=config.workers), console).splits[0]
    except UserError as error:
        raise UserError(
            f"--int8 is calibrated on the run's training images and judged on its validation images: {error}"
        ) from error


def _name_after(weights: Path) -> str:
    """In the letters of bioimage.io, five at least."""
    return re.sub(r"[^A-Za-z0-9_+\-() ]", "-", f"unet {weights.resolve().parent.name}")[:64]
