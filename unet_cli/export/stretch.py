"""Resizing as two matrix products, with the weights of torch's antialiased bilinear kernel: it can be exported with
sizes that are not known yet, where the kernel itself can't.

Source: aten/src/ATen/native/cpu/UpSampleKernel.cpp of PyTorch.
"""

from __future__ import annotations

import torch
from torch import Tensor

BITS = 22  # most that the kernel for 8 bits scales its weights by, as a power of two
LIMIT = 2**15  # of a scaled weight


def stretch(image: Tensor, rows: Tensor, columns: Tensor, rounds: bool = False) -> Tensor:
    """(C, H, W) float -> (C, h, w), with weights (h, H) and (w, W). rounds: whether values are rounded after each
    product, as the kernel for 8 bits does."""
    image = image @ columns.T
    image = _rounded(image) if rounds else image
    image = rows @ image
    return _rounded(image) if rounds else image


def weights_of_floats(have: int, size: int) -> Tensor:
    """(size, have) weights for values in floating point, with the kernel's own rounding of them."""
    return _weights(have, size, torch.float32)


def weights_of_bytes(have: int, size: int) -> Tensor:
    """(size, have) weights for 8 bits, rounded as the kernel's are: the products then are exact, but for those of large
    images, whose sums exceed what float32 holds exactly."""
    weights = _weights(have, size, torch.float64)
    powers = 2.0 ** torch.arange(BITS + 1, dtype=torch.float64)
    fits = weights.max() * powers + 0.5 < LIMIT
    scale = torch.where(fits, powers, torch.ones_like(powers)).max()
    return ((weights * scale + 0.5).floor() / scale).float()


def _weights(have: int, size: int, dtype: torch.dtype) -> Tensor:
    """Triangles around the centre of each output pixel, as wide as one pixel of the coarser grid, of sum 1."""
    length, sides = _number(have, dtype), _number(size, dtype)
    scale = length / sides
    ones = torch.ones_like(scale)
    inverse = torch.where(scale >= 1, 1 / scale, ones)
    centres = scale * (torch.arange(size, dtype=dtype) + 0.5)
    places = torch.arange(have, dtype=dtype)
    distances = ((places - centres[:, None]) + 0.5) * inverse
    triangles = (1 - distances.abs()).clamp(min=0.0)
    return triangles / triangles.sum(1, keepdim=True)


def _number(side: int, dtype: torch.dtype) -> Tensor:
    return torch.scalar_tensor(side, dtype=dtype)


def _rounded(image: Tensor) -> Tensor:
    return (image + 0.5).floor().clamp(0.0, 255.0)
