"""From scores to classes: one rule for validation, prediction and evaluation."""

from __future__ import annotations

import torch
from torch import Tensor


def to_classes(scores: Tensor, threshold: float = 0.0, overlapping: bool = False) -> Tensor:
    """(N, K, *spatial) logits or probabilities -> (N, *spatial) uint8 class indices, on the same device.

    K = 1, or overlapping: each class where its score is at least the threshold, which is on the scale of the scores: 0
    for logits is 0.5 for probabilities; the index is the set of these classes, see config.model.pixels_of. Else the
    class with the highest score, the first of equals.
    """
    # No softmax or sigmoid is needed: both are monotonic.
    if scores.shape[1] > 1 and not overlapping:
        return scores.argmax(1).to(torch.uint8)
    index = (scores[:, 0] >= threshold).to(torch.uint8)
    for number in range(1, scores.shape[1]):
        index |= (scores[:, number] >= threshold).to(torch.uint8) << number
    return index
