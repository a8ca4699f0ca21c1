"""Padding of images to a network's geometry, and cropping of its logits to the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unet_cli.models.network import Network


class Fitted(nn.Module):
    """A network for images of any size: (N, C, *spatial) -> logits (N, K, *spatial) for the same pixels.

    context: pixels at either end of the image that are only surroundings, without logits. The image is padded by
    reflection where the network needs a margin or a larger side, and the logits of the padding are cut off. With deep
    supervision, the logits of a head that is coarser by a factor f are (N, K, *ceil(spatial / f)).

    Source of the mirrored margin: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, section 2 and figure 2.
    """

    def __init__(self, network: Network, context: int = 0) -> None:
        super().__init__()
        self.network = network
        self.context = context

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        wanted = [length - 2 * self.context for length in image.shape[2:]]
        full = []  # sides of the finest logits
        # The margin is taken from the context as far as it reaches, and then by reflection; more is added at the end.
        for axis, length in enumerate(wanted):
            geometry = self.network.geometry.along(axis)
            start, side = self.context - geometry.margin, geometry.side(length + 2 * geometry.margin)
            image = _mirrored(image, 2 + axis, start, start + side)
            full.append(side - 2 * geometry.margin)
        logits = self.network(image)
        return [_cut(one, full, wanted) for one in logits] if isinstance(logits, list) else _cut(logits, full, wanted)


def _mirrored(image: Tensor, dim: int, start: int, stop: int) -> Tensor:
    """Pixels `start` to `stop` along `dim` of an image that is extended by reflection, without repeating its border."""
    length = image.shape[dim]
    if (start, stop) == (0, length):
        return image
    # Reflection is periodic, so it may extend beyond the image's length, where F.pad would refuse.
    period = max(2 * (length - 1), 1)
    indices = torch.arange(start, stop, device=image.device).abs() % period
    return image.index_select(dim, torch.minimum(indices, period - indices) if length > 1 else indices)


def _cut(logits: Tensor, full: list[int], wanted: list[int]) -> Tensor:
    """Logits of the wanted pixels. full: sides of the finest logits."""
    for dim, (side, length) in enumerate(zip(full, wanted, strict=True), start=2):
        factor = side // logits.shape[dim]
        logits = logits.narrow(dim, 0, -(-length // factor))
    return logits
