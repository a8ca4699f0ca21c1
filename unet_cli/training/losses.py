"""Losses from logits, computed in float32 whatever the network computes in, whose parts add up to that of the whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from unet_cli.data.labels import IGNORED

SMOOTH = 1.0
GAMMA = 2.0  # of the focal loss
FALSE_ALARM, MISS = 0.3, 0.7  # of the Tversky loss
MOST_WEIGHT = 10.0  # of a rare class, as a multiple of the commonest one's

Term = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Denominators:
    """What the loss of a batch is divided by, counted over all its parts: scalar float32 tensors.

    images: how many; weight: of their pixels, the ignored ones left out. The sum of the parts' is the whole's.
    """

    images: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Loss:
    """A pixel term, averaged over pixels, plus a region term, averaged over images and foreground classes.

    pixels: None, or (logits, target) -> (N, *spatial), anything where a pixel is ignored. regions: (probs, truth), both
    (N, foreground classes, *spatial) in [0, 1] and 0 where ignored -> (N, foreground classes), 0 where both are empty.
    class_weights: of each class's pixels in the pixel term, background first; None: all 1.
    """

    num_classes: int
    pixels: Term | None
    regions: Term
    class_weights: tuple[float, ...] | None = None

    def whole(self, target: Tensor, images: int | None = None) -> Denominators:
        """Of a target (N, *spatial), or of a part of one; images: how many of the N count, all unless given."""
        return _whole(self._weights(target), len(target) if images is None else images)

    def __call__(self, logits: Tensor, target: Tensor, whole: Denominators | None = None) -> Tensor:
        """logits (N, K, *spatial), target (N, *spatial) of class indices and IGNORED -> scalar float32.

        K is 1 for two classes, else their number. whole: of the batch that this is a part of; its parts' losses, and
        their gradients, then add up to those of the batch. An image that is ignored everywhere adds exactly 0.
        """
        logits, weights = logits.float(), self._weights(target)
        whole = whole or _whole(weights, len(target))
        classes = torch.arange(1, self.num_classes, device=target.device).view(-1, *[1] * (target.ndim - 1))
        probs = logits.sigmoid() if self.num_classes == 2 else logits.softmax(1)[:, 1:]
        truth = (target[:, None] == classes).float()
        losses = self.regions(probs * (target != IGNORED).float()[:, None], truth)
        loss = losses.sum() / (whole.images.clamp(min=1) * (self.num_classes - 1))
        if self.pixels is None:
            return loss
        pixels = (self.pixels(logits, target) * weights).sum()
        return loss + pixels / torch.where(whole.weight > 0, whole.weight, 1)

    def _weights(self, target: Tensor) -> Tensor:
        """(N, *spatial) float32: of each pixel, 0 of ignored ones."""
        known = (target != IGNORED).float()
        if self.class_weights is None:
            return known
        return torch.tensor(self.class_weights, device=target.device)[(target * known).long()] * known


def _whole(weights: Tensor, images: int) -> Denominators:
    return Denominators(torch.full((), float(images), device=weights.device), weights.sum())


def entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each pixel, (N, *spatial); binary where there is one logit."""
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], (target == 1).float(), reduction="none")
    return F.cross_entropy(logits, target.long(), ignore_index=IGNORED, reduction="none")


def focal(logits: Tensor, target: Tensor) -> Tensor:
    """(1 - p)^2 times the cross-entropy -log(p), p the probability of the true class: (N, *spatial).

    Source: Lin, Goyal, Girshick, He, Dollár, "Focal Loss for Dense Object Detection", ICCV 2017, equation 4, so without
    their class weight alpha; divided by the number of all pixels, not of those of objects.
    """
    each = entropy(logits, target)
    return torch.expm1(-each).abs() ** GAMMA * each


def dice(probs: Tensor, truth: Tensor) -> Tensor:
    """1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1), of each image and class: (N, classes).

    Source: Milletari, Navab, Ahmadi, "V-Net", 3DV 2016, section 3, with plain sums in the denominator and smoothing,
    which makes empty against empty 0.
    """
    return tversky(probs, truth, 0.5, 0.5)


def tversky(probs: Tensor, truth: Tensor, false_alarm: float = FALSE_ALARM, miss: float = MISS) -> Tensor:
    """1 - (TP + 1/2) / (TP + a FP + b FN + 1/2), of each image and class: (N, classes); a + b = 1.

    Source: Salehi, Erdogmus, Gholipour, "Tversky loss function for image segmentation using 3D fully convolutional deep
    networks", MLMI 2017, equation 4, with smoothing, for each image; with a = b = 1/2 it is Dice.
    """
    spatial = list(range(2, probs.ndim))
    hit = (probs * truth).sum(spatial)
    wrong = 2 * false_alarm * (probs.sum(spatial) - hit) + 2 * miss * (truth.sum(spatial) - hit)
    return 1 - (2 * hit + SMOOTH) / (2 * hit + wrong + SMOOTH)


LOSSES: dict[str, tuple[Term | None, Term]] = {
    "bce-dice": (entropy, dice),
    "balanced": (entropy, dice),
    "dice": (None, dice),
    "focal": (focal, dice),
    "tversky": (None, tversky),
}


def loss_for(name: str, num_classes: int, shares: Sequence[float] | None = None) -> Loss:
    """The loss of that name in the table. shares: of the training pixels in each class, which 'balanced' needs."""
    weights = None
    if name == "balanced":
        assert shares is not None
        assert len(shares) == num_classes
        weights = balanced_weights(shares)
    return Loss(num_classes, *LOSSES[name], weights)


def balanced_weights(shares: Sequence[float]) -> tuple[float, ...]:
    """Of each class: one over the square root of its share of the pixels, scaled to a mean of 1 over the pixels.

    A rare class weighs at most MOST_WEIGHT times what the commonest does; one that isn't there as much as the rarest.
    """
    seen = [share for share in shares if share > 0]
    if not seen:
        return (1.0,) * len(shares)
    rarest = max(min(seen), max(seen) / MOST_WEIGHT**2)
    raw = [1 / math.sqrt(max(share, rarest)) for share in shares]
    mean = sum(weight * share for weight, share in zip(raw, shares, strict=True)) / sum(shares)
    return tuple(weight / mean for weight in raw)
