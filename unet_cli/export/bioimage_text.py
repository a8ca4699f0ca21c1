"""What a model of bioimage.io says to people: its channels and sizes, and how it differs from `unet predict`."""

from __future__ import annotations

from dataclasses import dataclass

from unet_cli.export.graph import Graph
from unet_cli.version import __version__

MIN_SIDE = 32  # of images that are stretched: smaller ones would be padded by the programs, and then stretched
KINDS = {"uint8": "0 to 255", "uint16": "0 to 65535", "float32": "any"}


@dataclass(frozen=True)
class Sizes:
    """Of images that the network takes, in pixels: `side` for tiles, any from MIN_SIDE on where it is None. halo:
    pixels at either end of the output of a tile that depend on what is beyond it. margin: pixels at either end of the
    input that have no output."""

    side: int | None
    halo: int = 0
    margin: int = 0


def sizes(graph: Graph) -> Sizes:
    if not graph.is_tile:
        return Sizes(None)
    geometry = graph.predictor.members[0].along(0)
    side = graph.network_sides[0]
    halo = (side - 2 * geometry.margin) // 8
    return Sizes(side, halo if geometry.reach is None else min(halo, geometry.reach), geometry.margin)


def channel_names(graph: Graph) -> list[str]:
    """Of the probabilities."""
    labels = graph.checkpoint.labels
    return [*(labels.names[1:] if labels.has_threshold else labels.names), *["core"] * labels.cores]


def readme(graph: Graph, name: str) -> str:
    """The documentation in the zip, Markdown."""
    checkpoint, known = graph.checkpoint, sizes(graph)
    preprocessing, labels = checkpoint.preprocessing, checkpoint.labels
    parts = [
        f"# {name}",
        f"{checkpoint.model.describe()}, trained with unet {__version__} (package unet-cli).",
        "\n".join(f"- {line.strip()}" for line in checkpoint.data[1:]),  # the first names a folder
        "## Input",
        f"Pixels as they are in the files, {preprocessing.in_channels} x height x width, 32-bit floating point in the "
        f"range of the training images ({preprocessing.dtype}: {KINDS[preprocessing.dtype]}). Normalise nothing: that "
        f"is in the network ({preprocessing.describe_intensity()}).",
        _of_sizes(known, preprocessing.size),
        "## Output",
        f"Probabilities from 0 to 1, calibrated, in the channels {', '.join(channel_names(graph))}. {_to_mask(graph)}",
    ]
    parts += ["## What differs from `unet predict`", "\n".join(f"- {line}" for line in _differences(graph, known))]
    parts += [
        "## Validation",
        "On images that it was not trained on, compare masks with true ones: `unet evaluate --pred MASKS --data DIR`."
        + (f" In training it reached {_reached(checkpoint.metrics)} on validation images." * bool(checkpoint.metrics)),
    ]
    if labels.cores:
        parts.append("Objects are told apart by `unet predict` only, which grows them from their cores.")
    return "\n\n".join(part for part in parts if part) + "\n"


def _of_sizes(known: Sizes, size: int) -> str:
    if known.side is None:
        return (
            f"Give whole images, of any size: each is stretched to {size} x {size} pixels in the network, as in "
            "training, and its probabilities back. A program that cuts images into tiles has to be told to take the "
            "image as one tile, since each tile would be stretched by itself."
        )
    halo = f" Of the output, {known.halo} pixels at either end depend on what lies beyond the tile." * bool(known.halo)
    margin = f" The output lacks {known.margin} pixels at either end." * bool(known.margin)
    return f"Tiles of {known.side} x {known.side} pixels, at the resolution of the training images.{halo}{margin}"


def _to_mask(graph: Graph) -> str:
    labels = graph.checkpoint.labels
    if labels.has_threshold:
        return f"A pixel is of a class where its probability is at least {graph.predictor.threshold:.4g}."
    return "A pixel is of the class with the highest probability."


def _differences(graph: Graph, known: Sizes) -> list[str]:
    preprocessing = graph.checkpoint.preprocessing
    lines = []
    if known.side is None:
        lines.append("None in the probabilities of a whole image but rounding, at most one grey level in stretching.")
    else:
        lines.append("`unet predict` blends overlapping tiles smoothly; other programs cut off the halo and join them.")
        lines.append("Beyond the border of the image `unet predict` reflects it; other programs may do otherwise.")
    if preprocessing.intensity != "dataset" and (known.side is not None or preprocessing.statistics == "volume"):
        lines.append(
            "Intensities are normalised by the statistics of each tile or slice, where `unet predict` takes those of "
            "the whole image: tiles of background alone may come out wrong."
        )
    return [*lines, "No mask is written, and nothing is cleaned: thresholds and sizes of objects are the program's."]


def _reached(metrics: dict[str, float | bool]) -> str:
    scores = {name.removeprefix("final_"): metrics[name] for name in ("final_dice", "dice") if name in metrics}
    return ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in scores.items()) or "no score"
