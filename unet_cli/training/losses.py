"""Losses from logits, computed in float32 whatever the network computes in."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from unet_cli.data.labels import IGNORED

SMOOTH = 1.0

Loss = Callable[[Tensor, Tensor], Tensor]


def loss_for(num_classes: int) -> Loss:
    """BCE + Dice for one foreground class, cross-entropy + Dice for more."""
    return bce_dice if num_classes == 2 else ce_dice


def bce_dice(logits: Tensor, target: Tensor) -> Tensor:
    """logits (N, 1, *spatial), target (N, *spatial) of 0, 1 and IGNORED -> scalar: binary cross-entropy plus Dice."""
    known = (target != IGNORED)[:, None].float()
    logits, target = logits.float(), target[:, None].float() * known
    entropy = F.binary_cross_entropy_with_logits(logits, target, weight=known, reduction="sum")
    return entropy / known.sum().clamp(min=1) + dice_loss(logits.sigmoid() * known, target)


def ce_dice(logits: Tensor, target: Tensor) -> Tensor:
    """logits (N, K, *spatial), target (N, *spatial) of class indices and IGNORED -> scalar: cross-entropy plus Dice."""
    known = (target != IGNORED)[:, None].float()
    logits, target = logits.float(), target.long()
    entropy = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum") / known.sum().clamp(min=1)
    one_hot = F.one_hot(target * known[:, 0].long(), logits.shape[1]).movedim(-1, 1).float()
    return entropy + dice_loss(logits.softmax(1)[:, 1:] * known, one_hot[:, 1:] * known)


def dice_loss(probs: Tensor, target: Tensor) -> Tensor:
    """1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1), of each image and foreground class, then averaged.

    probs and target: (N, foreground classes, *spatial) in [0, 1]. Source: Milletari, Navab, Ahmadi, "V-Net", 3DV 2016,
    section 3, with plain sums in the denominator and smoothing, which makes empty against empty 0.
    """
    spatial = list(range(2, probs.ndim))
    overlap = (probs * target).sum(spatial)
    total = probs.sum(spatial) + target.sum(spatial)
    return torch.mean(1 - (2 * overlap + SMOOTH) / (total + SMOOTH))
