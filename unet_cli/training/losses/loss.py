"""Losses from logits, computed in float32 whatever the network computes in, whose parts add up to that of the whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unet_cli.config.losses import LOSSES, parse_class_weights, parse_loss
from unet_cli.config.model import IGNORED
from unet_cli.errors import UserError
from unet_cli.training.losses import pixel, region

MAX_WEIGHT = 10.0  # of a rare class, as a multiple of the commonest one's

# What a term's function takes and returns, by the kind that config/losses.py gives it:
#   pixel   (logits, target, weights) -> (N, *spatial), averaged over pixels
#   image   (logits, target, weights) -> (N,), averaged over images
#   region  (probs, truth, known) -> (N, foreground classes), averaged over both
Term = Callable[[Tensor, Tensor, Tensor], Tensor]
MODULES = {"pixel": pixel, "image": pixel, "region": region}


def term_of(name: str) -> Term:
    """The function of a loss in the table."""
    row = LOSSES[name]
    return getattr(MODULES[row.kind], row.function or name.replace("-", "_"))


@dataclass(frozen=True)
class Denominators:
    """What the loss of a batch is divided by, counted over all its parts: scalar float32 tensors.

    images: how many; weight: of their pixels, the ignored ones left out. The sum of the parts' is the whole's.
    """

    images: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Loss:
    """A sum of terms. num_classes: background included. terms: of each its factor and its name in LOSSES.

    class_weights: of each class's pixels in pixel and image terms, background first; None: all 1. first: of the classes
    that region terms count, 0 where none is background.
    """

    num_classes: int
    terms: tuple[tuple[float, str], ...]
    class_weights: tuple[float, ...] | None = None
    first: int = 1

    def whole(self, target: Tensor, images: int | None = None) -> Denominators:
        """Of a target (N, *spatial), or of a part of one; images: how many of the N count, all unless given."""
        return _whole(self._weights(target), len(target) if images is None else images)

    def __call__(self, logits: Tensor, target: Tensor, whole: Denominators | None = None) -> Tensor:
        """logits (N, K, *spatial), target (N, *spatial) of class indices and IGNORED -> scalar float32.

        K is the number of classes, or 1 for two of them. whole: of the batch that this is a part of; its parts' losses,
        and their gradients, then add up to those of the batch. An image that is ignored everywhere adds exactly 0.
        """
        logits, weights = logits.float(), self._weights(target)
        whole = whole or _whole(weights, len(target))
        images, weight = whole.images.clamp(min=1), torch.where(whole.weight > 0, whole.weight, 1)
        total = logits.new_zeros(())
        for factor, name in self.terms:
            kind, term = LOSSES[name].kind, term_of(name)
            if kind == "pixel":
                loss = term(logits, target, weights).sum() / weight
            elif kind == "image":
                loss = term(logits, target, weights).sum() / images
            else:
                loss = term(*self._regions(logits, target)).sum() / (images * (self.num_classes - self.first))
            total = total + factor * loss
        return total

    def deep(
        self, heads: Sequence[Tensor], head_weights: Sequence[float], target: Tensor, whole: Denominators | None = None
    ) -> Tensor:
        """The weighted sum of the losses of several heads' logits -> scalar float32, whose parts add up alike.

        A head that is coarser by a whole factor f, (N, K, *ceil(spatial / f)), is compared with the pixel in the middle
        of each of its cells; distances count in its own pixels. A head of weight 0 gets a gradient of 0.
        """
        whole = whole or self.whole(target)
        total = torch.zeros((), device=target.device)
        for logits, head_weight in zip(heads, head_weights, strict=True):
            if head_weight == 0:
                total = total + 0 * logits.float().sum()
                continue
            seen = middles(target, logits.shape[2:])
            share = math.prod(seen.shape[1:]) / math.prod(target.shape[1:])
            total = total + head_weight * self(logits, seen, Denominators(whole.images, whole.weight * share))
        return total

    def _regions(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """probs, truth, known: see region.py."""
        classes = torch.arange(self.first, self.num_classes, device=target.device).view(-1, *[1] * (target.ndim - 1))
        probs = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)[:, self.first :]
        return probs, (target[:, None] == classes).float(), (target != IGNORED).float()[:, None]

    def _weights(self, target: Tensor) -> Tensor:
        """(N, *spatial) float32: of each pixel, 0 of ignored ones."""
        known = (target != IGNORED).float()
        if self.class_weights is None:
            return known
        return torch.tensor(self.class_weights, device=target.device)[(target * known).long()] * known


def _whole(weights: Tensor, images: int) -> Denominators:
    return Denominators(torch.full((), float(images), device=weights.device), weights.sum())


def middles(target: Tensor, spatial: Sequence[int]) -> Tensor:
    """(N, *spatial) at a resolution lower by a whole factor f: the pixel in the middle of each cell of f x f.

    That is i f + f // 2, or the last one where the cell reaches beyond. spatial: ceil(side / f) of each side; where
    several factors fit, f is the smallest power of two, or else the smallest. Raises ValueError where none fits.
    """
    sides = target.shape[1:]
    if tuple(spatial) == tuple(sides):
        return target
    fitting = [f for f in range(1, max(sides) + 1) if all(-(-a // f) == b for a, b in zip(sides, spatial, strict=True))]
    if not fitting:
        raise ValueError(f"logits of {tuple(spatial)} are not coarser than {tuple(sides)} by a whole factor")
    factor = min(fitting, key=lambda f: (f & (f - 1) != 0, f))
    for dim, (side, wanted) in enumerate(zip(sides, spatial, strict=True), start=1):
        places = torch.arange(wanted, device=target.device) * factor + factor // 2
        target = target.index_select(dim, places.clamp(max=side - 1))
    return target


def loss_for(expression: str, num_classes: int, class_weights: Sequence[float] | None = None, first: int = 1) -> Loss:
    """The loss of an expression such as 'bce+dice'; see `parse_loss`, and for the weights `class_weights_for`.

    Raises UserError where the expression can't be read.
    """
    assert class_weights is None or len(class_weights) == num_classes
    return Loss(num_classes, parse_loss(expression), None if class_weights is None else tuple(class_weights), first)


def class_weights_for(text: str, shares: Sequence[float]) -> tuple[float, ...] | None:
    """What --class-weights says: 'none', 'auto', or numbers such as '1,5,2'. shares: of the training pixels in each
    class, background first. Raises UserError where there are more or fewer numbers than classes, or bad ones."""
    weights = parse_class_weights(text)
    if weights == "auto":
        return balanced_weights(shares)
    if weights is not None and len(weights) != len(shares):
        raise UserError(
            f"--class-weights {text}: these are {len(weights)}, but there are {len(shares)} classes, background "
            "included: write one number for each, background first"
        )
    return weights


def balanced_weights(shares: Sequence[float]) -> tuple[float, ...]:
    """Of each class: one over the square root of its share of the pixels, scaled to a mean of 1 over the pixels.

    A rare class weighs at most MAX_WEIGHT times what the commonest does; one that isn't there as much as the rarest.
    """
    seen = [share for share in shares if share > 0]
    if not seen:
        return (1.0,) * len(shares)
    rarest = max(min(seen), max(seen) / MAX_WEIGHT**2)
    raw = [1 / math.sqrt(max(share, rarest)) for share in shares]
    mean = sum(weight * share for weight, share in zip(raw, shares, strict=True)) / sum(shares)
    return tuple(weight / mean for weight in raw)
