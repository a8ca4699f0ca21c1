"""Generate a synthetic data set, stained cells on an uneven background, for first experiments and for tests.

Light passes through two stains, as in a haematoxylin and eosin section: the intensity of each colour falls
exponentially with the amount of stain (Beer-Lambert). Nuclei have irregular outlines, texture and uneven stain, and
often touch; around them are pink tissue, fibres and dark debris that are not cells. Illumination is uneven, focus
varies, and the camera adds noise. The mask marks the nuclei.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from unet_cli.data.writing import write_mask
from unet_cli.errors import UserError
from unet_cli.system.files import whole_file, writable_folder

# Optical density of the stains in red, green, blue: Ruifrok, Johnston, Anal. Quant. Cytol. Histol. 23 (2001), table 1.
HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
EOSIN = np.array([0.07, 0.99, 0.11])
DEBRIS = np.array([0.45, 0.60, 0.75])

SIDES = (200, 400)  # pixels
MEAN_RADIUS = (9.0, 15.0)  # pixels; range of the mean radius of an image's nuclei
JPEG_QUALITY = 85


@dataclass(frozen=True)
class Nucleus:
    """A closed outline around (y, x): a circle of `radius`, deformed by a few harmonics, stretched by `aspect` along
    `angle`."""

    y: float
    x: float
    radius: float
    aspect: float
    angle: float
    harmonics: np.ndarray  # (order, 2): cosine and sine amplitudes from the second harmonic on
    stain: float

    def depth(self, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
        """Signed distance in pixels to the outline, approximately: positive inside, negative outside."""
        dy, dx = ys - self.y, xs - self.x
        along = (dx * np.cos(self.angle) + dy * np.sin(self.angle)) / self.aspect
        across = (dy * np.cos(self.angle) - dx * np.sin(self.angle)) * self.aspect
        theta = np.arctan2(across, along)
        orders = np.arange(2, 2 + len(self.harmonics))[:, None, None]
        waves = self.harmonics[:, :1, None] * np.cos(orders * theta) + self.harmonics[:, 1:, None] * np.sin(
            orders * theta
        )
        return self.radius * (1 + waves.sum(0)) - np.hypot(along, across)


def write_sample(folder: Path, count: int = 32, seed: int = 0) -> None:
    """Write `count` pairs as folder/images/cells_00.jpg and folder/masks/cells_00.png (0 and 255).

    Raises UserError if the images or masks folder exists already, or the folder can't be written.
    """
    images, masks = fresh_folders(folder)
    digits = max(2, len(str(count - 1)))
    for index in range(count):
        image, mask = draw_pair(seed, index)
        with whole_file(images / f"cells_{index:0{digits}d}.jpg") as file:
            Image.fromarray(image).save(file, format="JPEG", quality=JPEG_QUALITY)
        write_mask(masks / f"cells_{index:0{digits}d}.png", mask)


def fresh_folders(folder: Path) -> tuple[Path, Path]:
    """The new folders images and masks within `folder`. Raises UserError if they exist already, or can't be written."""
    images, masks = folder / "images", folder / "masks"
    for existing in (images, masks):
        if existing.exists() and (not existing.is_dir() or any(existing.iterdir())):
            raise UserError(f"{existing} exists already: choose a new folder")
    return writable_folder(images), writable_folder(masks)


