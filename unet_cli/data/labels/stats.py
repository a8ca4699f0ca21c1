"""What one mask holds, in a few numbers a value; and the same of all masks together.

Values are whole numbers. A colour is the number 0xRRGGBB, so that what holds for values holds for colours as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from unet_cli.data.imagefile import MaskPixels

MAX_VALUES = 1024  # values of one mask that are counted each for itself
FEW_VALUES = 36  # that classes seldom go beyond; from there on a mask may be of shades
FLAT = 16  # of 255: the range of a neighbourhood that JPEG makes of a single level
RARE = 64  # pixels of the rarer of two values, below which their place is looked at
GRID = 128  # rows and columns of a mask that places and brightness are measured on


class Shape(NamedTuple):
    """Where the pixels of one value lie in one mask.

    cores: pixels whose 3 x 3 neighbourhood is all of this value, and so areas. flats: whose neighbourhood is nearly
    so, within FLAT. ramps: that have a lower and a higher value in their neighbourhood. parts: connected parts less
    their holes (Euler number). edge: pixels along the image's border. row, column: of the middle, 0 to 1. gray: mean
    brightness of the image there, 0 to 1.
    """

    cores: int
    flats: int
    ramps: int
    parts: int
    edge: int
    row: float = 0.5
    column: float = 0.5
    gray: float = 0.5


@dataclass(frozen=True)
class ValueStats:
    """What was seen in one mask.

    counts: pixels of each value. shapes: of each value; without any, both values cover areas. colour: the values are
    colours. planes: they count the planes of a one-hot mask from 1 on. palette: (r, g, b, r, g, ...) up to the highest
    value, where the mask has one. rest: pixels of the rarest values, where there are more than MAX_VALUES; these are
    not in counts. nodata: the value that the file calls so.
    """

    counts: dict[int, int]
    shapes: dict[int, Shape]
    colour: bool = False
    planes: bool = False
    palette: tuple[int, ...] | None = None
    rest: int = 0
    nodata: int | None = None

    def renamed(self, rename: Callable[[np.ndarray], np.ndarray], colour: bool = False) -> ValueStats:
        """The same with other values; of several that become one, the figures are added."""
        held = np.fromiter(self.counts, np.int64, len(self.counts))
        counts, shapes = Counter[int](), dict[int, Shape]()
        for old, new in zip(self.counts, rename(held).tolist(), strict=True):
            counts[new] += self.counts[old]
            shape = self.shapes.get(old)
            if shape is not None:
                known = shapes.get(new)
                added = () if known is None else [a + b for a, b in zip(known[:5], shape[:5], strict=True)]
                shapes[new] = shape if known is None else Shape(*added, *known[5:])
        return replace(self, counts=dict(counts), shapes=shapes, colour=colour, planes=False, palette=None)


def value_stats(mask: MaskPixels, page: int = 0, image: np.ndarray | None = None) -> ValueStats:
    """Count the values of one (H, W) page, and find where they lie. image: (H, W), of which the brightness is taken."""
    values = mask.values[page]
    if values.dtype.kind == "i" or values.dtype.itemsize > 2:  # colours, object numbers: too many to count in a table
        names, values = _ranked(values)
        counts = np.bincount(values.ravel(), minlength=len(names))
        held = np.arange(len(names))
    else:
        counts = np.bincount(values.ravel())
        held = names = np.flatnonzero(counts)
    palette = None if mask.palette is None else tuple(mask.palette[: 3 * (int(names[-1]) + 1)])
    rest = 0
    shapes: dict[int, Shape] = {}
    if len(held) > 2 or mask.colour or palette or (len(held) == 2 and counts[held].min() < RARE):
        if values is mask.values[page] or values.max() >= len(held):
            place = np.zeros(len(counts), np.int32)
            place[held] = np.arange(len(held))
            values = place[values]
        if len(held) > MAX_VALUES:
            common = np.argsort(counts[held], kind="stable")[-MAX_VALUES:]
            kept = np.zeros(len(held), bool)
            kept[common] = True
        else:
            kept = np.ones(len(held), bool)
        found = _shapes(values.astype(np.uint8 if len(held) < 256 else np.int32), names, mask.colour, image, kept)
        shapes = dict(zip(names[kept].tolist(), found, strict=True))
        rest = int(counts[held][~kept].sum())
        held, names = held[kept], names[kept]
    counted = dict(zip(names.tolist(), counts[held].tolist(), strict=True))
    return ValueStats(counted, shapes, mask.colour, mask.planes, palette, rest, mask.nodata)


def _ranked(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values that there are, ascending, and the place of each pixel's among them; by runs, since masks have few."""
    flat = values.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    names, places = np.unique(flat[starts], return_inverse=True)
    lengths = np.diff(np.concatenate([starts, [flat.size]]))
    return names, np.repeat(places.ravel().astype(np.int32), lengths).reshape(values.shape)


