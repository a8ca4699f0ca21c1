"""Losses of single pixels, from logits (N, K, *spatial) and a target (N, *spatial) of class indices and IGNORED.

weights: (N, *spatial), of each pixel's class, 0 where ignored.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unet_cli.config.model import IGNORED
from unet_cli.training.losses.distances import border_weights

GAMMA = 2.0  # of the focal loss
ONE_IN = 10  # pixels, the hardest, that top-k takes


def entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-log(p), p the probability of the true class: (N, *spatial) from 0 on, anything where ignored.

    From a sigmoid where there is one logit, else from the softmax.
    """
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], (target == 1).to(logits.dtype), reduction="none")
    return F.cross_entropy(logits, target.long(), ignore_index=IGNORED, reduction="none")


def cross_entropy(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """-w log(p), w the weight of the true class and p its probability: (N, *spatial) from 0 on."""
    return entropy(logits, target) * weights


def focal(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """-w (1 - p)^2 log(p), w the weight of the true class and p its probability: (N, *spatial) from 0 on.

    Source: Lin, Goyal, Girshick, He, Dollár, "Focal Loss for Dense Object Detection", ICCV 2017, equation 5 with
    gamma = 2, and w for their alpha; averaged over all pixels, not divided by the number of those of objects.
    """
    each = entropy(logits, target)
    return torch.expm1(-each).abs() ** GAMMA * each * weights


def paper(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """-(w + w0 exp(-(d1 + d2)^2 / (2 sigma^2))) log(p), w the weight of the true class: (N, *spatial) from 0 on.

    Source: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, equations 1 and 2; see `border_weights` for the second
    term, which holds on background only. The paper's energy is a sum over pixels, where this one is divided by the sum
    of w, so that the border term comes on top of a mean cross-entropy.
    """
    borders = np.stack([border_weights(one) for one in target.cpu().numpy()])
    return entropy(logits, target) * (weights + torch.from_numpy(borders).to(logits))


def top_k(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Mean cross-entropy of the hardest tenth of each image's known pixels, rounded up: (N,) from 0 on.

    With class weights, the pixels are those with the largest weighted one, and the mean is weighted.

    Source: online bootstrapping in Wu, Shen, van den Hengel, "Bridging Category-level and Instance-level Semantic Image
    Segmentation", arXiv:1605.06885 (2016), with a share of each image in place of a number of pixels.
    """
    known = (target != IGNORED).flatten(1)
    each, weights = cross_entropy(logits, target, weights).flatten(1), weights.flatten(1)
    order = torch.where(known, each.detach(), -1).argsort(1, descending=True)
    count = (known.sum(1, keepdim=True) + ONE_IN - 1) // ONE_IN
    taken = (torch.arange(order.shape[1], device=order.device) < count).to(each.dtype)
    weight = (weights.gather(1, order) * taken).sum(1)
    return (each.gather(1, order) * taken).sum(1) / torch.where(weight > 0, weight, 1)
