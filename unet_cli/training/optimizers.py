"""A table of optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

MOMENTUM = 0.9
FUSED = ("cpu", "cuda")  # device types with fused optimizers in all releases of torch that we support

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": Adam,
    "adamw": AdamW,
    "sgd": partial(SGD, momentum=MOMENTUM, nesterov=True),
}


def make_optimizer(
    name: str, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float, device: torch.device
) -> Optimizer:
    """The optimizer of this name for parameters on `device`, without those that are frozen.

    There are two parameter groups: weight decay applies to the weights of convolutions; biases and the weights of
    norms, which have one dimension, do not decay. Weight decay is as the optimizer defines it: added to the gradient
    (adam, sgd), or subtracted from the weights, times the learning rate (adamw).

    Sources: Kingma, Ba, "Adam", ICLR 2015; Loshchilov, Hutter, "Decoupled Weight Decay Regularization", ICLR 2019;
    Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013, section 2.
    """
    parameters = [each for each in parameters if each.requires_grad]
    groups = [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": weight_decay},
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[name](groups, lr=lr, fused=device.type in FUSED)
