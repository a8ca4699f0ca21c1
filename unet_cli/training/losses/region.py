"""Region losses: from probs and truth, both (N, foreground classes, *spatial), to (N, foreground classes).

probs: in [0, 1]. truth: 0 or 1. known: (N, 1, *spatial), 0 where a pixel is ignored, else 1; truth is 0 where ignored.
Each loss is 0 where prediction and truth are both empty.
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
FALSE_POSITIVE, FALSE_NEGATIVE = 0.3, 0.7  # weights in the Tversky loss
NEAR_ZERO = 1e-4  # below this, the focal Tversky loss is linear


def dice(probs: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1), in [0, 1).

    Source: Milletari, Navab, Ahmadi, "V-Net", 3DV 2016, section 3, with sums rather than sums of squares in the
    denominator, and smoothing, which makes empty against empty 0.
    """
    return tversky(probs, truth, known, 0.5, 0.5)


def jaccard(probs: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """1 - (I + 1/2) / (U + 1/2), I = sum(p t), U = sum(p) + sum(t) - I, in [0, 1).

    Source: Rahman, Wang, "Optimizing Intersection-Over-Union in Deep Neural Networks for Image Segmentation", ISVC
    2016, for each image and with smoothing as in `dice`: where that is 1 - d, this is 1 - d / (2 - d).
    """
    return tversky(probs, truth, known, 1.0, 1.0)


def tversky(
    probs: Tensor, truth: Tensor, known: Tensor, alpha: float = FALSE_POSITIVE, beta: float = FALSE_NEGATIVE
) -> Tensor:
    """1 - (TP + 1/2) / (TP + alpha FP + beta FN + 1/2), in [0, 1).

    Source: Salehi, Erdogmus, Gholipour, "Tversky loss function for image segmentation using 3D fully convolutional deep
    networks", MLMI 2017, equation 4, with smoothing, for each image; with alpha = beta = 1/2 it is Dice.
    """
    probs, spatial = probs * known, list(range(2, probs.ndim))
    # Everything is doubled, so that with alpha = beta = 1/2 the formula and SMOOTH are exactly those of Dice.
    tp = (probs * truth).sum(spatial)
    errors = 2 * alpha * (probs.sum(spatial) - tp) + 2 * beta * (truth.sum(spatial) - tp)
    return 1 - (2 * tp + SMOOTH) / (2 * tp + errors + SMOOTH)


def focal_tversky(probs: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """x^(3/4) of the Tversky loss x, in [0, 1), as x / (x + 1e-4)^(1/4), whose gradient is bounded near 0.

    Source: Abraham, Khan, "A Novel Focal Tversky Loss Function with Improved Attention U-Net for Lesion Segmentation",
    ISBI 2019, with gamma = 4/3 and their weights of false negatives and positives, which are those of `tversky`.
    """
    loss = tversky(probs, truth, known)
    return loss / (loss + NEAR_ZERO) ** 0.25


def lovasz(probs: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """The Lovász extension of 1 - IoU at the errors |t - p|, in [0, 1].

    It is the sum of the errors in descending order, each times the increase of 1 - IoU when that pixel becomes wrong
    too. Where the class is absent, that is the largest error.

    Source: Berman, Rannen Triki, Blaschko, "The Lovász-Softmax loss", CVPR 2018, section 3 and algorithm 1, for each
    image; averaged over all foreground classes rather than those present. Two classes are treated alike, from the
    sigmoid, where the paper has a hinge.
    """
    errors, order = ((truth - probs).abs() * known).flatten(2).sort(2, descending=True)
    sorted_truth = truth.flatten(2).gather(2, order)
    total = sorted_truth.sum(2, keepdim=True)
    # Entry i is 1 - IoU with the i + 1 largest errors wrong: true pixels among them leave the intersection, false ones
    # join the union. Its differences are the gradient of the extension.
    loss = 1 - (total - sorted_truth.cumsum(2)) / (total + (1 - sorted_truth).cumsum(2))
    return (errors * loss.diff(dim=2, prepend=torch.zeros_like(total))).sum(2)


def boundary(probs: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Mean over known pixels of p times the signed distance to the border of the true object, negative inside.

    In pixels, of either sign; see `signed_distances`. 0 where the class is absent or covers everything, so it needs
    another term beside it.

    Source: Kervadec et al., "Boundary loss for highly unbalanced segmentation", MIDL 2019, section 2, divided by the
    number of pixels as in their published code.
    """
    distances = _for_each(signed_distances, truth, known).to(probs)
    spatial = list(range(2, probs.ndim))
    return (probs * distances * known).sum(spatial) / known.sum(spatial).clamp(min=1)


def cldice(probs: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Half Dice and half 1 - 2 P S / (P + S), in [0, 1). P = (sum(s_p t) + 1) / (sum(s_p) + 1) is the share of the
    predicted skeleton s_p within the true object, S likewise that of the true skeleton within the prediction.

    The number of thinning iterations is the true object's radius, so time and memory grow with it: the loss is meant
    for thin structures such as vessels and roads. Predictions thicker than the truth are left to the Dice half.

    Source: Shit et al., "clDice - a Novel Topology-Preserving Loss Function for Tubular Structure Segmentation", CVPR
    2021, algorithms 1 and 2, mixed with Dice by alpha = 1/2, for each image and class; they leave the number of
    iterations to the user.
    """
    # The radius is of the true object, so that the prediction can't change the number of iterations.
    rounds = _for_each(radius, truth, known).clamp(min=1)
    spatial = list(range(2, probs.ndim))
    probs = probs * known

    def share(skeleton: Tensor, region: Tensor) -> Tensor:
        return ((skeleton * region).sum(spatial) + SMOOTH) / (skeleton.sum(spatial) + SMOOTH)

    precision = share(soft_skeleton(probs, known, rounds), truth)
    sensitivity = share(soft_skeleton(truth, known, rounds), probs)
    centreline = 1 - 2 * precision * sensitivity / (precision + sensitivity)
    return (dice(probs, truth, known) + centreline) / 2


def soft_skeleton(image: Tensor, known: Tensor, rounds: Tensor) -> Tensor:
    """Soft skeleton of an image (N, C, *spatial) in [0, 1], of the same shape: what an opening removes from the image,
    or from its erosion by any number of pixels below `rounds` (N, C). Ignored pixels, and those beyond the border,
    neither erode nor dilate.

    Source: Shit et al. 2021, algorithm 1; its repeated s + relu(d - s d) is the product 1 - (1 - d)(1 - d)... here.
    """
    ignored, spatial = known == 0, range(2, image.ndim)
    last = int(rounds.max())
    rounds = rounds.to(image.device).view(*rounds.shape, *[1] * len(spatial))
    rest = torch.ones_like(image)
    for number in range(last):
        # Ignored pixels are 1 for the erosion, a minimum, and 0 for the dilation, a maximum, and so change neither.
        image = image.masked_fill(ignored, 1)
        eroded = -reduce(torch.maximum, [_max_of_three(-image, dim) for dim in spatial])  # by a cross
        opened = reduce(_max_of_three, spatial, eroded.masked_fill(ignored, 0))  # dilated by a square
        rest = rest * (1 - F.relu(image - opened) * known * (rounds > number))
        image = eroded
    return 1 - rest


def _max_of_three(image: Tensor, dim: int) -> Tensor:
    """Maximum of each pixel and its two neighbours along a dimension."""
    line = tuple(3 if each == dim else 1 for each in range(2, image.ndim))
    pool = F.max_pool2d if image.ndim == 4 else F.max_pool3d
    return pool(image, line, 1, tuple(side // 2 for side in line))


def _for_each(measure: Callable[[np.ndarray, np.ndarray], object], truth: Tensor, known: Tensor) -> Tensor:
    """measure(inside, outside) of each image and class: (N, classes, ...) on the CPU."""
    inside = truth.cpu().numpy() > 0
    outside = (known.cpu().numpy() > 0) & ~inside
    values = [[measure(*pair) for pair in zip(*both, strict=True)] for both in zip(inside, outside, strict=True)]
    return torch.from_numpy(np.array(values))
