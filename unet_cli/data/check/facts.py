"""Statistics of one pair, computed once and cached until its files change."""

from __future__ import annotations

import hashlib
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from unet_cli.config.data import Dtype
from unet_cli.data.check.memory import memory_file, remember, remembered, stamp_of
from unet_cli.data.formats import count_pages
from unet_cli.data.imagefile import NAN_FILLED, filled, image_of, is_gray, read_stack
from unet_cli.data.labels import ValueStats, value_stats
from unet_cli.data.labels.stats import Shape
from unet_cli.data.maskfile import MaskPixels, read_mask
from unet_cli.data.source import Pair
from unet_cli.data.spacing import spacing_of
from unet_cli.errors import UserError
from unet_cli.system.console import Console
from unet_cli.system.prefetch import prefetch

LAYOUT_OF_FACTS = 8  # version of the cached facts, raised when they are computed or stored in another way
THUMBNAIL = 8  # pixels a side
MAX_SCALE = 16  # maximum scale factor between an image and its mask
SAMPLED = 4 * THUMBNAIL  # rows and columns of an image that are averaged to its thumbnail
PAIRS_AT_A_TIME = 32  # chunk size of prefetch
VALUES_AT_A_TIME = 2**18  # of each channel, summed in float64


@dataclass(frozen=True)
class Facts:
    """Statistics of one pair. A gray image stored as RGB counts as one channel, with `stored` 3.

    low, high: minimum and maximum value. sums, squares: sum of the values and of their squares in each channel.
    layered: whether the channels are the pages of the file. checksum: CRC of the first channel's pixels. thumbnail: 8 x
    8 bytes, brightness from minimum to maximum; mask_thumbnail: likewise, fraction of pixels in the upper half of the
    mask's values. notes: conversions on reading. values: statistics of the mask's values. mask_size: (H, W) of the
    mask's file, if it differs from the image by a scale factor. overlap: number of pixels that belong to several
    classes. depth: number of slices of a volume, 0 for an image. spacing: of its voxels in mm, along (D, H, W); None
    where the file doesn't tell.
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
        return _scale((self.height, self.width), self.mask_size) or 1.0 if self.mask_size else 1.0

    def plain(self) -> list[Any]:
        """A compact JSON value: there may be a hundred thousand of them."""
        values = self.values
        return [
            self.channels, self.stored, self.height, self.width, self.dtype, self.low, self.high, self.sums,
            self.squares, self.layered, self.thumbnail.hex(), self.mask_thumbnail.hex(), self.checksum, self.notes,
            list(values.counts), list(values.counts.values()), list(values.shapes), list(values.shapes.values()),
            values.colour, values.planes, values.palette, values.rest, values.nodata, values.enclosed, self.mask_size,
            self.overlap, self.depth, self.spacing,
        ]  # fmt: skip

    @classmethod
    def from_plain(cls, value: list[Any]) -> Facts:
        *known, mask_size, overlap, depth, spacing = value
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
            None if mask_size is None else tuple(mask_size), overlap, depth, spacing and tuple(spacing),
        )  # fmt: skip


Known = tuple[Pair, Facts]


def flat(known: dict[str, list[Known]]) -> list[Known]:
    """The pairs of all splits in one list."""
    return [one for part in known.values() for one in part]


def read_facts(pair: Pair, keep_alpha: bool) -> list[Known]:
    """Read a pair of files. Pages of image and mask are paired one to one; if the mask has a single page, the image's
    pages are its channels. Raises UserError if a file is bad or the two don't match."""
    if pair.image.is_volume:
        return [(pair, _facts(pair, keep_alpha, layered=False))]
    pages = count_pages(pair.image.path)
    if pair.mask.is_blank and pages > 1:
        raise UserError(
            f"{pair.image} has {pages} pages and no mask, so it isn't clear whether these are images or channels: give "
            "it a mask, or leave it out with --skip-bad"
        )
    mask_pages = 1 if pair.mask.is_blank or pair.mask.entry else count_pages(pair.mask.path)
    if mask_pages not in (1, pages):
        raise UserError(
            f"{pair.mask} has {mask_pages} pages but its image {pair.image} has {pages}: give each image one page"
        )
    if mask_pages == 1:
        return [_known(pair, _facts(pair, keep_alpha, layered=pages > 1))]
    paged = [_page_of(pair, page) for page in range(pages)]
    return [_known(one, _facts(one, keep_alpha, layered=False)) for one in paged]


def _known(pair: Pair, facts: Facts) -> Known:
    """The pair with its mask resized to the image's size."""
    if facts.mask_size is None and pair.mask.entry is None:
        return pair, facts
    return replace(pair, mask=replace(pair.mask, size=(facts.height, facts.width))), facts


