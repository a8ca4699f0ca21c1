"""From scores to classes: one rule for validation, prediction and evaluation."""

from __future__ import annotations

import torch
from torch import Tensor

from unet_cli.config.model import CORE, IGNORED


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


def decided(
    scores: Tensor, overlapping: bool, cores: bool, threshold: float = 0.0, core_threshold: float = 0.0
) -> Tensor:
    """`to_classes`, with `cores` of all scores but the last, which decides where cores are marked."""
    if not cores:
        return to_classes(scores, threshold, overlapping)
    index = to_classes(scores[:, :-1], threshold)
    is_core = (scores[:, -1] >= core_threshold) & (index > 0)
    return index | is_core.to(torch.uint8) * CORE


def parts_of(target: Tensor) -> tuple[Tensor, Tensor]:
    """Class indices in which the cores of objects are marked, see data/cores.py -> those of the classes alone, and
    those of the cores: 0, 1 and IGNORED. Any shape."""
    ignored = target == IGNORED
    return torch.where(ignored, target, target & (CORE - 1)), torch.where(ignored, target, target >= CORE)
