"""Losses from logits, in float32 at any precision of the network; the losses of micro-batches sum to the batch's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unet_cli.config.losses import LOSSES, parse_class_weights, parse_loss
from unet_cli.config.model import IGNORED, pixels_of
from unet_cli.errors import UserError
from unet_cli.models.classes import parts_of
from unet_cli.training.losses import pixel, region

MAX_WEIGHT = 10.0  # weight of a rare class relative to the most frequent one

# Signature of a term's function, by its kind in config/losses.py:
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
    """Denominators of the loss of a batch, over all its micro-batches and processes: scalar float32 tensors.

    images: number of images; weight: sum of the weights of their pixels, without ignored ones. Both are additive.
    """

    images: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Loss:
    """A weighted sum of terms. num_classes: background included. terms: factor and name in LOSSES of each term.

    class_weights: weight of each class's pixels in pixel and image terms, background first; None: all 1. first: index
    of the first class that region terms count, 0 where no class is background. overlapping: whether the target's
    indices are sets of classes, each class then being a target of its own: see `each_class`. cores: whether the cores
    of objects are marked in the target, and have the last logit: their loss counts as much as that of all classes.
    """

    num_classes: int
    terms: tuple[tuple[float, str], ...]
    class_weights: tuple[float, ...] | None = None
    first: int = 1
    overlapping: bool = False
    cores: bool = False

    def denominators(self, target: Tensor, images: int | None = None) -> Denominators:
        """Denominators of a target (N, *spatial). images: how many of the N images count, by default all."""
        images = len(target) if images is None else images
        if self.cores:
            target, _ = parts_of(target)
        if self.overlapping:
            return self._of_each.denominators(each_class(target, self.num_classes), images * (self.num_classes - 1))
        return _denominators(self._weights(target), images)

    def __call__(self, logits: Tensor, target: Tensor, denominators: Denominators | None = None) -> Tensor:
        """logits (N, K, *spatial), target (N, *spatial) of class indices and IGNORED -> scalar float32.

        K is the number of classes, less the background where they overlap, or 1 for two classes; and one more for
        cores. denominators: those of the batch of which this is a micro-batch; the losses of its micro-batches, and
        their gradients, then sum to those of the batch. An image that is ignored everywhere adds exactly 0.
        """
        if self.overlapping:
            return self._of_each(logits.flatten(0, 1)[:, None], each_class(target, self.num_classes), denominators)
        if self.cores:
            classes, cores = parts_of(target)
            weights = self._weights(classes)
            of_classes = replace(self, cores=False)._of(logits[:, :-1], classes, weights, denominators)
            return (of_classes + self._of_each._of(logits[:, -1:], cores, weights, denominators)) / 2
        return self._of(logits, target, self._weights(target), denominators)

    def _of(self, logits: Tensor, target: Tensor, weights: Tensor, denominators: Denominators | None) -> Tensor:
        """The loss of classes that exclude each other. weights: of each pixel, (N, *spatial)."""
        logits = logits.float()
        denominators = denominators or _denominators(weights, len(target))
        # An all-ignored batch has numerators of 0, so any positive denominator gives a loss of 0 rather than NaN.
        images = denominators.images.clamp(min=1)
        weight = torch.where(denominators.weight > 0, denominators.weight, 1)
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
        self,
        heads: Sequence[Tensor],
        head_weights: Sequence[float],
        target: Tensor,
        denominators: Denominators | None = None,
    ) -> Tensor:
        """Deep supervision: the weighted sum of the losses of several heads' logits -> scalar float32, additive too.

        A head that is coarser by an integer factor f, (N, K, *ceil(spatial / f)), is compared with the centre pixel of
        each f x f cell; distances count in its own pixels. A head of weight 0 gets a gradient of 0.
        """
        denominators = denominators or self.denominators(target)
        total = torch.zeros((), device=target.device)
        for logits, head_weight in zip(heads, head_weights, strict=True):
            if head_weight == 0:
                total = total + 0 * logits.float().sum()  # DDP waits for a gradient of every parameter
                continue
            coarse = downsample_target(target, logits.shape[2:])
            # A coarse head has this share of the pixels; the share of ignored ones is taken to be the same.
            share = math.prod(coarse.shape[1:]) / math.prod(target.shape[1:])
            scaled = Denominators(denominators.images, denominators.weight * share)
            total = total + head_weight * self(logits, coarse, scaled)
        return total

    def _regions(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(probs, truth, known), see region.py."""
        classes = torch.arange(self.first, self.num_classes, device=target.device).view(-1, *[1] * (target.ndim - 1))
        probs = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)[:, self.first :]
        return probs, (target[:, None] == classes).float(), (target != IGNORED).float()[:, None]

    @property
    def _of_each(self) -> Loss:
        """The same loss of a single class."""
        return Loss(2, self.terms)

    def _weights(self, target: Tensor) -> Tensor:
        """Weight of each pixel (N, *spatial) float32, 0 where ignored."""
        known = (target != IGNORED).float()
        if self.class_weights is None:
            return known
        return torch.tensor(self.class_weights, device=target.device)[(target * known).long()] * known


