"""Export of a trained network: what can be exported, and the file, written after it was found to predict the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from unet_cli.checkpoint import Checkpoint
from unet_cli.config.export import EXTENSIONS, ExportConfig
from unet_cli.errors import UserError
from unet_cli.export.files import Contents
from unet_cli.export.graph import Graph, graph_of
from unet_cli.export.verdict import Verdict
from unet_cli.inference.predictor import Predictor
from unet_cli.system.console import counted
from unet_cli.system.device import Compute
from unet_cli.system.files import write_bytes


def exportable(checkpoint: Checkpoint, config: ExportConfig) -> Graph:
    """The network for export. Raises UserError for what can't be exported, with what to do instead."""
    if config.size is not None:
        sized = replace(checkpoint.preprocessing, size=config.size, scale=None)
        checkpoint = replace(checkpoint, preprocessing=sized)
    preprocessing = checkpoint.preprocessing
    if preprocessing.is_volumetric:
        raise UserError(
            f"{config.weights} predicts volumes, which aren't exported: predict them with `unet predict`, or export "
            "weights of a network for images"
        )
    if preprocessing.mode == "resize" and preprocessing.scale is not None:
        raise UserError(
            f"{config.weights} sees images at {preprocessing.scale:g} times their size, so that its own size changes, "
            "and an exported network has one: give it with --size 512, to which images are stretched then"
        )
    predictor = Predictor([checkpoint], Compute(torch.device("cpu"), "float32", channels_last=False))
    return graph_of(checkpoint, predictor, config.input_type)


def check_verdict(found: Verdict, config: ExportConfig, where: str) -> None:
    """Raises UserError where the file predicts something else."""
    if found.difference <= config.max_difference:  # not so for NaN
        return
    others = " or ".join(kind for kind in EXTENSIONS if kind != config.to)
    raise UserError(
        f"the file predicts something else than `unet predict`: probabilities differ by up to {found.difference:.3g}, "
        f"and --max-difference is {config.max_difference:g}; {found.pixels - found.equal:,} of {found.pixels:,} pixels "
        f"differ, on {counted(found.images, 'image')} {where}. Nothing was written: try --to {others}, or allow it "
        "with a higher --max-difference"
    )


def target_of(weights: Path, config: ExportConfig) -> Path:
    """The file to write. Raises UserError where it exists. weights: the checkpoint's file."""
    output = config.output or weights.with_suffix(config.extension)
    for path in (output, output.with_suffix(".bin")) if config.to == "openvino" else (output,):
        if path.exists():
            raise UserError(f"{path} exists already: choose another --output, or move the file away")
    return output


def write(contents: Contents, output: Path) -> list[Path]:
    """Write the files, that which is opened last. Raises UserError."""
    paths = [output.with_suffix(kind) for kind in contents]
    written: list[Path] = []
    try:
        for path, content in zip(paths, contents.values(), strict=True):
            write_bytes(path, content)
            written.append(path)
    except BaseException:
        for path in written:  # half of a network is none
            path.unlink(missing_ok=True)
        raise
    return paths
