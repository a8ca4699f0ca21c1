"""From scores to classes: one rule for validation, prediction and evaluation."""

from __future__ import annotations

import torch
from torch import Tensor


def to_classes(scores: Tensor, threshold: float = 0.0) -> Tensor:
    """(N, K, *spatial) logits or probabilities -> (N, *spatial) uint8 class indices, on the same device.

    K = 1: class 1 where the score is at least the threshold, which is on the scale of the scores: 0 for logits is 0.5
    for probabilities. K > 1: the class with the highest score, the first of equals.
    """
    # No softmax or sigmoid is needed: both are monotonic.
    return (scores[:, 0] >= threshold).to(torch.uint8) if scores.shape[1] == 1 else scores.argmax(1).to(torch.uint8)
