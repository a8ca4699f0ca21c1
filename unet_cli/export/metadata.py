"""What an exported file says of itself, as text by name."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import unet_cli
from unet_cli.checkpoint import described
from unet_cli.data.colours import colours_of
from unet_cli.export.graph import Graph
from unet_cli.exported import DESCRIPTION
from unet_cli.version import __version__


def metadata_of(graph: Graph) -> dict[str, str]:
    """For people and for programs; values that aren't plain text are JSON."""
    labels, preprocessing = graph.checkpoint.labels, graph.checkpoint.preprocessing
    plain: dict[str, Any] = {
        "classes": list(labels.names),
        "values": list(labels.values),
        "colours": [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colours_of(labels).areas],
        "input": {
            "type": graph.input_type,
            "layout": "HWC",
            "channels": preprocessing.in_channels,
            "slices": preprocessing.slices,
            "alpha": preprocessing.keep_alpha,
        },
        **({"tiles": tiles_of(graph)} if graph.is_tile else {}),
        DESCRIPTION: described(graph.checkpoint),
    }
    return {
        "name": graph.checkpoint.model.describe(),
        "version": f"unet {__version__}",
        "licence": licence(),
        "usage": usage(graph),
        **{key: json.dumps(value) for key, value in plain.items()},
    }


def tiles_of(graph: Graph) -> dict[str, Any]:
    """The numbers that a caller needs to predict a large image in tiles, in pixels: see data/tiles.py."""
    member = graph.predictor.members[0]
    return {
        "side": graph.side,
        "input_side": graph.input_side,
        "margin": member.along(0).margin,
        "overlap": graph.predictor.settings.overlap,
        "stride": member.along(0).stride,
        "reach": member.along(0).reach,
        "beyond_the_image": "reflected, without repeating its border",
    }


def usage(graph: Graph) -> str:
    """How to call the file, in words."""
    preprocessing, labels = graph.checkpoint.preprocessing, graph.checkpoint.labels
    sides = f"{graph.input_side} x {graph.input_side}" if graph.is_tile else "height x width, of any size"
    parts = [
        f"image: {sides}, x {preprocessing.in_channels} channels, {graph.input_type}, as decoded: in the values of the "
        "training images, neither scaled nor normalised."
    ]
    if graph.is_tile:
        parts.append(
            f"It is a tile with a margin of {graph.predictor.members[0].along(0).margin} pixels at the start, and the "
            f"rest at the end; outputs are of the {graph.side} x {graph.side} pixels after the margin."
        )
    if graph.takes_statistics:
        parts.append(
            "statistics: four float32 of the whole image over all channels: the limits to which it is clipped, its 1st "
            "and 99th percentile or -inf and inf, then mean and standard deviation after clipping."
        )
    parts.append("mask: in the values or colours of the training masks. probabilities: calibrated, of each class.")
    if labels.cores:
        parts.append("The mask doesn't number objects; the probabilities are of object and core, to tell them apart.")
    return " ".join(parts)


def licence() -> str:
    """The text of unet's licence: what was installed, or beside the package where it wasn't."""
    try:
        found = distribution("unet-cli").read_text("licenses/LICENSE")
    except PackageNotFoundError:
        found = None
    beside = Path(unet_cli.__file__).parent.parent / "LICENSE"
    return found or (beside.read_text(encoding="utf-8") if beside.is_file() else "MIT")
