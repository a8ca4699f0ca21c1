"""What a network costs, found without computing anything."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from unet_cli.config import ModelConfig
from unet_cli.models import Fitted, build_model


def multiply_adds(config: ModelConfig, spatial: tuple[int, ...]) -> int:
    """Multiplications, each with its addition, for one image of these sides in prediction, padded as the network asks.

    Those of convolutions, matrix products and attention, counted on torch's 'meta' device, whose tensors have sizes but
    no contents.
    """
    with torch.device("meta"), torch.inference_mode():
        network = Fitted(build_model(config)).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, config.in_channels, *spatial))
    return counter.get_total_flops() // 2
