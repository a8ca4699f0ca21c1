"""Statistics of the values in one mask, and of all masks together.

Values are integers. A colour is the number 0xRRGGBB, so that colours and values are treated alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from unet_cli.data.labels.unlabelled import enclosed, is_beside_small_numbers
from unet_cli.data.maskfile import MaskPixels

MAX_VALUES = 1024  # values of one mask that are counted individually
FEW_VALUES = 36  # more than classes usually have; above, a mask may have shades
FLAT = 16  # of 255: maximum range of a neighbourhood that JPEG has made from a single level
PIXELS_AT_ONCE = 2**22  # block size, to limit memory
CORE_SHARE = 0.05  # minimum fraction of a value's pixels within areas of it, for an intended value
MIN_CORES = 4  # minimum number of such pixels
RARE = 64  # below so many pixels of the rarer of two values, their shapes are measured
ALL_AND_BITS = np.array([[1, *(number >> bit & 1 for bit in range(4))] for number in range(16)])
GRID = 32  # minimum rows and columns of the grid on which positions and brightness are measured


class Shape(NamedTuple):
    """The spatial distribution of one value in one mask.

    cores: number of pixels whose 3 x 3 neighbourhood has only this value, that is, within areas. flats: pixels whose
    neighbourhood has nearly this value, within FLAT. ramps: pixels with both a lower and a higher value in their
    neighbourhood; counted if some value of the mask hardly covers areas. parts: Euler number, connected components
    minus holes. edge: pixels along the image border. row, column: centroid, 0 to 1. gray: mean brightness of the image,
    0 to 1. The last three are -1 if too few pixels are known, or most values of the mask have several components.
    """

    cores: int
    flats: int
    ramps: int
    parts: int
    edge: int
    row: float = -1
    column: float = -1
    gray: float = -1

    def with_more(self, other: Shape) -> Shape:
        """The sum of two values that are read as one; the centroid becomes unknown."""
        return Shape(
            self.cores + other.cores,
            self.flats + other.flats,
            self.ramps + other.ramps,
            self.parts + other.parts,
            self.edge + other.edge,
        )


@dataclass(frozen=True)
class ValueStats:
    """Statistics of one mask.

    counts: pixels of each value. shapes: of each value; if empty, both values cover areas. colour: whether the values
    are colours. planes: number of planes of a one-hot mask, whose values are plane indices from 1; 0 for other masks.
    palette: (r, g, b, r, g, ...) up to the highest value, if the mask has one. rest: pixels of the rarest values beyond
    MAX_VALUES; they are not in counts. nodata: the file's nodata value. enclosed: pixels of 255 in components that a
    single other value surrounds; None if not measured.
    """

    counts: dict[int, int]
    shapes: dict[int, Shape]
    colour: bool = False
    planes: int = 0
    palette: tuple[int, ...] | None = None
    rest: int = 0
    nodata: int | None = None
    enclosed: int | None = None

    def renamed(self, rename: Callable[[np.ndarray], np.ndarray], colour: bool = False) -> ValueStats:
        """The statistics after a mapping of the values; those of merged values are added."""
        held = np.fromiter(self.counts, np.int64, len(self.counts))
        counts, shapes = Counter[int](), dict[int, Shape]()
        for old, new in zip(self.counts, rename(held).tolist(), strict=True):
            counts[new] += self.counts[old]
            shape = self.shapes.get(old)
            if shape is not None:
                known = shapes.get(new)
                shapes[new] = shape if known is None else known.with_more(shape)
        return replace(self, counts=dict(counts), shapes=shapes, colour=colour, planes=0, palette=None, enclosed=None)


def value_stats(mask: MaskPixels, page: int = 0, image: np.ndarray | None = None) -> ValueStats:
    """Count the values of one (H, W) page, and measure their shapes. image: (H, W), for the brightness."""
    values = mask.values[page]
    if values.dtype == np.uint8:
        counts = np.array(Image.fromarray(values).histogram())  # ten times as fast as numpy's bincount
        names = np.arange(256)
    elif values.dtype.kind == "i" or values.dtype.itemsize > 2 or mask.colour:
        names, values = _ranked(values)
        counts = np.bincount(values.ravel(), minlength=len(names))
    else:
        counts = np.bincount(values.ravel())
        names = np.arange(len(counts))
    held = np.flatnonzero(counts)
    kept = held
    if len(held) > MAX_VALUES:
        kept = np.sort(held[np.argsort(counts[held], kind="stable")[-MAX_VALUES:]])
    palette = None if mask.palette is None else tuple(mask.palette[: 3 * (int(names[held[-1]]) + 1)])
    shapes: dict[int, Shape] = {}
    if len(held) > 2 or mask.colour or palette or (len(held) == 2 and counts[held].min() < RARE):
        is_shaded = len(held) > FEW_VALUES
        shapes = dict(
            zip(names[kept].tolist(), _shapes(values, counts, names, mask.colour, is_shaded, image, kept), strict=True)
        )
    counted = dict(zip(names[kept].tolist(), counts[kept].tolist(), strict=True))
    rest = int(counts.sum() - counts[kept].sum())
    within = enclosed(mask.values[page]) if not mask.colour and is_beside_small_numbers(counted) else None
    return ValueStats(counted, shapes, mask.colour, mask.planes, palette, rest, mask.nodata, within)


def _ranked(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values, ascending, and the rank of each pixel's value; by run-length encoding, since masks have few
    runs."""
    flat = values.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    names, places = np.unique(flat[starts], return_inverse=True)
    lengths = np.diff(np.concatenate([starts, [flat.size]]))
    kind = np.uint8 if len(names) <= 256 else np.int32
    return names, np.repeat(places.ravel().astype(kind), lengths).reshape(values.shape)


