"""Joint augmentation of a batch, on the device that trains: one warp for image and mask, then intensity."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Augmentation:
    """How strong each change may be, and how often the ones that have a `chance` are made.

    flips: mirror and quarter turns, always drawn. scale: largest factor of zoom, in either direction. rotation: degrees
    beyond the quarter turn. elastic: standard deviation of the displacements of a coarse grid, as a share of the
    image's side. brightness: in standard deviations of the data set's intensity. contrast, gamma: largest factor, in
    either direction. noise: largest standard deviation, in those of the data set. blur: largest Gaussian sigma, pixels.
    """

    flips: bool = True
    scale: float = 1.0
    rotation: float = 0.0
    elastic: float = 0.0
    brightness: float = 0.0
    contrast: float = 1.0
    gamma: float = 1.0
    noise: float = 0.0
    blur: float = 0.0
    chance: float = 0.3


AUGMENTATIONS: dict[str, Augmentation | None] = {
    "none": None,
    "light": Augmentation(brightness=0.1, contrast=1.1, chance=1.0),
    "full": Augmentation(
        scale=1.25, rotation=20, elastic=0.015, brightness=0.3, contrast=1.3, gamma=1.4, noise=0.15, blur=1.0
    ),
}

ELASTIC_GRID = 8  # control points a side
BLUR_RADIUS = 3  # pixels


def augment(
    image: Tensor, mask: Tensor, strength: Augmentation, keys: list[tuple[int, int, int]]
) -> tuple[Tensor, Tensor]:
    """Change each sample in its own way: image (N, C, H, W) float, normalised; mask (N, H, W) integer.

    keys: (seed, epoch, index of the sample) for each sample; the change is a function of it alone. All geometric
    changes are one warp, so that the image is interpolated once, bilinearly, and the mask takes the nearest value of
    the same place. What a warp brings in from outside is mirrored.
    """
    draws = [np.random.default_rng(key) for key in keys]
    grid = _grid(image, strength, draws)
    image = F.grid_sample(image, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    warped = F.grid_sample(mask[:, None].float(), grid, mode="nearest", padding_mode="reflection", align_corners=False)
    return _intensity(image, strength, draws), warped[:, 0].to(mask.dtype)


def _grid(image: Tensor, strength: Augmentation, draws: list[np.random.Generator]) -> Tensor:
    """Where each pixel of the result comes from: (N, H, W, 2) in [-1, 1]."""
    theta = torch.from_numpy(np.stack([_affine(strength, draw) for draw in draws])).to(image)
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    if strength.elastic:
        shape = (2, ELASTIC_GRID, ELASTIC_GRID)
        sigma = 2 * strength.elastic  # the coordinates span 2
        amounts = [draw.normal(size=shape) * (sigma * (draw.random() < strength.chance)) for draw in draws]
        coarse = torch.from_numpy(np.stack(amounts)).to(image)
        smooth = F.interpolate(coarse, size=image.shape[-2:], mode="bicubic", align_corners=True)
        grid = grid + smooth.movedim(1, -1)
    return grid


def _affine(strength: Augmentation, draw: np.random.Generator) -> np.ndarray:
    """(2, 3) matrix from result to source coordinates: quarter turn, mirror, and by chance rotation and zoom."""
    turns, mirror, angle, zoom = draw.integers(4), draw.integers(2), draw.uniform(-1, 1), draw.uniform(-1, 1)
    bends, zooms = draw.random(2) < strength.chance
    radians = math.radians(strength.rotation * angle) if bends else 0.0
    factor = strength.scale**zoom if zooms else 1.0
    if strength.flips:
        radians += turns * math.pi / 2
    cos, sin = factor * math.cos(radians), factor * math.sin(radians)
    if strength.flips and mirror:
        return np.array([[-cos, -sin, 0], [-sin, cos, 0]])
    return np.array([[cos, -sin, 0], [sin, cos, 0]])


def _intensity(image: Tensor, strength: Augmentation, draws: list[np.random.Generator]) -> Tensor:
    def drawn(amount: float, value: Callable[[np.random.Generator], float], neutral: float) -> Tensor | None:
        """One number for each sample, shaped to multiply images; None where this change is off."""
        if not amount:
            return None
        numbers = [(draw.random() < strength.chance, value(draw)) for draw in draws]
        return torch.tensor([v if hit else neutral for hit, v in numbers]).to(image).view(-1, 1, 1, 1)

    gamma = drawn(math.log(strength.gamma), lambda draw: strength.gamma ** draw.uniform(-1, 1), 1.0)
    contrast = drawn(math.log(strength.contrast), lambda draw: strength.contrast ** draw.uniform(-1, 1), 1.0)
    brightness = drawn(strength.brightness, lambda draw: strength.brightness * draw.uniform(-1, 1), 0.0)
    blur = drawn(strength.blur, lambda draw: strength.blur * draw.uniform(0.2, 1), 0.0)
    noise = drawn(strength.noise, lambda draw: strength.noise * draw.random(), 0.0)

    if gamma is not None:
        low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
        span = (high - low).clamp(min=1e-6)
        image = ((image - low) / span).pow(gamma) * span + low
    if contrast is not None:
        centre = image.mean((1, 2, 3), keepdim=True)
        image = (image - centre) * contrast + centre
    if brightness is not None:
        image = image + brightness
    if blur is not None:
        image = _blur(image, blur.flatten())
    if noise is not None and noise.any():
        seeds = [int(draw.integers(2**62)) for draw in draws]
        generators = [torch.Generator(image.device).manual_seed(seed) for seed in seeds]
        image = image + noise * torch.stack(
            [torch.randn(image.shape[1:], generator=generator, device=image.device) for generator in generators]
        )
    return image


def _blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur, one sigma in pixels for each sample; those of sigma 0 are left alone."""
    hit = sigma.nonzero()[:, 0]
    if not len(hit):
        return image
    chosen = image[hit]
    channels, (height, width) = chosen.shape[1], chosen.shape[-2:]
    radius = min(BLUR_RADIUS, height - 1, width - 1)
    offsets = torch.arange(-radius, radius + 1, device=image.device)
    kernel = torch.exp(-0.5 * (offsets / sigma[hit][:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    rows = F.pad(chosen, (radius, radius, radius, radius), mode="reflect").view(
        1, -1, height + 2 * radius, width + 2 * radius
    )
    rows = F.conv2d(rows, kernel[:, None, :, None], groups=len(kernel))
    rows = F.conv2d(rows, kernel[:, None, None, :], groups=len(kernel))
    result = image.clone()
    result[hit] = rows.view(len(hit), channels, height, width)
    return result
