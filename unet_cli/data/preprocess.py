"""Preprocessing for training and prediction alike: image -> network input; channels, size, intensity."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import count
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unet_cli.config.data import FLOAT_RESOLUTION, Preprocessing
from unet_cli.data.imagefile import NAN_FILLED, filled, is_gray
from unet_cli.data.source import Source
from unet_cli.errors import UserError
from unet_cli.system.console import counted

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as Pillow converts RGB to L
MAX_SORTED = 2**16  # maximum sample of an image's values for percentiles
MAX_MEASURED = 2**22  # maximum sample for mean and standard deviation, for images in tiles or crops
EQUAL_CHANNELS, CONVERTED_TO_GRAY = "RGB with equal channels was read as gray", "RGB was converted to gray"
KINDS = {"uint8": "8-bit", "uint16": "16-bit", "float32": "floating-point, signed or 32-bit"}


def prepare(image: np.ndarray, preprocessing: Preprocessing) -> tuple[Tensor, str | None]:
    """(C, H, W) pixels of a file -> (in_channels, size, size) tensor of the same dtype, and a note on the conversion;
    with `scale` it is (in_channels, scale * H, scale * W).

    Raises UserError as `converted` does.
    """
    image, note = converted(image, preprocessing)
    size = (preprocessing.size, preprocessing.size)
    if preprocessing.scale is not None:
        height, width = (max(1, int(preprocessing.scale * length)) for length in image.shape[1:])
        size = height, width
    return resize_image(torch.from_numpy(image), size), note


def converted(image: np.ndarray, preprocessing: Preprocessing) -> tuple[np.ndarray, str | None]:
    """(C, *spatial) pixels of a file -> (in_channels, *spatial) without NaN, and a note on the conversion.

    Raises UserError as `with_channels` does.
    """
    image, note = with_channels(image, preprocessing)
    # A constant from the training set, so that tiles and crops of an image are filled alike.
    image, was_filled = filled(image, preprocessing.mean)
    return image, NAN_FILLED if was_filled else note


def with_channels(image: np.ndarray, preprocessing: Preprocessing) -> tuple[np.ndarray, str | None]:
    """(C, *spatial) pixels of a file -> (in_channels, *spatial), and a note on the conversion.

    Raises UserError if the bit depth differs from that of the training images, or the channels can't be converted.
    """
    if image.dtype != preprocessing.dtype:
        raise UserError(
            f"holds {KINDS[str(image.dtype)]} values, but the network was trained on {KINDS[preprocessing.dtype]} "
            "ones: convert it"
        )
    slices, alpha = preprocessing.slices, preprocessing.keep_alpha
    if len(image) % slices:
        raise UserError(
            f"has {counted(len(image), 'channel')}, but the network was trained on those of {slices} slices"
        )
    channels = preprocessing.in_channels // slices
    parts, (note, *_) = zip(*(to_channels(part, channels, alpha) for part in np.split(image, slices)), strict=True)
    return parts[0] if slices == 1 else np.concatenate(parts), note


def to_channels(image: np.ndarray, channels: int, alpha: bool = False) -> tuple[np.ndarray, str | None]:
    """Convert gray to colour or colour to gray, with a note on it. Raises UserError for other numbers of channels.

    alpha: whether the last channel of input and output is alpha, which is unchanged.
    """
    have = image.shape[0]
    if have == channels:
        return image, None
    if alpha and have in (2, 4):
        colour, note = to_channels(image[:-1], channels - 1)
        return np.concatenate([colour, image[-1:]]), note
    if have == 1 and channels == 3:
        return np.repeat(image, 3, axis=0), "gray was repeated to three channels"
    if have == 3 and channels == 1:
        if is_gray(image):
            return image[:1], EQUAL_CHANNELS
        gray = np.tensordot(LUMA, image.astype(np.float32), axes=1)
        gray = gray if image.dtype == np.float32 else np.rint(gray)
        return gray.astype(image.dtype)[None], CONVERTED_TO_GRAY
    raise UserError(f"has {counted(have, 'channel')}, but the network was trained on {channels}")


Pixels = TypeVar("Pixels", np.ndarray, Tensor)


def middle_slice(image: Pixels, slices: int) -> Pixels:
    """(..., slices * C, H, W) -> (..., C, H, W): of neighbouring slices that are channels, the one in the middle."""
    if slices == 1:
        return image
    channels = image.shape[-3] // slices
    first = slices // 2 * channels
    return image[..., first : first + channels, :, :]


def seen(source: Source, preprocessing: Preprocessing) -> Source:
    """The source as the network sees it: a volume, an image, or a page with its neighbours."""
    return replace(source, is_volume=preprocessing.is_volumetric, around=preprocessing.slices // 2)


def resize_image(image: Tensor, size: tuple[int, ...]) -> Tensor:
    """Stretch (C, H, W) to (C, *size), bilinear and antialiased, dtype kept: uint8, uint16 or float. Volumes have to be
    of that size already."""
    if tuple(image.shape[1:]) == size:
        return image
    assert len(size) == 2, f"a volume of {tuple(image.shape)} can't be stretched to {size}"
    if image.dtype == torch.uint16:
        return _interpolate(image.float(), size).round().clamp(0, 65535).to(torch.uint16)
    if image.dtype == torch.uint8 and size == (1, 1):  # where torch's kernel for 8 bits fails
        return _interpolate(image.float(), size).round().to(torch.uint8)
    return _interpolate(image, size)


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize an (H, W) uint8 or int32 mask to `size` by nearest neighbour."""
    if tuple(mask.shape) == size:
        return mask
    values = mask if mask.dtype == torch.uint8 else mask.double()
    return F.interpolate(values[None, None], size=size, mode="nearest-exact")[0, 0].to(mask.dtype)