def _shapes(
    ranks: np.ndarray,
    counts: np.ndarray,
    names: np.ndarray,
    colour: bool,
    is_shaded: bool,
    image: np.ndarray | None,
    kept: np.ndarray,
) -> list[Shape]:
    """The shape of each kept value. ranks: (H, W) indices into the values `names`, ascending. counts: of each. kept:
    indices of the values of interest."""
    step = max(1, PIXELS_AT_ONCE // ranks.shape[1])

    def counted(with_slopes: bool) -> np.ndarray:
        tops = range(0, ranks.shape[0], step)
        bands = [_borders(ranks, top, step, names, colour, is_shaded, with_slopes) for top in tops]
        return np.sum(bands, axis=0)[:, kept]

    own = counts[kept]
    found = counted(is_shaded)
    if not is_shaded and (own - found[0] < CORE_SHARE * own).any():
        found = counted(True)
    beside, left, above, block, edge, ramps, flat = found
    cores = own - beside
    parts = beside - left - above + block  # Euler number = vertices - edges + faces; core pixels contribute 0
    figures = (cores, cores + flat if is_shaded else cores, ramps, parts, edge)
    # Positions are only needed for masks of objects, which are single components.
    are_single = 2 * np.count_nonzero(parts <= 1) >= len(parts)
    places = _places(ranks, len(names), image, kept) if are_single else [np.full(len(kept), -1)] * 3
    return [Shape(*one) for one in zip(*(figure.tolist() for figure in (*figures, *places)), strict=True)]


def _borders(
    ranks: np.ndarray,
    top: int,
    height: int,
    names: np.ndarray,
    colour: bool,
    is_shaded: bool,
    with_slopes: bool,
) -> np.ndarray:
    """(7, values): for the pixels in these rows that are no cores, the number of each value; of those connected to the
    left neighbour, to the one above, and in a 2 x 2 block; at the image border; and, with_slopes, on ramps, and in flat
    areas."""
    first = max(top - 1, 0)
    part = ranks[first : top + height + 1]
    left, above, block, core = (np.zeros(part.shape, bool) for _ in range(4))
    np.equal(part[:, 1:], part[:, :-1], out=left[:, 1:])
    np.equal(part[1:], part[:-1], out=above[1:])
    block[1:, 1:] = left[1:, 1:] & left[:-1, 1:] & above[1:, 1:]  # lower right of a 2 x 2 block of its value
    core[1:-1, 1:-1] = block[1:-1, 1:-1] & block[1:-1, 2:] & block[2:, 1:-1] & block[2:, 2:]
    core[: top - first] = core[top - first + height :] = True  # rows of the overlap, counted in the adjacent blocks
    # Most pixels are cores, whose contributions are known: only the others are processed, with a histogram over value
    # and the four properties of a pixel at once.
    others = np.flatnonzero(~core)
    own = part.ravel()[others].astype(np.int64)
    holds = left | above.view(np.uint8) << 1 | block.view(np.uint8) << 2 | _edge(part.shape, ranks.shape, first) << 3
    held = holds.ravel()[others]
    counts = np.bincount(own << 4 | held, minlength=16 * len(names)).reshape(-1, 16)
    sums = np.zeros((7, len(names)), np.int64)
    sums[:5] = (counts @ ALL_AND_BITS).T
    if with_slopes:
        inside = held < 8
        within, around = own[inside], _neighbours(part, others[inside])
        low, high = around.min(0), around.max(0)
        sums[5] = np.bincount(within[(low < within) & (within < high)], minlength=len(names))
        if is_shaded:
            sums[6] = np.bincount(within[_is_flat(names, around, low, high, colour)], minlength=len(names))
    return sums


@lru_cache(maxsize=4)
def _edge(shape: tuple[int, int], whole: tuple[int, int], first: int) -> np.ndarray:
    """1 along the border of an image of size `whole`, within a band of this shape from row `first` on; else 0."""
    edge = np.zeros(shape, np.uint8)
    edge[:, 0] = edge[:, -1] = 1
    for row in (0, whole[0] - 1):
        if first <= row < first + shape[0]:
            edge[row - first] = 1
    return edge


def _neighbours(ranks: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(9, n): the 3 x 3 neighbourhoods of n pixels, none of them at the image border."""
    width = ranks.shape[1]
    steps = np.array([[down * width + right] for down in (-1, 0, 1) for right in (-1, 0, 1)])
    return ranks.ravel()[places + steps]


def _is_flat(names: np.ndarray, around: np.ndarray, low: np.ndarray, high: np.ndarray, colour: bool) -> np.ndarray:
    """Whether neighbourhoods, see `_neighbours`, have nearly one value, or nearly one in each channel."""
    if not colour:
        tolerance = FLAT if names[-1] < 256 else FLAT * 257
        return names[high] - names[low] <= tolerance
    flat = np.ones(len(low), bool)
    for channel in unpacked(names):
        values = channel.astype(np.int16)[around]
        flat &= values.max(0) - values.min(0) <= FLAT
    return flat


def _places(ranks: np.ndarray, count: int, image: np.ndarray | None, kept: np.ndarray) -> list[np.ndarray]:
    """Mean row, column and brightness of each kept rank, measured on a grid; -1 if no grid point has it."""
    steps = [max(1, side // GRID) for side in ranks.shape]
    sample = ranks[:: steps[0], :: steps[1]]
    flat = sample.ravel().astype(np.int64)
    counts = np.bincount(flat, minlength=count)[kept]
    sums = [np.bincount(flat, one, count)[kept] for one in _grid(*sample.shape)]
    if image is None:
        sums.append(0.5 * counts)
    else:
        pixels = image[:: steps[0], :: steps[1]]
        low, high = float(pixels.min()), float(pixels.max())
        bright = np.bincount(flat, pixels.ravel(), count)[kept]
        sums.append((bright - low * counts) / (high - low) if high > low else 0.5 * counts)
    return list(np.where(counts > 0, np.stack(sums) / np.maximum(counts, 1), -1.0).round(4))


@lru_cache(maxsize=64)
def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each pixel, 0 to 1, flat."""
    rows = np.repeat((np.arange(height) + 0.5) / height, width)
    return rows, np.tile((np.arange(width) + 0.5) / width, height)


class Total(NamedTuple):
    """The sums of one value's Shape over all masks. masks: number of masks that contain it."""

    pixels: int
    cores: int
    flats: int
    ramps: int
    parts: int
    edge: int
    masks: int

    @property
    def has_areas(self) -> bool:
        """Whether a significant part of its pixels is within areas."""
        return self.cores >= max(MIN_CORES, CORE_SHARE * self.pixels)


@dataclass(frozen=True)
class Held:
    """The statistics of all masks of a data set."""

    masks: Sequence[ValueStats]

    @cached_property
    def totals(self) -> dict[int, Total]:
        """The sums of each value, ascending."""
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
        """The statistics without these masks."""
        left_out = set(masks)
        return Held([stats for row, stats in enumerate(self.masks) if row not in left_out])


def unpacked(colours: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """0xRRGGBB -> red, green and blue, each of the same shape."""
    return colours >> 16, colours >> 8 & 255, colours & 255
