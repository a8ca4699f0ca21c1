"""What a network costs, found without computing anything."""

from __future__ import annotations

import torch

from unet_cli.models import Fitted, Network


def multiply_adds(network: Network, in_channels: int, spatial: tuple[int, ...]) -> int:
    """Multiplications, each with its addition, for one image of these sides in prediction, padded as the network asks.

    Those of convolutions, matrix products and attention. network: weightless; nothing is computed.
    """
    from torch.utils.flop_counter import FlopCounterMode  # takes longer than counting does

    fitted = Fitted(network).eval()
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        fitted(torch.empty(1, in_channels, *spatial))
    return counter.get_total_flops() // 2
