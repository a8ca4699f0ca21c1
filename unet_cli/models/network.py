"""The base class of all networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from unet_cli.models.geometry import Geometry

MIN_SHARE = 1e-3  # minimum class share for the initial bias: from much less a class is learned too slowly
# A class with at least this share isn't rare, and biases stay as they are. Validation Dice without and with the initial
# bias: cardiac MRI (1.7 % foreground, 128 steps) 0.00 and 0.18; synthetic cells (a quarter foreground, 90 steps of a
# tiny network) 0.77 and 0.00.
RARE = 0.1
CORE_SHARE = 0.45  # of an object's pixels that are deeper than a third, as of a disc


class Network(nn.Module):
    """(N, in_channels, *spatial) float -> logits (N, K, *spatial less the margin at either end).

    The keyword arguments of its constructor are its settings, see ModelConfig. geometry: constraints on the input's
    sides. spatial_dims: 2 or 3. only_whole: whether it takes whole images only, since its prediction for a crop or tile
    differs from that part of its prediction for the image. head_weights: weights of the heads' losses; in training mode
    a network with several heads returns a list of their logits, finest first; a head may be coarser by an integer
    factor.

    gradient_checkpointing: store only the inputs of the blocks that are called by `run`, and recompute their
    activations in the backward pass: results are the same. It may be changed between training steps.
    """

    geometry: Geometry
    spatial_dims = 2
    only_whole = False
    head_weights: tuple[float, ...] = (1.0,)
    gradient_checkpointing = False

    @torch.no_grad()
    def start_at(self, shares: Sequence[float], cores: bool = False) -> None:
        """Initialise the heads' biases so that the network predicts each class with its share of the pixels, where a
        foreground class is rare; otherwise the first steps would only learn that.

        shares: share of each class in the pixels, background first. cores: whether the last logit is that of objects'
        cores, which take about CORE_SHARE of the foreground. Heads whose logits are summed stay as they are. Source:
        Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 4.1.
        """
        if min(shares[1:]) >= RARE:
            return
        heads = getattr(self, "head", None) or getattr(self, "heads", None)
        assert isinstance(heads, nn.Module), f"{type(self).__name__} has no head: name its last layer self.head"
        biases = [value for name, value in heads.named_parameters() if name.endswith("bias")]
        if len(biases) != len(self.head_weights):  # more heads than outputs: their logits are summed
            return
        # Softmax of the logs is the shares; of a sigmoid's class it is the difference of its log and that of the rest.
        logs = torch.tensor([math.log(max(share, MIN_SHARE)) for share in shares])
        rest = shares[:1] if len(shares) == 2 else [1 - share for share in shares[1:]]
        others = torch.tensor([math.log(max(share, MIN_SHARE)) for share in rest])
        for bias in biases:
            start = logs if len(bias) == len(shares) + cores else logs[1:] - others
            bias[: len(start)].copy_(start)
            if cores:
                share = max(CORE_SHARE * sum(shares[1:]), MIN_SHARE)
                bias[-1] = math.log(share / (1 - share))

    def run(self, block: Callable[..., Any], *inputs: Any) -> Any:
        """Call the block, with gradient checkpointing where it is turned on and gradients are needed."""
        if not (self.gradient_checkpointing and torch.is_grad_enabled() and self.training):
            return block(*inputs)
        # Non-reentrant, since the first block's input, the image, needs no gradient.
        return checkpoint(block, *inputs, use_reentrant=False, context_fn=lambda: self._first_pass_counts(block))

    @staticmethod
    def _first_pass_counts(
        block: Callable[..., Any],
    ) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Contexts for the forward pass and its recomputation, which must not update batch norm's statistics again."""

        @contextmanager
        def restored() -> Iterator[None]:
            buffers = list(block.buffers()) if isinstance(block, nn.Module) else []
            before = [buffer.clone() for buffer in buffers]
            try:
                yield
            finally:
                for buffer, value in zip(buffers, before, strict=True):
                    buffer.copy_(value)

        return nullcontext(), restored()
