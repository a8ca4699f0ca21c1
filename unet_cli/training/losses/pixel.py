"""Pixel-wise losses, from logits (N, K, *spatial) and a target (N, *spatial) of class indices and IGNORED.

weights: (N, *spatial), the class weight of each pixel, 0 where ignored.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unet_cli.config.model import IGNORED
from unet_cli.training.losses.distances import border_weights

GAMMA = 2.0  # exponent of the focal loss
ONE_IN = 10  # top-k takes the hardest one in ten pixels


def unweighted_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-log(p), p the probability of the true class: (N, *spatial), at least 0, arbitrary where ignored.

    p is from a sigmoid where K is 1, else from a softmax.
    """
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], (target == 1).to(logits.dtype), reduction="none")
    return F.cross_entropy(logits, target.long(), ignore_index=IGNORED, reduction="none")


def cross_entropy(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """-w log(p), w the weight of the true class and p its probability: (N, *spatial), at least 0."""
    return unweighted_cross_entropy(logits, target) * weights


def focal(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """-w (1 - p)^2 log(p), w the weight of the true class and p its probability: (N, *spatial), at least 0.

    Source: Lin, Goyal, Girshick, He, Dollár, "Focal Loss for Dense Object Detection", ICCV 2017, equation 5 with
    gamma = 2, and w for their alpha; averaged over all pixels rather than divided by the number of object pixels.
    """
    each = unweighted_cross_entropy(logits, target)
    # 1 - p = -expm1(-entropy), without the cancellation of 1 - exp(-entropy) at p near 1.
    return torch.expm1(-each).abs() ** GAMMA * each * weights


def paper(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """-(w + w0 exp(-(d1 + d2)^2 / (2 sigma^2))) log(p), w the weight of the true class: (N, *spatial), at least 0.

    Source: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, equations 1 and 2; see `border_weights` for the second
    term, which applies to background only. The paper's energy is a sum over pixels; this one is divided by the sum of
    w, so that the border term adds to a mean cross-entropy.
    """
    borders = np.stack([border_weights(one) for one in target.cpu().numpy()])
    return unweighted_cross_entropy(logits, target) * (weights + torch.from_numpy(borders).to(logits))


def top_k(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Mean cross-entropy of the hardest tenth of each image's known pixels, rounded up: (N,), at least 0.

    With class weights, the pixels are those with the largest weighted cross-entropy, and the mean is weighted.

    Source: online bootstrapping in Wu, Shen, van den Hengel, "Bridging Category-level and Instance-level Semantic Image
    Segmentation", arXiv:1605.06885 (2016), with a share of each image instead of a number of pixels.
    """
    known = (target != IGNORED).flatten(1)
    each, weights = cross_entropy(logits, target, weights).flatten(1), weights.flatten(1)
    order = torch.where(known, each.detach(), -1).argsort(1, descending=True)
    count = (known.sum(1, keepdim=True) + ONE_IN - 1) // ONE_IN
    # The number of known pixels differs between images, so ranks are masked where topk would need one k.
    selected = (torch.arange(order.shape[1], device=order.device) < count).to(each.dtype)
    weight = (weights.gather(1, order) * selected).sum(1)
    return (each.gather(1, order) * selected).sum(1) / torch.where(weight > 0, weight, 1)
