"""Which class a pixel is of, by what a network says: one rule for validation, prediction and evaluation."""

from __future__ import annotations

import torch
from torch import Tensor


def to_classes(scores: Tensor, threshold: float = 0.0) -> Tensor:
    """(N, K, *spatial) logits or probabilities -> (N, *spatial) uint8 class indices, on the same device.

    K = 1: 1 from the threshold on, which is given in what the scores are: 0 of logits is 0.5 of probabilities. Of more
    classes it is the one with the highest score, the first of equals.
    """
    return (scores[:, 0] >= threshold).to(torch.uint8) if scores.shape[1] == 1 else scores.argmax(1).to(torch.uint8)