def normalize(image: Tensor, preprocessing: Preprocessing, intensities: Tensor | None = None) -> Tensor:
    """(N, C, *spatial) pixels -> float32 of mean 0 and standard deviation 1: over the training set, or of each image.

    intensities: (N, 4) statistics of the images that tiles were cut from, see `own_intensities`; computed from `image`
    if not given. See Card.preprocessing for a comparison of the rules.
    """
    image = image.float()
    if preprocessing.clip:
        image = image.clamp(*preprocessing.clip)
    ones = (1,) * (image.ndim - 2)
    if preprocessing.intensity == "dataset":
        shape = (1, -1, *ones)
        mean = torch.tensor(preprocessing.mean, device=image.device).view(shape)
        std = torch.tensor(preprocessing.std, device=image.device).view(shape)
        return (image - mean) / std
    if intensities is None:
        intensities = own_intensities(image, preprocessing)
    low, high, mean, std = intensities.to(image.device).T.reshape(4, -1, 1, *ones)
    if preprocessing.intensity == "percentile":
        image = image.clamp(low, high)
    return (image - mean) / std


def own_intensities(image: Tensor, preprocessing: Preprocessing) -> Tensor:
    """(N, C, *spatial) float pixels -> (N, 4) statistics of each image: clipping limits (infinite without clipping),
    then mean and standard deviation over all channels."""
    inner = tuple(range(1, image.ndim))
    per_image = (-1,) + (1,) * len(inner)
    high = image.new_full((len(image),), torch.inf)
    low = -high
    if preprocessing.intensity == "percentile":
        values = image.flatten(1)
        values = values[:, :: max(1, values.shape[1] // MAX_SORTED)]
        low, high = torch.quantile(values, torch.tensor([0.01, 0.99], device=image.device), dim=1)
        image = image.clamp(low.view(per_image), high.view(per_image))
    mean = image.mean(inner)
    is_float = preprocessing.dtype == "float32"
    least = (FLOAT_RESOLUTION * mean.abs()).clamp(min=1e-12) if is_float else torch.ones_like(mean)
    # Two passes: the mean of squares minus the square of the mean would cancel in float32.
    std = (image - mean.view(per_image)).std(inner, correction=0)
    return torch.stack([low, high, mean, torch.maximum(std, least)], dim=1)


def whole_intensities(image: np.ndarray, preprocessing: Preprocessing) -> Tensor | None:
    """(C, *spatial) pixels of a file -> its `measured_intensities`, the same as in tiled prediction.

    Raises UserError as `converted` does.
    """
    every = slice(None, None, measured_step(*image.shape))
    sample = image[(slice(None), *(every for _ in image.shape[1:]))]
    return measured_intensities(np.ascontiguousarray(sample), preprocessing)


def measured_step(channels: int, *sides: int) -> int:
    """The subsampling step along each side for the statistics of an image in crops or tiles: the smallest with which no
    more than MAX_MEASURED values are taken."""
    values = channels * math.prod(sides)
    return next(step for step in count(1) if step ** len(sides) * MAX_MEASURED >= values)


def measured_intensities(sample: np.ndarray, preprocessing: Preprocessing) -> Tensor | None:
    """(C, *spatial) pixels of a file, subsampled by `measured_step` -> (4,), see `own_intensities`; None if the rule
    needs no statistics of the image. Raises UserError as `converted` does."""
    if preprocessing.intensity == "dataset":
        return None
    values = torch.from_numpy(converted(sample, preprocessing)[0])[None].float()
    return own_intensities(values, preprocessing)[0]


def _interpolate(image: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(image[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]
