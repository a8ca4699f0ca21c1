"""The one place where images are made to suit a network, and its answers the images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unet_cli.models.network import Network


class Fitted(nn.Module):
    """A network for images of any size: (N, C, *spatial) -> logits (N, K, *spatial), pixel over pixel.

    context: so many pixels at either end of the image are its surroundings, for which no logits are wanted. The image
    goes on mirrored where the network asks for a margin or a larger side, and what lies over the mirrored
    part is cut off. Of a list of logits, a head that is coarser by a factor f is (N, K, *ceil(spatial / f)).

    Source of the mirrored margin: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, section 2 and figure 2.
    """

    def __init__(self, network: Network, context: int = 0) -> None:
        super().__init__()
        self.network = network
        self.context = context

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        geometry, wanted = self.network.geometry, [length - 2 * self.context for length in image.shape[2:]]
        for dim, length in enumerate(wanted, start=2):
            start = self.context - geometry.margin
            image = _mirrored(image, dim, start, start + geometry.side(length + 2 * geometry.margin))
        logits = self.network(image)
        full = [side - 2 * geometry.margin for side in image.shape[2:]]
        return [_cut(one, full, wanted) for one in logits] if isinstance(logits, list) else _cut(logits, full, wanted)


def _mirrored(image: Tensor, dim: int, start: int, stop: int) -> Tensor:
    """Pixels `start` to `stop` along `dim` of an image that goes on mirrored, the pixel at its end not repeated."""
    length = image.shape[dim]
    if (start, stop) == (0, length):
        return image
    period = max(2 * (length - 1), 1)
    places = torch.arange(start, stop, device=image.device).abs() % period
    return image.index_select(dim, torch.minimum(places, period - places) if length > 1 else places)


def _cut(logits: Tensor, full: list[int], wanted: list[int]) -> Tensor:
    """The part of logits that is wanted. full: the sides of the finest logits."""
    for dim, (side, length) in enumerate(zip(full, wanted, strict=True), start=2):
        factor = side // logits.shape[dim]
        logits = logits.narrow(dim, 0, -(-length // factor))
    return logits