def _shapes(
    ranks: np.ndarray, names: np.ndarray, colour: bool, image: np.ndarray | None, kept: np.ndarray
) -> list[Shape]:
    """ranks: (H, W) places among the values `names`, ascending. kept: those that are asked for."""
    count = len(names)
    low, high = _extremes(ranks)
    core = low == high
    code = np.zeros(ranks.shape, np.uint8)
    inner = code[1:-1, 1:-1]
    inner |= core
    if count > FEW_VALUES:
        inner |= _is_flat(names, ranks, low, high, colour).view(np.uint8) << 1
    else:
        inner |= core.view(np.uint8) << 1
    own = ranks[1:-1, 1:-1]
    inner |= ((low < own) & (own < high)).view(np.uint8) << 2
    right, down = ranks[:, 1:] == ranks[:, :-1], ranks[1:] == ranks[:-1]
    block = right[1:] & right[:-1] & down[:, 1:]
    code[:, 1:] |= right.view(np.uint8) << 3
    code[1:] |= down.view(np.uint8) << 4
    code[1:, 1:] |= block.view(np.uint8) << 5
    for line in (code[0], code[-1], code[1:-1, 0], code[1:-1, -1]):
        line |= 64
    table = np.bincount((ranks.astype(np.int64) * 128 + code).ravel(), minlength=128 * count).reshape(count, 128)
    bits = (np.arange(128)[:, None] >> np.arange(7)) & 1
    cores, flats, ramps, rights, downs, blocks, edges = (table @ bits).T
    parts = table.sum(1) - rights - downs + blocks
    rows, columns, grays = _places(ranks, count, image)
    figures = (cores, flats, ramps, parts, edges, rows, columns, grays)
    return [Shape(*one) for one in zip(*(figure[kept].tolist() for figure in figures), strict=True)]


def _extremes(ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest rank of each 3 x 3 neighbourhood, (H - 2, W - 2)."""
    if min(ranks.shape) < 3:
        empty = ranks[1:-1, 1:-1]
        return empty, empty
    low = np.minimum(np.minimum(ranks[:-2], ranks[1:-1]), ranks[2:])
    high = np.maximum(np.maximum(ranks[:-2], ranks[1:-1]), ranks[2:])
    low = np.minimum(np.minimum(low[:, :-2], low[:, 1:-1]), low[:, 2:])
    high = np.maximum(np.maximum(high[:, :-2], high[:, 1:-1]), high[:, 2:])
    return low, high


def _is_flat(names: np.ndarray, ranks: np.ndarray, low: np.ndarray, high: np.ndarray, colour: bool) -> np.ndarray:
    if not colour:
        tolerance = FLAT if names[-1] < 256 else FLAT * 257
        return names[high] - names[low] <= tolerance
    flat = np.ones(low.shape, bool)
    for channel in unpacked(names):
        low, high = _extremes(channel.astype(np.uint8)[ranks])
        flat &= high - low <= FLAT
    return flat


def _places(ranks: np.ndarray, count: int, image: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean row, column and brightness of each rank, on a grid of the pixels."""
    steps = [max(1, side // GRID) for side in ranks.shape]
    sample = ranks[:: steps[0], :: steps[1]]
    flat = sample.ravel().astype(np.int64)
    counts = np.maximum(np.bincount(flat, minlength=count), 1)
    height, width = sample.shape
    rows = np.repeat((np.arange(height) + 0.5) / height, width)
    columns = np.tile((np.arange(width) + 0.5) / width, height)
    gray = np.full(flat.size, 0.5)
    if image is not None:
        pixels = image[:: steps[0], :: steps[1]].astype(np.float64).ravel()
        low, high = pixels.min(), pixels.max()
        gray = (pixels - low) / (high - low) if high > low else gray
    rows, columns, gray = (np.bincount(flat, one, count) / counts for one in (rows, columns, gray))
    return rows.round(4), columns.round(4), gray.round(4)


class Total(NamedTuple):
    """Of one value over all masks: see Shape. masks: that hold it."""

    pixels: int
    cores: int
    flats: int
    ramps: int
    parts: int
    edge: int
    masks: int

    @property
    def has_areas(self) -> bool:
        """Whether a part of it that counts lies within areas of it."""
        return self.cores >= max(MIN_CORES, CORE_SHARE * self.pixels)


CORE_SHARE = 0.05  # of a value's pixels that lie within areas of it, from which it is sure
MIN_CORES = 4


@dataclass(frozen=True)
class Held:
    """What all masks of a set hold."""

    masks: Sequence[ValueStats]

    @cached_property
    def totals(self) -> dict[int, Total]:
        """Of each value, ascending."""
        sums: dict[int, list[int]] = {}
        for stats in self.masks:
            for value, count in stats.counts.items():
                shape = stats.shapes.get(value)
                five = (count, count, 0, 1, 0) if shape is None else shape[:5]
                total = sums.get(value)
                if total is None:
                    sums[value] = [count, *five, 1]
                else:
                    total[0] += count
                    for place in range(5):
                        total[place + 1] += five[place]
                    total[6] += 1
        return {value: Total(*sums[value]) for value in sorted(sums)}

    @cached_property
    def pixels(self) -> int:
        return sum(total.pixels for total in self.totals.values()) + self.rest

    @cached_property
    def rest(self) -> int:
        return sum(stats.rest for stats in self.masks)

    @property
    def values(self) -> list[int]:
        return list(self.totals)

    def without(self, masks: Iterable[int]) -> Held:
        """All but these masks."""
        left_out = set(masks)
        return Held([stats for row, stats in enumerate(self.masks) if row not in left_out])


def unpacked(colours: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """0xRRGGBB -> red, green and blue, each of the same shape."""
    return colours >> 16, colours >> 8 & 255, colours & 255
