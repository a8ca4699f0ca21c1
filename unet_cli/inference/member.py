"""A member of the ensemble: a trained network, prepared for inference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations, product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unet_cli.checkpoint import Checkpoint
from unet_cli.config.data import Preprocessing
from unet_cli.config.prediction import Inference
from unet_cli.errors import UserError
from unet_cli.inference.runtime import INSTEAD, Session, check_supported
from unet_cli.models import Fitted, Geometry, Network, weightless
from unet_cli.models.attention import GatedUNet
from unet_cli.models.fold import fold_batch_norm
from unet_cli.models.unet_plus_plus import UNetPlusPlus
from unet_cli.system.console import sides
from unet_cli.system.device import DTYPES, Compute


@dataclass(frozen=True)
class Member:
    """An ensemble member: one of the networks whose probabilities are averaged, usually the only one.

    model: (N, C, *spatial) -> (N, K + gates, *spatial), logits and the requested attention maps; for tiles the input
    includes the margin of the geometry, and the output is smaller by it; of an exported network it is a Session.
    """

    checkpoint: Checkpoint
    preprocessing: Preprocessing
    geometry: Geometry
    model: nn.Module
    gates: int = 0

    @property
    def symmetries(self) -> list[tuple[int, tuple[int, ...]]]:
        """Those of test-time augmentation, with which the network was trained: numbers of quarter turns of (H, W), and
        the axes along which the image is mirrored before. Quarter turns need inputs of equal sides."""
        preprocessing = self.preprocessing
        axes = range(-len(preprocessing.sides), 0) if preprocessing.mirrors else range(0)
        if preprocessing.orientation == "upright":
            return [(0, ()), *((0, (-1,)) for axis in axes if axis == -1)]
        has_turns = preprocessing.sides[-1] == preprocessing.sides[-2] and self.along(-1) == self.along(-2)
        # With turns, mirroring along the rows adds nothing.
        mirrored = [axis for axis in axes if axis != -2 or not has_turns]
        flips = [flip for count in range(len(mirrored) + 1) for flip in combinations(mirrored, count)]
        return list(product(range(4) if has_turns else range(1), flips))

    def along(self, axis: int) -> Geometry:
        """The geometry along a spatial axis."""
        return self.geometry.along(axis)

    def input_side(self, output: int, axis: int) -> int:
        """Input side along an axis for an output of at least that side: with the margin at the start, and the rest at
        the end."""
        geometry = self.along(axis)
        return geometry.side(output + 2 * geometry.margin)

    def check_input(self, wanted: tuple[int | None, ...], why: str) -> None:
        """Raises UserError where an exported network has inputs of fixed sides, and other than these. wanted: None for
        a side that differs between images. why: what asks for these sides."""
        if not isinstance(self.model, Session):
            return
        fixed = self.model.shape[2:]
        if any(side not in (None, other) for side, other in zip(fixed, wanted, strict=True)):
            needs = "inputs of any size" if None in wanted else f"inputs of {sides(map(str, reversed(wanted)))} pixels"
            raise UserError(
                f"{self.model.exported.path} has inputs of {sides(map(str, reversed(fixed)))} pixels only, and {why} "
                f"needs {needs}: {INSTEAD}"
            )


class WithAttentionMaps(Network):
    """A network that returns the coefficients of its attention gates too: (N, C, *spatial) -> (N, K + gates, *spatial),
    logits followed by the coefficients of each gate, finest first, resized to the logits' size."""

    def __init__(self, network: GatedUNet) -> None:
        super().__init__()
        self.network = network
        self.geometry, self.spatial_dims = network.geometry, network.spatial_dims

    def forward(self, image: Tensor) -> Tensor:
        logits, maps = self.network.with_attention(image)
        size, mode = logits.shape[2:], "bilinear" if self.spatial_dims == 2 else "trilinear"
        resized = [F.interpolate(one, size, mode=mode, align_corners=False) for one in maps]
        return torch.cat([logits, *resized], dim=1)


def make_member(checkpoint: Checkpoint, compute: Compute, settings: Inference, mode: str) -> Member:
    """The network with batch norm folded, channels last, at the device's precision, pruned and compiled on request; an
    exported one as it is, in its runtime.

    mode: 'resize' or 'tile'. Raises UserError where the network doesn't support the settings.
    """
    preprocessing, exported = checkpoint.preprocessing, checkpoint.exported
    if exported is not None:
        check_supported(exported.path, settings, preprocessing.size)
    network: Network = checkpoint.build() if exported is None else weightless(checkpoint.model)
    if not network.spatial_dims == len(preprocessing.sides) == 2 + preprocessing.is_volumetric:
        raise UserError(f"{checkpoint.model.name} doesn't fit its preprocessing, {preprocessing}: train again")
    if settings.size:
        preprocessing = replace(preprocessing, size=settings.size, scale=None)
    _check_mode(checkpoint.model.name, network, checkpoint.preprocessing, mode)
    context = network.geometry.margin if mode == "tile" else 0
    if exported is not None:
        own = "tile" if preprocessing.is_volumetric else preprocessing.mode
        if network.geometry.margin and mode != own:
            raise UserError(f"--mode {mode}: {exported.path} was exported for --mode {own}: {INSTEAD}")
        return Member(checkpoint, preprocessing, network.geometry, Session(exported, checkpoint.model, context))
    if settings.prune is not None:
        _prune(checkpoint.model.name, network, settings.prune)
    network = fold_batch_norm(network)
    gates = 0
    if settings.attention_maps:
        network = _with_attention_maps(checkpoint.model.name, network)
        sides = [network.geometry.along(axis).side(1) for axis in range(network.spatial_dims)]
        with torch.inference_mode():  # networks don't declare their gates, so a forward pass counts them
            output = network(torch.zeros(1, checkpoint.model.in_channels, *sides))
        gates = output.shape[1] - checkpoint.model.out_channels
        if not gates:
            raise UserError(f"--attention-maps: {checkpoint.model.describe()} has no gate: leave it out")
    model = Fitted(network, context)
    memory_format = compute.memory_format(network.spatial_dims)
    model = model.to(compute.device, DTYPES[compute.precision]).to(memory_format=memory_format)
    if settings.compile:
        model.compile(dynamic=preprocessing.scale is not None)
    return Member(checkpoint, preprocessing, network.geometry, model, gates)


def _check_mode(name: str, network: Network, preprocessing: Preprocessing, mode: str) -> None:
    if mode == "resize":
        return
    if network.only_whole:
        raise UserError(f"{name} predicts whole images only, as published: use --mode resize")
    if preprocessing.scale not in (None, 1.0):
        raise UserError(
            f"--mode tile is for networks trained on images at their own resolution, and this one was trained at "
            f"{preprocessing.scale:g} times it: use --mode resize"
        )


def _prune(name: str, network: Network, head: int) -> None:
    if not isinstance(network, UNetPlusPlus):
        raise UserError(f"--prune is for unet++, and these weights are of {name}: leave it out")
    network.prune(head)


def _with_attention_maps(name: str, network: Network) -> WithAttentionMaps:
    if not isinstance(network, GatedUNet):
        raise UserError(f"--attention-maps is for attention U-Nets, and these weights are of {name}: leave it out")
    return WithAttentionMaps(network)
