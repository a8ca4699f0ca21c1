"""What every network of the family is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from unet_cli.models.geometry import Geometry

MIN_SHARE = 1e-3  # of a class, that a fresh head begins with: from much less it learns too slowly
# From this share on a class is not rare, and heads stay as they are. Validation Dice without and with shares: cardiac
# MRI (1.7 % foreground, 128 steps) 0.00 and 0.18; drawn cells (a quarter, 90 steps of a tiny network) 0.77 and 0.00.
RARE = 0.1


class Network(nn.Module):
    """(N, in_channels, *spatial) float -> logits (N, K, *spatial less the margin at either end).

    The keyword arguments of its constructor are the settings that it takes; see ModelConfig. geometry: what it asks of
    the input. spatial_dims: 2 or 3. only_whole: its answer to a part of an image is not that part of its answer, so
    neither crops nor tiles. head_weights: in training mode a network of more than one head returns a list of their
    logits, finest first, whose losses count this much; a head may be coarser by a whole factor.

    gradient_checkpointing: keep only the inputs of the blocks that are called by `run` for the gradient, and compute
    the rest again: results are the same. It may be changed between training steps.
    """

    geometry: Geometry
    spatial_dims = 2
    only_whole = False
    head_weights: tuple[float, ...] = (1.0,)
    gradient_checkpointing = False

    @torch.no_grad()
    def start_at(self, shares: Sequence[float]) -> None:
        """Let fresh heads answer with the share that each class has of the pixels, where one of the foreground is rare,
        so that the first steps needn't go into learning that.

        shares: of each class, background first. Heads whose logits are added up stay as they are. Source: Lin et al.,
        "Focal Loss for Dense Object Detection", ICCV 2017, section 4.1.
        """
        if min(shares[1:]) >= RARE:
            return
        found = getattr(self, "head", None) or getattr(self, "heads", None)
        assert isinstance(found, nn.Module)
        biases = [value for name, value in found.named_parameters() if name.endswith("bias")]
        if len(biases) != len(self.head_weights):
            return
        logs = torch.tensor([math.log(max(share, MIN_SHARE)) for share in shares])
        for bias in biases:
            bias.copy_(logs if len(bias) > 1 else logs[1:] - logs[:1])

    def run(self, block: Callable[..., Any], *inputs: Any) -> Any:
        """Call the block; where gradients are wanted and memory is short, forget its activations and recompute them."""
        if not (self.gradient_checkpointing and torch.is_grad_enabled() and self.training):
            return block(*inputs)
        return checkpoint(block, *inputs, use_reentrant=False, context_fn=lambda: self._first_pass_counts(block))

    @staticmethod
    def _first_pass_counts(
        block: Callable[..., Any],
    ) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Contexts for the first and the repeated forward pass: the repetition leaves batch-norm statistics alone."""

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
