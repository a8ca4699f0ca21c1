"""A trained network from pixels to mask as three modules that can be exported: what comes before the network, the
network, and what comes after it. They compute what inference/ computes of one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unet_cli.checkpoint import Checkpoint
from unet_cli.config.data import Dtype, Preprocessing
from unet_cli.data.labels import LabelMap
from unet_cli.data.preprocess import normalize
from unet_cli.export.stretch import stretch, weights_of_bytes, weights_of_floats
from unet_cli.inference.member import Member
from unet_cli.inference.predictor import Predictor
from unet_cli.inference.views import tile_sides
from unet_cli.metrics.calibration import calibrated, uncalibrated
from unet_cli.models.classes import to_classes, to_probabilities

TYPES = {"uint8": torch.uint8, "uint16": torch.uint16, "float32": torch.float32}
HIGHEST = 65535.0  # of 16 bits
EXAMPLE = (75, 83)  # sides of the image that a graph is traced with


class Before(nn.Module):
    """An image as a decoder gives it, (H, W, in_channels), -> the network's input (1, in_channels, h, w), and where
    pixels are missing, (H, W) bool. For tiles H = h and W = w, and `missing` is that of their output.

    With the statistics of a larger image, see preprocess.own_intensities, (4,) float32, it is normalised by these.
    """

    fill: Tensor

    def __init__(self, preprocessing: Preprocessing, output: slice | None) -> None:
        """output: of tiles, their part along each axis that is predicted; None for images that are stretched."""
        super().__init__()
        self.preprocessing, self.output = preprocessing, output
        # On the device of the module only, and part of no state.
        self.register_buffer("fill", torch.tensor(preprocessing.mean).view(-1, 1, 1), persistent=False)

    def forward(self, image: Tensor, statistics: Tensor | None = None) -> tuple[Tensor, Tensor]:
        height, width, _ = image.shape
        pixels = image.float().permute(2, 0, 1)
        # Of whole numbers none is missing; that they aren't told apart gives both the same graph.
        unknown = pixels.isnan()
        missing, pixels = unknown.any(0), torch.where(unknown, self.fill, pixels)
        if self.output is None:
            pixels = self._resized(pixels, height, width)
        else:
            missing = missing[self.output, self.output]
        known = None if statistics is None else statistics[None]
        return normalize(pixels[None], self.preprocessing, known), missing

    def _resized(self, pixels: Tensor, height: int, width: int) -> Tensor:
        """As preprocess.resize_image does, rounded to the type of the training images."""
        size, dtype = self.preprocessing.size, self.preprocessing.dtype
        if dtype == "uint8":
            return stretch(pixels, weights_of_bytes(height, size), weights_of_bytes(width, size), rounds=True)
        pixels = stretch(pixels, weights_of_floats(height, size), weights_of_floats(width, size))
        return pixels.round().clamp(0.0, HIGHEST) if dtype == "uint16" else pixels


class Network(nn.Module):
    """The input of the network, (1, in_channels, h, w), -> logits (1, K, h, w), less the margin at either end."""

    def __init__(self, member: Member) -> None:
        super().__init__()
        self.model = member.model

    def forward(self, network_input: Tensor) -> Tensor:
        return self.model(network_input)


class After(nn.Module):
    """Logits and `missing` of Before -> the mask in the values or colours of the training masks, and the calibrated
    probabilities (K, H, W) float32.

    The mask is (H, W) uint8 or uint16, or (H, W, 3) colours; of classes that overlap (K, H, W), 0 or 255 for each; of
    objects with cores without their numbers, with the probabilities of object and core.
    """

    values: Tensor

    def __init__(self, labels: LabelMap, threshold: float, temperature: float, is_tile: bool) -> None:
        """threshold: of probabilities that are not calibrated."""
        super().__init__()
        self.labels, self.threshold, self.temperature, self.is_tile = labels, threshold, temperature, is_tile
        self.planes = labels.outputs - labels.cores
        values = labels.decode(np.arange(labels.num_classes, dtype=np.uint8)[None])[0]
        self.dtype = TYPES[str(values.dtype)]
        # As whole numbers of 32 bits, since hardly any operation takes 16 bits without a sign.
        self.register_buffer("values", torch.from_numpy(values.astype(np.int32)), persistent=False)

    def forward(self, logits: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
        height, width = missing.shape
        probs = to_probabilities(logits.float(), self.labels.has_threshold, self.labels.cores)[0]
        if self.is_tile:
            probs = probs[:, :height, :width]
        else:
            sides = probs.shape[1:]
            probs = stretch(probs, weights_of_floats(sides[0], height), weights_of_floats(sides[1], width))
            probs = probs.clamp(0.0, 1.0)
        probs = torch.where(missing, torch.zeros_like(probs), probs)
        if not self.labels.has_threshold:  # missing pixels are of the first class
            probs = torch.cat([torch.where(missing, torch.ones_like(probs[:1]), probs[:1]), probs[1:]])
        own = probs[: self.planes]
        of_classes = calibrated(own, self.temperature, self.labels.overlapping)
        return self._mask(own), torch.cat([of_classes, probs[self.planes :]])

    def _mask(self, probs: Tensor) -> Tensor:
        if self.labels.overlapping:
            return (probs >= self.threshold).to(torch.uint8) * 255
        index = to_classes(probs[None], self.threshold)[0]
        return self.values[index.long()].to(self.dtype)


class Whole(nn.Module):
    """All three in a row: image -> mask and probabilities."""

    def __init__(self, before: Before, network: Network, after: After) -> None:
        super().__init__()
        self.before, self.network, self.after = before, network, after

    def forward(self, image: Tensor, statistics: Tensor | None = None) -> tuple[Tensor, Tensor]:
        network_input, missing = self.before(image, statistics)
        return self.after(self.network(network_input), missing)


@dataclass(frozen=True)
class Graph:
    """A trained network for export, with what its file tells a caller.

    input_type: of the image. takes_statistics: whether the file takes the statistics of a larger image, which the image
    is a tile or a slice of. side: of a tile's output, None for images that are stretched; input_side: with the margin.
    """

    checkpoint: Checkpoint
    predictor: Predictor
    before: Before
    network: Network
    after: After
    input_type: Dtype
    takes_statistics: bool
    side: int | None
    input_side: int | None

    @property
    def is_tile(self) -> bool:
        return self.side is not None

    @property
    def whole(self) -> Whole:
        return Whole(self.before, self.network, self.after).eval()

    @property
    def network_sides(self) -> tuple[int, int]:
        """(h, w) of the network's input."""
        side = self.input_side or self.checkpoint.preprocessing.size
        return side, side

    @property
    def example(self) -> tuple[Tensor, ...]:
        """Inputs of `before`, and of the whole."""
        sides = self.network_sides if self.is_tile else EXAMPLE
        channels = self.checkpoint.preprocessing.in_channels
        image = torch.ones(*sides, channels).to(TYPES[self.input_type])
        return (image, torch.tensor([0.0, 1.0, 0.5, 0.5])) if self.takes_statistics else (image,)

    @property
    def dynamic(self) -> tuple[Any, ...]:
        """Which sides of the example may change, for torch.export."""
        sides = None if self.is_tile else {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
        return (sides, None) if self.takes_statistics else (sides,)


def graph_of(checkpoint: Checkpoint, predictor: Predictor, input_type: Dtype | None = None) -> Graph:
    """predictor: of this checkpoint alone, on the CPU, in float32."""
    preprocessing, (member,) = checkpoint.preprocessing, predictor.members
    side = input_side = output = None
    if predictor.mode == "tile":
        (side, _), margin = tile_sides([member]), member.along(0).margin
        input_side, output = member.input_side(side, 0), slice(margin, margin + side)
    is_part = side is not None or preprocessing.statistics == "volume"
    threshold = uncalibrated(predictor.threshold, predictor.temperature)
    after = After(predictor.labels, threshold, predictor.temperature, is_tile=side is not None)
    return Graph(
        checkpoint,
        predictor,
        Before(preprocessing, output).eval(),
        Network(member).eval(),
        after.eval(),
        input_type or preprocessing.dtype,
        is_part and preprocessing.intensity != "dataset",
        side,
        input_side,
    )
