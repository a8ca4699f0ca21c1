"""Folding of batch norm into convolutions, for faster prediction."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Model = TypeVar("Model", bound=nn.Module)


def fold_batch_norm(model: Model) -> Model:
    """A copy in evaluation mode whose batch norms are folded into the convolutions before them.

    In evaluation mode a batch norm multiplies each channel by a constant and adds another, which the convolution's
    weights and bias can do (Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", CVPR 2018, section 3.2). A batch norm is folded where it follows a convolution
    directly in an nn.Sequential.
    """
    model = copy.deepcopy(model).eval()
    for block in model.modules():
        if isinstance(block, nn.Sequential):
            # A list of the modules, since the block changes meanwhile; Identity keeps the indices of those after it.
            for index, (conv, norm) in enumerate(pairwise(list(block))):
                if isinstance(conv, nn.Conv2d | nn.Conv3d) and isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
                    block[index], block[index + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return model
