"""The computational cost of a network, found without computing anything."""

from __future__ import annotations

import torch

from unet_cli.models import Fitted, Network


def multiply_adds(network: Network, in_channels: int, spatial: tuple[int, ...]) -> int:
    """Number of multiply-adds in prediction for one image or volume of these sides, padded as the network requires.

    Counted are convolutions, matrix products and attention. network: weightless, so that nothing is computed.
    """
    from torch.utils.flop_counter import FlopCounterMode  # a slow import, so not at the top

    fitted = Fitted(network).eval()  # with padding, which is computed too
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        fitted(torch.empty(1, in_channels, *spatial))
    return counter.get_total_flops() // 2
