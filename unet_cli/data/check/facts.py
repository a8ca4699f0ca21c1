"""Statistics of one pair."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from unet_cli.config.data import Dtype
from unet_cli.data.labels import ValueStats
from unet_cli.data.labels.stats import Shape
from unet_cli.data.source import Pair

MAX_SCALE = 16  # maximum scale factor between an image and its mask


@dataclass(frozen=True)
class Facts:
    """Statistics of one pair. A gray image stored as RGB counts as one channel, with `stored` 3.

    low, high: minimum and maximum value. sums, squares: sum of the values and of their squares in each channel.
    layered: whether the channels are the pages of the file. checksum: CRC of the first channel's pixels. thumbnail: 8 x
    8 bytes, brightness from minimum to maximum; mask_thumbnail: likewise, fraction of pixels in the upper half of the
    mask's values. notes: conversions on reading. values: statistics of the mask's values. mask_size: (H, W) of the
    mask's file, if it differs from the image by a scale factor. overlap: number of pixels that belong to several
    classes. depth: number of slices of a volume, 0 for an image. spacing: of its voxels in mm, along (D, H, W); None
    where the file doesn't tell. axes: directions of the axes in which a NIfTI volume is stored, such as RAS.
    """

    channels: int
    stored: int
    height: int
    width: int
    dtype: Dtype
    low: float
    high: float
    sums: tuple[float, ...]
    squares: tuple[float, ...]
    layered: bool
    thumbnail: bytes
    mask_thumbnail: bytes
    checksum: int
    notes: tuple[str, ...]
    values: ValueStats
    mask_size: tuple[int, int] | None = None
    overlap: int = 0
    depth: int = 0
    spacing: tuple[float, ...] | None = None
    axes: str = ""

    @property
    def sides(self) -> tuple[int, ...]:
        """(H, W) of an image, (D, H, W) of a volume."""
        return (self.depth, self.height, self.width) if self.depth else (self.height, self.width)

    @property
    def pixels(self) -> int:
        """Pixels, or voxels, of one channel."""
        return math.prod(self.sides)

    @property
    def size(self) -> str:
        return "x".join(str(side) for side in reversed(self.sides))

    @property
    def mask_scale(self) -> float:
        """Size of the image relative to the file of its mask: 2 for 2048 and 1024."""
        return scale_between((self.height, self.width), self.mask_size) or 1.0 if self.mask_size else 1.0

    def plain(self) -> list[Any]:
        """A compact JSON value: there may be a hundred thousand of them."""
        values = self.values
        return [
            self.channels, self.stored, self.height, self.width, self.dtype, self.low, self.high, self.sums,
            self.squares, self.layered, self.thumbnail.hex(), self.mask_thumbnail.hex(), self.checksum, self.notes,
            list(values.counts), list(values.counts.values()), list(values.shapes), list(values.shapes.values()),
            values.colour, values.planes, values.palette, values.rest, values.nodata, values.enclosed, self.mask_size,
            self.overlap, self.depth, self.spacing, self.axes,
        ]  # fmt: skip

    @classmethod
    def from_plain(cls, value: list[Any]) -> Facts:
        *known, mask_size, overlap, depth, spacing, axes = value
        *image, keys, counts, shaped, shapes, colour, planes, palette, rest, nodata, enclosed = known
        channels, stored, height, width, dtype, low, high, sums, squares, layered, *rest_of_image = image
        thumbnail, mask_thumbnail, checksum, notes = rest_of_image
        values = ValueStats(
            dict(zip(keys, counts, strict=True)),
            {name: Shape(*shape) for name, shape in zip(shaped, shapes, strict=True)},
            colour, planes, None if palette is None else tuple(palette), rest, nodata, enclosed,
        )  # fmt: skip
        return cls(
            channels, stored, height, width, dtype, low, high, tuple(sums), tuple(squares), layered,
            bytes.fromhex(thumbnail), bytes.fromhex(mask_thumbnail), checksum, tuple(notes), values,
            None if mask_size is None else tuple(mask_size), overlap, depth, spacing and tuple(spacing), axes,
        )  # fmt: skip


Known = tuple[Pair, Facts]


def flat(known: dict[str, list[Known]]) -> list[Known]:
    """The pairs of all splits in one list."""
    return [one for part in known.values() for one in part]


def scale_between(image: tuple[int, int], mask: tuple[int, int]) -> float | None:
    """The integer factor, up to MAX_SCALE, by which (H, W) of the image exceeds the mask's, within one pixel; or the
    inverse if the mask is larger; None if there is no such factor."""
    for large, small, is_fraction in ((image, mask, False), (mask, image, True)):
        times = round(large[0] / small[0])
        if not 2 <= times <= MAX_SCALE:
            continue
        if all(a // times <= b <= -(-a // times) for a, b in zip(large, small, strict=True)):
            return 1 / times if is_fraction else times
    return None


def value_range(facts: list[Facts]) -> tuple[float, float]:
    """The lowest and the highest value of all images."""
    return min(one.low for one in facts), max(one.high for one in facts)