def size_mismatch(pair: Pair, facts: Facts) -> str:
    """The message for a mask whose size differs from the image's."""
    assert facts.mask_size is not None
    return _mismatch(pair, facts.mask_size, (facts.height, facts.width))


def read_all(
    pairs: Sequence[Pair], root: Path, keep_alpha: bool, console: Console, workers: int | None
) -> Iterator[list[Known] | UserError]:
    """The facts of each pair, in order, or the error that makes it unusable. Cached facts are not computed again."""
    memory = Memory(root, keep_alpha)
    known = {index: found for index, pair in enumerate(pairs) if (found := memory.recall(pair)) is not None}
    new = [pair for index, pair in enumerate(pairs) if index not in known]
    read = prefetch(partial(_facts_or_error, keep_alpha), new, workers, chunk=PAIRS_AT_A_TIME)
    fresh = console.progress(read, len(new), "reading", "pairs")
    for index, pair in enumerate(pairs):
        result: list[Known] | UserError = known[index] if index in known else next(fresh)
        if not isinstance(result, UserError) and index not in known:
            memory.keep(pair, result)
        yield result
    next(fresh, None)  # lets the progress bar close
    trouble = memory.write() if new else None
    if trouble:
        console.say(f"The data will be read again next time, without a cache: {trouble} (UNET_CACHE sets its folder)")


class Memory:
    """Cache of the facts of a data set's pairs, in a file outside of it.

    Keyed by path; a pair counts as unchanged if its files have the same sizes and modification times.
    """

    def __init__(self, root: Path, keep_alpha: bool) -> None:
        self._root = str(root)
        self.path = memory_file("facts", root, keep_alpha, LAYOUT_OF_FACTS)
        self._known: dict[str, list[Any]] = remembered(self.path)
        self._stamps: dict[str, list[list[int]]] = {}

    def recall(self, pair: Pair) -> list[Known] | None:
        """The cached facts of an unchanged pair, else None."""
        key, stamp = self._key(pair), stamp_of(pair)
        self._stamps[key] = stamp
        try:
            known_stamp, records = self._known.get(key, ([], []))
            if not stamp or known_stamp != stamp:
                return None
            return [
                _known(pair if page is None else _page_of(pair, page), Facts.from_plain(record))
                for page, record in records
            ]
        except (TypeError, ValueError, AttributeError):  # written by another program
            return None

    def keep(self, pair: Pair, known: list[Known]) -> None:
        key = self._key(pair)
        self._known[key] = [self._stamps[key], [[one.image.page, facts.plain()] for one, facts in known]]

    def write(self) -> str | None:
        """Write the entries of this run; returns the reason if that failed."""
        return remember(self.path, {key: self._known[key] for key in self._stamps if key in self._known})

    def _key(self, pair: Pair) -> str:
        """The paths below the data folder, so that the folder may be given in different ways."""
        paths = [os.fspath(path) for path in (*pair.image.paths, *pair.mask.paths)]
        how = [f"classes {pair.mask.classes}"] * bool(pair.mask.classes) + ["no mask"] * pair.mask.is_blank
        how += ["volume"] * pair.image.is_volume
        if pair.mask.entry is not None:
            how.append(hashlib.blake2b(repr(pair.mask.entry).encode(), digest_size=12).hexdigest())
        return "\n".join([path.removeprefix(self._root) for path in paths] + how)


def _page_of(pair: Pair, page: int) -> Pair:
    return Pair(f"{pair.name}#{page + 1}", replace(pair.image, page=page), replace(pair.mask, page=page))


def _facts_or_error(keep_alpha: bool, pair: Pair) -> list[Known] | UserError:
    try:
        return read_facts(pair, keep_alpha)
    except UserError as error:
        return error


def _facts(pair: Pair, keep_alpha: bool, layered: bool) -> Facts:
    stack, notes = read_stack(pair.image, keep_alpha)
    depth = len(stack) if pair.image.is_volume else 0
    image, has_missing = filled(_tall(image_of(stack, pair.image)))
    notes += (NAN_FILLED,) if has_missing else ()
    height, width = image.shape[1:]
    mask = read_mask(replace(pair.mask, size=(height, width)) if pair.mask.entry else pair.mask)
    if depth:
        height //= depth
        if mask.values.shape != (depth, height, width):
            raise UserError(_misfit_in_depth(pair, mask.values.shape, (depth, height, width)))
        mask = replace(mask, values=mask.values.reshape(1, -1, width))
        height *= depth
    mask_size: tuple[int, int] | None = None
    if mask.values.shape[1:] != (height, width):
        _, *sides = mask.values.shape
        mask_size = (sides[0], sides[1])
        if _scale((height, width), mask_size) is None:
            raise UserError(_mismatch(pair, mask_size, (height, width)))
        mask = read_mask(replace(pair.mask, size=(height, width)))
    stored = len(image)
    if stored == 3 + keep_alpha and is_gray(image):
        image = image[[0, *range(3, stored)]]
    low, high = float(image.min()), float(image.max())
    sums, squares = _sums(image)
    return Facts(
        channels=len(image),
        stored=stored,
        height=height // max(depth, 1),
        width=width,
        dtype=cast(Dtype, str(image.dtype)),
        low=low,
        high=high,
        sums=sums,
        squares=squares,
        layered=layered,
        thumbnail=_thumbnail(image[0], low, high),
        mask_thumbnail=_mask_thumbnail(mask),
        checksum=zlib.crc32(image[0].data),
        notes=notes,
        values=value_stats(mask, image=image[0]),
        mask_size=mask_size,
        overlap=mask.overlap,
        depth=depth,
        spacing=spacing_of(pair.image) if depth else None,
    )


