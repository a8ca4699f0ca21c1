"""Joint augmentation of a batch on the training device: one warp of image and mask, then intensity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unet_cli.config.data import Orientation
from unet_cli.data.samples.space import SpaceWarp, rotation_in_space, warped_in_space
from unet_cli.data.samples.warp import Warp, center_crop, is_cube, rotation, warped


@dataclass(frozen=True)
class Augmentation:
    """Strengths of the transforms, and the probability of those that are applied at random.

    flips: mirror and quarter turns, always drawn. upright: no quarter turns, so that of all flips and turns only left
    and right are exchanged. mirrors: whether there are flips, and not only turns. scale: maximum zoom factor, in or
    out. rotation: degrees beyond the quarter turn, of volumes about each axis. shear: degrees, of images. elastic:
    standard deviation of the displacements of a coarse grid, as a fraction of the image's side; elastic_pixels:
    likewise, in pixels and for a 3x3 grid. brightness: in standard deviations of the data set's intensity. contrast,
    gamma: maximum factor, up or down. noise: maximum standard deviation, relative to that of the data set. blur:
    maximum Gaussian sigma, pixels. chance: probability of each transform. ramp: number of passes over which the
    probabilities grow to `chance`: an untrained network learns faster from unchanged images, and repetition only
    matters later.
    """

    flips: bool = True
    upright: bool = False
    mirrors: bool = True
    scale: float = 1.0
    rotation: float = 0.0
    shear: float = 0.0
    elastic: float = 0.0
    elastic_pixels: float = 0.0
    brightness: float = 0.0
    contrast: float = 1.0
    gamma: float = 1.0
    noise: float = 0.0
    blur: float = 0.0
    chance: float = 0.3
    ramp: int = 0

    def at(self, passes: float) -> Augmentation:
        """The augmentation in the pass over the training images that ends after this number of passes."""
        return replace(self, chance=self.chance * min(1.0, passes / self.ramp)) if self.ramp else self

    @property
    def interpolates(self) -> bool:
        """Whether some transform needs interpolation."""
        return self.scale != 1.0 or bool(self.rotation or self.shear or self.elastic or self.elastic_pixels)


FULL = Augmentation(
    scale=1.25,
    rotation=20,
    shear=8,
    elastic=0.015,
    brightness=0.3,
    contrast=1.3,
    gamma=1.4,
    noise=0.15,
    blur=1.0,
    ramp=30,
)  # fmt: skip
AUGMENTATIONS: dict[str, Augmentation | None] = {
    "none": None,
    "light": Augmentation(brightness=0.1, contrast=1.1, chance=1.0),
    "full": FULL,
    "paper": Augmentation(brightness=0.1, contrast=1.1, elastic_pixels=10, chance=1.0),
}
# Cubes of volumes, which are warped in space, with the ranges of nnU-Net: see space.py.
IN_SPACE = {"full": replace(FULL, scale=1.4, rotation=30, shear=0)}


def augmentation_of(
    name: str, orientation: Orientation, mirrors: bool = True, sides: Sequence[int] = (1, 1)
) -> Augmentation | None:
    """The augmentation of that name, for images of that orientation; mirrors: see Preprocessing. sides: of what the
    network sees."""
    is_in_space = len(sides) == 3 and is_cube(sides)
    strength = IN_SPACE.get(name, AUGMENTATIONS[name]) if is_in_space else AUGMENTATIONS[name]
    return strength and replace(strength, upright=orientation == "upright", mirrors=mirrors)


ELASTIC_GRID, PAPER_GRID = 8, 3  # control points a side; the latter as in Ronneberger et al. 2015, section 3.1
BLUR_RADIUS = 3  # pixels


def augment(
    image: Tensor,
    mask: Tensor,
    strength: Augmentation,
    keys: list[tuple[int, int, int]],
    sides: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Augment each sample independently: image (N, C, *patch) float32, normalized, and mask (N, *patch) integer -> (N,
    C, *sides) and (N, *sides).

    keys: (seed, epoch, sample index) of each sample, which determines its transforms. sides: (S, S), or (D, S, S) of
    volumes, by default those of the patch; with a larger patch the undistorted result is its centre, and the
    surroundings fill rotated corners. All geometric transforms are one warp, so the image is interpolated at most once.
    A volume is warped in space if it is a cube, else within its slices.
    """
    draws = [np.random.default_rng(key) for key in keys]
    sides = tuple(sides or image.shape[2:])
    if len(sides) == 3:
        pairs = [
            _warped_volume(volume, classes, strength, draw, sides)
            for volume, classes, draw in zip(image, mask, draws, strict=True)
        ]
        image, mask = (torch.stack(part) for part in zip(*pairs, strict=True))
    else:
        warps = [_draw_warp(strength, draw, sides[-1]) for draw in draws]
        image, mask = warped(image, mask, warps, sides[-1])
    for sample, draw in zip(image, draws, strict=True):
        _change_intensity(sample, strength, draw)
    return image, mask