def each_class(target: Tensor, num_classes: int) -> Tensor:
    """Sets of classes, (N, *spatial) -> (N * foreground classes, *spatial) uint8 of 0, 1 and IGNORED: the target of
    each class by itself, in the order of logits (N, K, *spatial) whose first two dimensions are flattened."""
    classes = torch.stack([pixels_of(target, number, True) for number in range(1, num_classes)], dim=1).to(torch.uint8)
    return classes.masked_fill((target == IGNORED)[:, None], IGNORED).flatten(0, 1)


def _denominators(weights: Tensor, images: int) -> Denominators:
    return Denominators(torch.full((), float(images), device=weights.device), weights.sum())


def downsample_target(target: Tensor, spatial: Sequence[int]) -> Tensor:
    """A target (N, *spatial) at a resolution lower by an integer factor f: the centre pixel of each f x f cell.

    The centre is i f + f // 2, or the last pixel where the cell extends beyond the target. spatial: ceil(side / f) of
    each side; where several factors fit, f is the smallest power of two, or else the smallest. Where none fits all
    axes of a volume, one of which a network may leave as it is, each has its own. Raises ValueError where none fits.
    """
    sides = target.shape[1:]
    if tuple(spatial) == tuple(sides):
        return target
    common = _factor(sides, spatial)
    for dim, (side, wanted) in enumerate(zip(sides, spatial, strict=True), start=1):
        factor = common or (_factor([side], [wanted]) if len(sides) == 3 else None)
        if factor is None:
            raise ValueError(f"logits of {tuple(spatial)} are not coarser than {tuple(sides)} by a whole factor")
        centers = torch.arange(wanted, device=target.device) * factor + factor // 2
        target = target.index_select(dim, centers.clamp(max=side - 1))
    return target


def _factor(sides: Sequence[int], spatial: Sequence[int]) -> int | None:
    """The factor by which all sides are longer: the smallest power of two that fits, else the smallest number; None
    where none does."""
    fitting = [f for f in range(1, max(sides) + 1) if all(-(-a // f) == b for a, b in zip(sides, spatial, strict=True))]
    return min(fitting, key=lambda f: (f & (f - 1) != 0, f), default=None)


def loss_for(
    expression: str,
    num_classes: int,
    class_weights: Sequence[float] | None = None,
    first: int = 1,
    overlapping: bool = False,
    cores: bool = False,
) -> Loss:
    """The loss for an expression such as 'bce+dice', see `parse_loss`; for the class weights see `class_weights_for`.

    Raises UserError where the expression can't be read.
    """
    assert class_weights is None or len(class_weights) == num_classes
    weights = None if class_weights is None else tuple(class_weights)
    return Loss(num_classes, parse_loss(expression), weights, first, overlapping, cores)


def class_weights_for(text: str, shares: Sequence[float]) -> tuple[float, ...] | None:
    """The weights for --class-weights: 'none', 'auto', or numbers such as '1,5,2'. shares: share of the training pixels
    in each class, background first. Raises UserError where numbers are bad, or more or fewer than classes."""
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
    """Weight of each class: 1 / sqrt(its share of the pixels), scaled to a mean of 1 over the pixels.

    The weight of a rare class is at most MAX_WEIGHT times that of the most frequent one; an absent class has the weight
    of the rarest.
    """
    present = [share for share in shares if share > 0]
    if not present:
        return (1.0,) * len(shares)
    # Weights go with the root of the share, so a ratio of MAX_WEIGHT is a ratio of MAX_WEIGHT^2 in the shares.
    rarest = max(min(present), max(present) / MAX_WEIGHT**2)
    raw = [1 / math.sqrt(max(share, rarest)) for share in shares]
    mean = sum(weight * share for weight, share in zip(raw, shares, strict=True)) / sum(shares)
    return tuple(weight / mean for weight in raw)