def _tall(image: np.ndarray) -> np.ndarray:
    """(C, D, H, W) -> (C, D * H, W), the slices one below the other, so that a volume is counted and measured like an
    image; an image (C, H, W) is unchanged."""
    return image.reshape(len(image), -1, image.shape[-1])


def _misfit_in_depth(pair: Pair, mask: tuple[int, ...], image: tuple[int, ...]) -> str:
    sizes = ["x".join(str(side) for side in reversed(sides)) for sides in (mask, image)]
    return (
        f"{pair.mask} is {sizes[0]} but its image {pair.image} is {sizes[1]}: a volume and its mask have the same "
        "voxels; mend one, or leave the pair out with --skip-bad"
    )


def _scale(image: tuple[int, int], mask: tuple[int, int]) -> float | None:
    """The integer factor, up to MAX_SCALE, by which (H, W) of the image exceeds the mask's, within one pixel; or the
    inverse if the mask is larger; None if there is no such factor."""
    for large, small, is_fraction in ((image, mask, False), (mask, image, True)):
        times = round(large[0] / small[0])
        if not 2 <= times <= MAX_SCALE:
            continue
        if all(a // times <= b <= -(-a // times) for a, b in zip(large, small, strict=True)):
            return 1 / times if is_fraction else times
    return None


def _mismatch(pair: Pair, mask: tuple[int, int], image: tuple[int, int]) -> str:
    (mask_height, mask_width), (height, width) = mask, image
    if (mask_width, mask_height) == (height, width):
        return (
            f"{pair.mask} is {mask_width}x{mask_height} and its image {pair.image} {width}x{height}: one is rotated "
            "by 90 degrees (perhaps by the EXIF orientation of the image). Rotate it; or remove the orientation from "
            "a copy of the image, with exiftool -Orientation= -o stored/ IMAGE; or leave the pair out with --skip-bad"
        )
    return (
        f"{pair.mask} is {mask_width}x{mask_height} but its image {pair.image} is {width}x{height}: "
        "resize one, or leave the pair out with --skip-bad"
    )


def _sums(image: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(C, H, W) -> the sum of each channel, and of its squares; exact for 8 and 16 bits."""
    values = image.reshape(len(image), -1)
    total, squares = np.zeros((2, len(image)))
    for start in range(0, values.shape[1], VALUES_AT_A_TIME):
        part = values[:, start : start + VALUES_AT_A_TIME].astype(np.float64)
        total += part.sum(1)
        squares += np.einsum("ij,ij->i", part, part)  # no BLAS product, whose threads would compete with ours
    return tuple(total.tolist()), tuple(squares.tolist())


def _thumbnail(channel: np.ndarray, low: float, high: float) -> bytes:
    sampled = _sampled(channel).astype(np.float32)
    return _shrunk((sampled - low) * (255 / max(high - low, 1e-30)))


def _mask_thumbnail(mask: MaskPixels) -> bytes:
    sampled = _sampled(mask.values[0])
    low, high = int(sampled.min()), int(sampled.max())
    return _shrunk((sampled > (low + high) / 2 if low < high else sampled > 0).astype(np.float32) * 255)


def _sampled(pixels: np.ndarray) -> np.ndarray:
    """(H, W) -> (SAMPLED, SAMPLED), evenly spaced pixels."""
    return pixels[_places(*pixels.shape)]


@lru_cache(maxsize=256)
def _places(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = (np.arange(SAMPLED) * side // SAMPLED for side in (height, width))
    return rows[:, None], columns


def _shrunk(sampled: np.ndarray) -> bytes:
    blocks = sampled.reshape(THUMBNAIL, SAMPLED // THUMBNAIL, THUMBNAIL, SAMPLED // THUMBNAIL)
    return (blocks.mean((1, 3)) + 0.5).astype(np.uint8).tobytes()