def _warped_volume(
    image: Tensor, mask: Tensor, strength: Augmentation, draw: np.random.Generator, sides: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Image (C, *patch) and mask (*patch) of a volume -> (C, D, S, S) and (D, S, S): a warp of the cube, or one of all
    slices and a flip across them."""
    if is_cube(sides):
        return warped_in_space(image, mask, _draw_in_space(strength, draw, sides[-1]), sides[-1])
    planes = (sides[0], *mask.shape[1:])
    image, mask = center_crop(image, planes), center_crop(mask, planes)
    warp = _draw_warp(strength, draw, sides[-1])
    # The slices are channels of one image, so that all are warped alike.
    flat, flat_mask = warped(image.flatten(0, 1)[None], mask[None], [warp], sides[-1])
    image, mask = flat[0].unflatten(0, (len(image), sides[0])), flat_mask[0]
    if strength.flips and strength.mirrors and not strength.upright and draw.integers(2):
        image, mask = image.flip(1), mask.flip(0)
    return image.contiguous(), mask.contiguous()


def _draw_in_space(strength: Augmentation, draw: np.random.Generator, size: int) -> SpaceWarp:
    axes, ends = draw.permutation(3), draw.integers(2, size=3).astype(bool)
    if not strength.mirrors:  # an odd number of exchanges and reversals is a mirror image
        ends[0] ^= round(np.linalg.det(np.eye(3)[axes])) * (-1) ** int(ends.sum()) < 0
    if strength.upright:
        axes, ends = np.arange(3), np.array([False, False, bool(ends[2]) and strength.mirrors])
    if not strength.flips:
        axes, ends = np.arange(3), np.zeros(3, bool)
    amounts, hits = draw.uniform(-1, 1, 4), draw.random(2) < strength.chance
    zoom, angles = amounts[0] * hits[0] * math.log(strength.scale), amounts[1:] * hits[1] * strength.rotation
    linear = math.exp(zoom) * rotation_in_space(np.radians(angles)) if zoom or angles.any() else None
    elastic = _draw_elastic(strength, draw, size, 3)
    shift = None if linear is None else _draw_shift(linear, draw)
    return SpaceWarp(tuple(axes.tolist()), tuple(ends.tolist()), linear, shift, elastic)


def _draw_warp(strength: Augmentation, draw: np.random.Generator, size: int) -> Warp:
    turns, mirror = (int(draw.integers(4)), bool(draw.integers(2))) if strength.flips else (0, False)
    # Drawn nevertheless, so that the other random numbers don't depend on it.
    turns, mirror = turns * (not strength.upright), mirror and strength.mirrors
    linear = _draw_linear(strength, draw)
    elastic = _draw_elastic(strength, draw, size, 2)
    return Warp(turns, mirror, linear, None if linear is None else _draw_shift(linear, draw), elastic)


def _draw_elastic(strength: Augmentation, draw: np.random.Generator, size: int, dims: int) -> np.ndarray | None:
    """(dims, *grid) displacements of control points, at random; None without any."""
    points, share = (
        (PAPER_GRID, strength.elastic_pixels / size) if strength.elastic_pixels else (ELASTIC_GRID, strength.elastic)
    )
    if not share or draw.random() >= strength.chance:
        return None
    return draw.normal(size=(dims, *[points] * dims)) * (2 * share)  # coordinates from -1 to 1


def _draw_shift(linear: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Shift of a zoomed-in window, as far as there is room within the patch."""
    room = np.maximum(1 - np.abs(linear).sum(1), 0)
    return room * draw.uniform(-1, 1, len(linear))


def _draw_linear(strength: Augmentation, draw: np.random.Generator) -> np.ndarray | None:
    """(2, 2) matrix of zoom, rotation and shear, each at random; None without any of them."""
    amounts, hits = draw.uniform(-1, 1, 3), draw.random(3) < strength.chance
    zoom, angle, slant = np.where(hits, amounts, 0) * (math.log(strength.scale), strength.rotation, strength.shear)
    if not (zoom or angle or slant):
        return None
    sheared = np.array([[1, math.tan(math.radians(slant))], [0, 1]])
    return math.exp(zoom) * rotation(math.radians(angle)) @ sheared


def _change_intensity(image: Tensor, strength: Augmentation, draw: np.random.Generator) -> None:
    """Augment the intensity of one sample (C, *sides) in place."""

    def hit(largest: float, neutral: float) -> bool:
        return largest != neutral and draw.random() < strength.chance

    if hit(strength.gamma, 1):
        _gamma(image, strength.gamma ** draw.uniform(-1, 1))
    contrast = strength.contrast ** draw.uniform(-1, 1) if hit(strength.contrast, 1) else 1.0
    brightness = strength.brightness * draw.uniform(-1, 1) if hit(strength.brightness, 0) else 0.0
    if contrast != 1 or brightness:
        offset = image.mean() * (1 - contrast) + brightness
        image.mul_(contrast).add_(offset)
    if hit(strength.blur, 0):
        _blur(image.view(-1, *image.shape[-2:]), strength.blur * draw.uniform(0.2, 1))
    if hit(strength.noise, 0):
        generator = torch.Generator(image.device).manual_seed(int(draw.integers(2**62)))
        noise = torch.randn(image.shape, generator=generator, device=image.device)
        image.add_(noise, alpha=strength.noise * draw.random())


def _gamma(image: Tensor, gamma: float) -> None:
    """Gamma correction in place, with fixed minimum and maximum."""
    low, high = image.aminmax()
    span = (high - low).clamp(min=1e-6)
    image.sub_(low).log_().mul_(gamma).exp_()  # a power, three times as fast as pow
    image.mul_(span.pow(1 - gamma)).add_(low)


def _blur(image: Tensor, sigma: float) -> None:
    """Gaussian blur of (C, S, S) in place. sigma: pixels."""
    radius = min(BLUR_RADIUS, image.shape[-1] - 1)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    padded = F.pad(image[None], (radius,) * 4, mode="reflect")[0]
    image.copy_(_weighted(_weighted(padded, weights, -2), weights, -1))


def _weighted(image: Tensor, weights: np.ndarray, dim: int) -> Tensor:
    """Separable convolution along `dim` as a weighted sum of shifted images, faster than conv2d for few channels."""
    length = image.shape[dim] - len(weights) + 1
    total = image.narrow(dim, 0, length) * weights[0]
    for first, weight in enumerate(weights[1:], start=1):
        total.add_(image.narrow(dim, first, length), alpha=float(weight))
    return total
