"""Losses of whole objects: from probs and truth, both (N, foreground classes, *spatial), to (N, foreground classes).

probs are in [0, 1], truth is 0 or 1. known: (N, 1, *spatial), 1 or 0, and 0 where a pixel is ignored; truth is 0 there.
Where both are empty, each loss is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unet_cli.training.losses.distances import radius, signed_distances

SMOOTH = 1.0
FALSE_ALARM, MISS = 0.3, 0.7  # of the Tversky loss
NEAR_ZERO = 1e-4  # below this, the focal Tversky loss goes straight to 0


def dice(probs: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1), in [0, 1).

    Source: Milletari, Navab, Ahmadi, "V-Net", 3DV 2016, section 3, with plain sums in the denominator and smoothing,
    which makes empty against empty 0.
    """
    return tversky(probs, truth, known, 0.5, 0.5)


def jaccard(probs: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """1 - (I + 1/2) / (U + 1/2), I = sum(p t), U = sum(p) + sum(t) - I, in [0, 1).

    Source: Rahman, Wang, "Optimizing Intersection-Over-Union in Deep Neural Networks for Image Segmentation", ISVC
    2016, of each image and with smoothing as in `dice`: where that says 1 - d, this says 1 - d / (2 - d).
    """
    return tversky(probs, truth, known, 1.0, 1.0)


def tversky(
    probs: Tensor, truth: Tensor, known: Tensor, false_alarm: float = FALSE_ALARM, miss: float = MISS
) -> Tensor:
    """1 - (TP + 1/2) / (TP + a FP + b FN + 1/2), in [0, 1); a = 0.3, b = 0.7 unless given.

    Source: Salehi, Erdogmus, Gholipour, "Tversky loss function for image segmentation using 3D fully convolutional deep
    networks", MLMI 2017, equation 4, with smoothing, for each image; with a = b = 1/2 it is Dice.
    """
    probs, spatial = probs * known, list(range(2, probs.ndim))
    hit = (probs * truth).sum(spatial)
    wrong = 2 * false_alarm * (probs.sum(spatial) - hit) + 2 * miss * (truth.sum(spatial) - hit)
    return 1 - (2 * hit + SMOOTH) / (2 * hit + wrong + SMOOTH)


def focal_tversky(probs: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """x^(3/4) of the Tversky loss x, in [0, 1); near 0, where its gradient has no bound, x / (x + 1e-4)^(1/4).

    Source: Abraham, Khan, "A Novel Focal Tversky Loss Function with Improved Attention U-Net for Lesion Segmentation",
    ISBI 2019, with gamma = 4/3 and their weights of misses and false alarms, which are those of `tversky`.
    """
    loss = tversky(probs, truth, known)
    return loss / (loss + NEAR_ZERO) ** 0.25


def lovasz(probs: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """The Lovász extension of 1 - intersection over union, at the errors |t - p|, in [0, 1].

    It is the sum of the errors, largest first, each times what making it, too, adds to 1 - intersection over union.
    Where the class is absent, that is the largest error.

    Source: Berman, Rannen Triki, Blaschko, "The Lovász-Softmax loss", CVPR 2018, section 3 and algorithm 1, of each
    image; averaged over all foreground classes, not those present. Two classes are taken alike, from the sigmoid, where
    the paper has a hinge.
    """
    errors, order = ((truth - probs).abs() * known).flatten(2).sort(2, descending=True)
    wanted = truth.flatten(2).gather(2, order)
    total = wanted.sum(2, keepdim=True)
    loss = 1 - (total - wanted.cumsum(2)) / (total + (1 - wanted).cumsum(2))
    return (errors * loss.diff(dim=2, prepend=torch.zeros_like(total))).sum(2)


def boundary(probs: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Mean over known pixels of p times the signed distance to the border of the true object, negative inside.

    In pixels, of either sign; see `signed_distances`. 0 where the class is absent or covers everything, so it needs a
    term beside it.

    Source: Kervadec et al., "Boundary loss for highly unbalanced segmentation", MIDL 2019, section 2, divided by the
    number of pixels as in their published code.
    """
    distances = _of_each(signed_distances, truth, known).to(probs)
    spatial = list(range(2, probs.ndim))
    return (probs * distances * known).sum(spatial) / known.sum(spatial).clamp(min=1)


def cldice(probs: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Half Dice and half 1 - 2 P S / (P + S), P = (sum(s_p t) + 1) / (sum(s_p) + 1) the share of the predicted skeleton
    s_p in the true object, S likewise of the true skeleton in the prediction; in [0, 1).

    Skeletons are thinned as often as the true object's radius asks for, so that time and memory grow with it: this is
    for vessels, roads and the like. What is predicted to be thicker than the truth is left to the Dice half.

    Source: Shit et al., "clDice - a Novel Topology-Preserving Loss Function for Tubular Structure Segmentation", CVPR
    2021, algorithms 1 and 2, mixed with Dice by alpha = 1/2, of each image and class; how often to thin they leave to
    the user.
    """
    rounds = _of_each(radius, truth, known).clamp(min=1)
    spatial = list(range(2, probs.ndim))
    probs = probs * known

    def share(skeleton: Tensor, region: Tensor) -> Tensor:
        return ((skeleton * region).sum(spatial) + SMOOTH) / (skeleton.sum(spatial) + SMOOTH)

    precision = share(soft_skeleton(probs, known, rounds), truth)
    sensitivity = share(soft_skeleton(truth, known, rounds), probs)
    centre = 1 - 2 * precision * sensitivity / (precision + sensitivity)
    return (dice(probs, truth, known) + centre) / 2


def soft_skeleton(image: Tensor, known: Tensor, rounds: Tensor) -> Tensor:
    """(N, C, *spatial) in [0, 1] -> the same: what opening takes away from the image, or from it thinned by any number
    of pixels below `rounds` (N, C). Ignored pixels, and those beyond the border, neither thin nor thicken.

    Source: Shit et al. 2021, algorithm 1; its s + relu(d - s d) for one d after another is 1 - (1 - d)(1 - d)... here.
    """
    ignored, spatial = known == 0, range(2, image.ndim)
    last = int(rounds.max())
    rounds = rounds.to(image.device).view(*rounds.shape, *[1] * len(spatial))
    rest = torch.ones_like(image)
    for number in range(last):
        image = image.masked_fill(ignored, 1)
        thinner = -reduce(torch.maximum, [_largest_of_three(-image, dim) for dim in spatial])
        opened = reduce(_largest_of_three, spatial, thinner.masked_fill(ignored, 0))
        rest = rest * (1 - F.relu(image - opened) * known * (rounds > number))
        image = thinner
    return 1 - rest


def _largest_of_three(image: Tensor, dim: int) -> Tensor:
    """Of each pixel and its two neighbours along a dimension."""
    line = tuple(3 if each == dim else 1 for each in range(2, image.ndim))
    pool = F.max_pool2d if image.ndim == 4 else F.max_pool3d
    return pool(image, line, 1, tuple(side // 2 for side in line))


def _of_each(measure: Callable[[np.ndarray, np.ndarray], object], truth: Tensor, known: Tensor) -> Tensor:
    """What (inside, outside) say of each image and class: (N, classes, ...) on the processor."""
    inside = truth.cpu().numpy() > 0
    outside = (known.cpu().numpy() > 0) & ~inside
    found = [[measure(*pair) for pair in zip(*both, strict=True)] for both in zip(inside, outside, strict=True)]
    return torch.from_numpy(np.array(found))