def draw_pair(seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """One image (H, W, 3) uint8 and its mask (H, W) uint8 of 0 and 255, determined by seed and index."""
    draw = np.random.default_rng((seed, index))
    height, width = (int(side) for side in draw.integers(*SIDES, size=2, endpoint=True))
    nuclei = _scatter(draw, height, width)

    haematoxylin = 0.06 * _clouds(draw, height, width, 40)
    eosin = 0.18 + 0.16 * _clouds(draw, height, width, 60) + 0.08 * _clouds(draw, height, width, 12)
    eosin += 0.22 * _fibres(draw, height, width)
    inside = np.zeros((height, width), bool)
    texture = _clouds(draw, height, width, 5)
    for nucleus in nuclei:
        window, depth = _window(nucleus, height, width)
        cover = 1 / (1 + np.exp(-1.6 * depth.clip(-20, 20)))
        rim = np.exp(-(((depth - 1.5) / 1.5) ** 2))  # chromatin lies along the membrane
        stain = nucleus.stain * (1 + 0.35 * texture[window] + 0.25 * rim)
        haematoxylin[window] = np.maximum(haematoxylin[window], cover * stain)
        eosin[window] += 0.15 * np.exp(-((depth / 9) ** 2)) * (depth < 0)
        inside[window] |= depth > 0

    density = haematoxylin[..., None] * HAEMATOXYLIN + np.maximum(eosin, 0)[..., None] * EOSIN
    density += _debris(draw, height, width)[..., None] * DEBRIS
    light = 238 * (1 + 0.10 * _clouds(draw, height, width, 150)) * _slope(draw, height, width)
    image = light[..., None] * np.exp(-np.maximum(density, 0))
    image = _blurred(image, draw.uniform(0.5, 1.4))
    # Shot noise: its standard deviation grows with the square root of the intensity.
    image += draw.normal(size=image.shape) * np.sqrt(np.maximum(image, 1)) * draw.uniform(0.3, 0.6)
    return np.rint(image).clip(0, 255).astype(np.uint8), inside.astype(np.uint8) * 255


def _scatter(draw: np.random.Generator, height: int, width: int) -> list[Nucleus]:
    """Nuclei in clusters and alone, touching but hardly overlapping."""
    mean_radius = draw.uniform(*MEAN_RADIUS)
    wanted = int(height * width * draw.uniform(0.18, 0.42) / (np.pi * mean_radius**2))
    nuclei: list[Nucleus] = []
    for _ in range(20 * wanted):
        if len(nuclei) == wanted:
            break
        radius = mean_radius * draw.lognormal(0, 0.18)
        if nuclei and draw.random() < 0.55:  # next to an existing nucleus
            neighbour = nuclei[draw.integers(len(nuclei))]
            direction, distance = draw.uniform(0, 2 * np.pi), (neighbour.radius + radius) * draw.uniform(0.9, 1.05)
            y, x = neighbour.y + distance * np.sin(direction), neighbour.x + distance * np.cos(direction)
        else:
            y, x = draw.uniform(0, height), draw.uniform(0, width)
        if not (0 <= y < height and 0 <= x < width):
            continue
        if any(np.hypot(y - other.y, x - other.x) < 0.85 * (radius + other.radius) for other in nuclei):
            continue
        amplitudes = draw.normal(size=(4, 2)) * np.array([0.07, 0.05, 0.03, 0.02])[:, None]
        nuclei.append(
            Nucleus(y, x, radius, draw.uniform(1.0, 1.3), draw.uniform(0, np.pi), amplitudes, draw.uniform(0.45, 1.1))
        )
    return nuclei


def _window(nucleus: Nucleus, height: int, width: int) -> tuple[tuple[slice, slice], np.ndarray]:
    """The image region that a nucleus covers, and its depth there."""
    reach = int(2 * nucleus.radius) + 16
    rows = slice(max(0, int(nucleus.y) - reach), min(height, int(nucleus.y) + reach))
    columns = slice(max(0, int(nucleus.x) - reach), min(width, int(nucleus.x) + reach))
    ys, xs = np.mgrid[rows, columns]
    return (rows, columns), nucleus.depth(ys, xs)


def _clouds(draw: np.random.Generator, height: int, width: int, scale: float) -> np.ndarray:
    """(H, W) smooth noise of mean 0 and standard deviation of about 0.6, with a correlation length of `scale`
    pixels."""
    shape = (max(2, round(height / scale) + 2), max(2, round(width / scale) + 2))
    return _stretched(draw.normal(size=shape), height, width)


def _stretched(values: np.ndarray, height: int, width: int) -> np.ndarray:
    image = Image.fromarray(values.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float64)


def _slope(draw: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Illumination that falls off towards one side."""
    return _stretched(draw.uniform(0.85, 1.05, size=(2, 2)), height, width)


def _fibres(draw: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W) in 0 to 1: thin ridges at the zero crossings of smooth noise, in some regions only."""
    ridges = np.exp(-((_clouds(draw, height, width, 45) / 0.06) ** 2))
    return ridges * (_clouds(draw, height, width, 80) > 0.1)


def _debris(draw: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W) optical density of a few small dark specks."""
    ys, xs = np.mgrid[0:height, 0:width]
    density = np.zeros((height, width))
    for _ in range(draw.integers(0, 6)):
        y, x, radius = draw.uniform(0, height), draw.uniform(0, width), draw.uniform(1.0, 2.8)
        density += draw.uniform(0.5, 1.2) * np.exp(-(((ys - y) ** 2 + (xs - x) ** 2) / radius**2))
    return density


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of (H, W, 3), quantized to 8 bits."""
    rounded = Image.fromarray(np.rint(image).clip(0, 255).astype(np.uint8))
    return np.asarray(rounded.filter(ImageFilter.GaussianBlur(sigma)), dtype=np.float64)
