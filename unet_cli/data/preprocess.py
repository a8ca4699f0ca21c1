"""Image -> network input, for training and prediction alike: channels, size, intensity."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unet_cli.config import Preprocessing
from unet_cli.errors import UserError

LEAST_STD = 1.0  # in units of the files' values: a constant image is all zero, not infinite
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as Pillow converts RGB to L


def bits_of(image: np.ndarray) -> int:
    """8 or 16."""
    return 8 * image.dtype.itemsize


def prepare(image: np.ndarray, preprocessing: Preprocessing) -> tuple[Tensor, str | None]:
    """(C, H, W) pixels of a file -> (in_channels, size, size) tensor of the same dtype, and what was converted.

    Raises UserError where the image has another depth than the training images, or channels that can't be converted.
    """
    if bits_of(image) != preprocessing.bits:
        raise UserError(
            f"has {bits_of(image)} bits a channel, but the network was trained on {preprocessing.bits}-bit images: "
            "convert it"
        )
    image, note = to_channels(image, preprocessing.in_channels)
    return resize_image(torch.from_numpy(image), (preprocessing.size, preprocessing.size)), note


def to_channels(image: np.ndarray, channels: int) -> tuple[np.ndarray, str | None]:
    """Turn gray into colour or colour into gray, and say so. Raises UserError for other numbers of channels."""
    have = image.shape[0]
    if have == channels:
        return image, None
    if have == 1 and channels == 3:
        return np.repeat(image, 3, axis=0), "gray was repeated to three channels"
    if have == 3 and channels == 1:
        if (image[0] == image[1]).all() and (image[0] == image[2]).all():
            return image[:1], "RGB with equal channels was taken as gray"
        gray = np.tensordot(LUMA, image.astype(np.float32), axes=1)
        return np.rint(gray).astype(image.dtype)[None], "RGB was converted to gray"
    raise UserError(f"has {have} channels, but the network was trained on {channels}")


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Stretch (C, H, W) to (C, *size), bilinear and antialiased, dtype kept: uint8, uint16 or float."""
    if tuple(image.shape[-2:]) == size:
        return image
    if image.dtype == torch.uint16:
        return _interpolate(image.float(), size).round().clamp(0, 65535).to(torch.uint16)
    return _interpolate(image, size)


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Stretch an (H, W) uint8 mask to `size`; each pixel takes the nearest value."""
    if tuple(mask.shape) == size:
        return mask
    return F.interpolate(mask[None, None], size=size, mode="nearest-exact")[0, 0]


def normalize(image: Tensor, preprocessing: Preprocessing) -> Tensor:
    """(N, C, H, W) pixels -> float32 of mean 0 and standard deviation 1: over the training part, or of each image."""
    if preprocessing.intensity == "image":
        centred = image.float()
        centred = centred - centred.mean((1, 2, 3), keepdim=True)
        return centred / centred.std((1, 2, 3), keepdim=True, correction=0).clamp(min=LEAST_STD)
    shape = (1, -1, 1, 1)
    mean = torch.tensor(preprocessing.mean, device=image.device).view(shape)
    std = torch.tensor(preprocessing.std, device=image.device).view(shape)
    return (image.float() - mean) / std


def _interpolate(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]
