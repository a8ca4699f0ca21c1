"""What stretching to the network's size costs the masks of a data set, and whether crops and tiles are better."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
from PIL import Image

from unet_cli.config.data import DataConfig
from unet_cli.config.model import IGNORED
from unet_cli.data.check.card import Card
from unet_cli.data.check.memory import memory_file, remember, remembered, stamp_of
from unet_cli.data.labels import LabelMap
from unet_cli.data.maskfile import read_mask
from unet_cli.data.source import Pair, spread
from unet_cli.errors import UserError
from unet_cli.system.console import Console
from unet_cli.system.prefetch import prefetch

Mode = Literal["resize", "tile"]

MAX_MASKS = 200  # of a data set that are measured
# Where the worst class's median Dice is lower, tiles are better. What this rests on: validation Dice at original size
# of one run each (size 128, width 12, depth 3; as many steps stretched as on crops: 336 where sides are divided by 2.3
# and 2.9, 192 at vnc, 144 at 1.5).
#
#                                       sides divided by    stretched and back    trained stretched    on crops
#     membranes of vnc                                 2                 0.991                0.957       0.947
#     drawn curves of 6 pixels               2.3 and 2.9                 0.983                0.923       0.962
#     drawn curves of 4 pixels               2.3 and 2.9                 0.974                0.878       0.950
#     drawn curves of 2 pixels                       1.5                 0.966                0.769       0.846
#     drawn curves of 3 pixels                       1.5                 0.997                0.867       0.910
#
# The last, faint in noise, shows what masks can't tell.
POOR = 0.97
POOR_OF_HALVED = 0.985  # where half of the images have twice the size, and lose more than the masks tell
POOR_OF_LARGE = 0.9  # where half of the masks hold objects that no tile sees the whole of; a judgement
CLOSE = (
    2.0  # factor between what is lost and the limit of it, within which a figure says little: as of all in the table
)
# but the last, of which one is better stretched
FORMAT = 1  # of what is remembered, to be raised when it is found or written down in another way


@dataclass(frozen=True)
class ClassCost:
    """Dice between masks and themselves, stretched and back, over the `masks` measured ones that hold the class.

    worst_tenth: the 10th percentile.
    """

    name: str
    median: float
    worst_tenth: float
    masks: int


@dataclass(frozen=True)
class StretchCost:
    """What a stretch to `size` x `size` costs the training masks of a data set. An estimate, and no bound: a network
    may do better than a mask that is interpolated, and a faint object may be gone from an image before its mask is.

    pairs: of the training part; measured: how many of their masks were looked at, none where no image has a side above
    `size`; with_large: how many of these hold an object larger than a tile; halved: images with a side of twice `size`
    or more. classes: of the foreground, and of the background where there is but one other class.
    """

    size: int
    pairs: int
    halved: int
    measured: int = 0
    with_large: int = 0
    classes: tuple[ClassCost, ...] = ()

    @property
    def worst(self) -> ClassCost:
        return min(self.classes, key=lambda one: one.median)

    @property
    def limit(self) -> float:
        """The median Dice of the worst class below which tiles are better."""
        if 2 * self.with_large >= self.measured:
            return POOR_OF_LARGE
        return POOR_OF_HALVED if 2 * self.halved >= self.pairs else POOR

    @property
    def is_close(self) -> bool:
        """Whether the figure is so near the limit that it says little about what a network learns."""
        if not self.classes:
            return False
        lost, most = 1 - self.worst.median, 1 - self.limit
        return most / CLOSE < lost < most * CLOSE

    @property
    def is_poor(self) -> bool:
        return bool(self.classes) and self.worst.median < self.limit

    def describe(self) -> str:
        """The figure in words."""
        if not self.measured:
            return f"No image is larger than {self.size}x{self.size}, so that stretching costs the masks nothing"
        worst = self.worst
        of_how_many = "" if self.measured == self.pairs else f" of {self.pairs:,}"
        large = f", {self.with_large:,} with objects larger than a tile" if self.with_large else ""
        return (
            f"Masks stretched to {self.size}x{self.size} and back keep a Dice of {worst.median:.3f} "
            f"(class {worst.name}, worst tenth {worst.worst_tenth:.3f}; {self.measured:,}{of_how_many} masks{large})"
        )

    def details(self) -> list[str]:
        """A table of the classes, where there is more than one line to say."""
        if len(self.classes) < 2:
            return []
        width = max(18, *(len(one.name) for one in self.classes))
        return [
            f"  {'stretched and back':{width}}    Dice   worst tenth   of masks",
            *(
                f"  {one.name:{width}}   {one.median:.3f}         {one.worst_tenth:.3f}   {one.masks:,}"
                for one in self.classes
            ),
        ]


def mode_for(wanted: str, cost: StretchCost, whole_only: str = "") -> tuple[Mode, str]:
    """What --mode resize or auto is for a data set, and the sentence that explains it or advises otherwise; '' where
    there is nothing to say. whole_only: the name of the network where it can't be trained on crops."""
    figure = cost.describe()
    if wanted == "tile":
        return "tile", ""
    if not cost.is_poor:
        return "resize", f"{figure}: images are stretched" if cost.measured else ""
    if whole_only:
        return "resize", f"{figure}: crops would keep more, but {whole_only} is for whole images only"
    if wanted == "resize":
        return "resize", f"{figure}: --mode tile trains on crops at the images' own resolution and keeps more"
    return "tile", (
        f"{figure}: training on crops at the images' own resolution, predicting in tiles (--mode resize stretches)"
    )


def stretch_cost(card: Card, size: int, config: DataConfig, console: Console) -> StretchCost:
    """Of the card's training split, or as remembered from last time. Raises UserError where a mask has vanished since
    the card was made."""
    pairs = card.pairs("train")
    sides = [max(sides) for sides in card.sizes(pairs)]
    cost = StretchCost(size, len(pairs), sum(side >= 2 * size for side in sides))
    if max(sides, default=0) <= size:
        return cost
    chosen = spread(pairs, MAX_MASKS)
    state = [card.labels.plain(), [[pair.name, stamp_of(pair)] for pair in chosen]]
    seen = hashlib.sha256(json.dumps(state).encode()).hexdigest()
    memory = memory_file("stretching", card.layout.root, size, FORMAT)
    known = _recalled(remembered(memory), cost, seen)
    if known is None:
        known = _measured(cost, card.labels, chosen, config.workers, console)
        remember(memory, asdict(known) | {"seen": seen})  # where that can't be, the facts have said so
    return known


def compare_with_stretched(mask: np.ndarray, size: int, num_classes: int) -> tuple[dict[int, float], bool]:
    """(H, W) class indices -> for each class that they hold the Dice with themselves, stretched to `size` x `size` and
    back; and whether there is an object of the foreground larger than a tile.

    Each class is a plane of its own, averaged over the area of a pixel, and bilinear on the way back; the largest wins,
    of equals the lower index. Where the mask is IGNORED nothing counts.
    """
    height, width = mask.shape
    down, across = _averaging(height, size), _averaging(width, size)
    best, back = np.zeros((2, height, width), np.uint8)
    pixels = {index: count for index in range(num_classes) if (count := np.count_nonzero(mask == index))}
    is_large = False
    for index in pixels:
        plane = (mask == index).astype(np.float32)
        small = (across @ (down @ plane).T).T
        is_large |= index > 0 and _holds_large(small > 0.999, size / height, size / width)
        small_image = Image.fromarray(np.rint(255 * small).astype(np.uint8))
        share = np.asarray(small_image.resize((width, height), Image.Resampling.BILINEAR))
        np.copyto(back, np.uint8(index), where=share > best)
        np.maximum(best, share, out=best)
    back[mask == IGNORED] = IGNORED
    dice = {}
    for index, count in pixels.items():
        found = back == index
        both = np.count_nonzero(found & (mask == index))
        dice[index] = float(2 * both / (count + np.count_nonzero(found)))
    return dice, is_large


def _measured(
    cost: StretchCost, labels: LabelMap, pairs: Sequence[Pair], workers: int | None, console: Console
) -> StretchCost:
    look = partial(_look_at, labels, cost.size)
    looks = list(console.progress(prefetch(look, pairs, workers), len(pairs), "stretching", "masks"))
    classes = []
    for index in range(labels.num_classes > 2, labels.num_classes):
        found = [dice[index] for dice, _ in looks if index in dice]
        if found:
            median, worst = np.percentile(found, [50, 10]).tolist()
            classes.append(ClassCost(labels.names[index], median, worst, len(found)))
    with_large = sum(is_large for _, is_large in looks)
    return replace(cost, measured=len(pairs), with_large=with_large, classes=tuple(classes))


def _look_at(labels: LabelMap, size: int, pair: Pair) -> tuple[dict[int, float], bool]:
    try:
        mask = labels.encode(read_mask(pair.mask))[0]
    except UserError as error:
        raise pair.mask.named(error) from error
    return compare_with_stretched(mask, size, labels.num_classes)


@lru_cache(maxsize=64)
def _averaging(length: int, size: int) -> Any:
    """The sparse (size, length) matrix by which a column of pixels becomes one of `size`, each the mean over its area,
    which may begin and end within a pixel. (Pillow's box filter takes whole pixels only.)"""
    from scipy.sparse import csr_array

    edges, pixels = np.linspace(0, length, size + 1), np.arange(length)
    overlaps = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return csr_array(overlaps.clip(min=0).astype(np.float32) * np.float32(size / length))


def _holds_large(inside: np.ndarray, down: float, across: float) -> bool:
    """Whether an object is larger than a tile: whether there is room in it for the square that fits into a disc as wide
    as a tile. Nets of vessels or membranes span an image and have none.

    inside: (S, S), where the object's class fills a pixel of the stretched mask. down, across: by what the sides of the
    image were multiplied to become S.
    """
    side = inside.shape[0]
    rows, columns = (max(1, round(side * factor / 2**0.5)) for factor in (down, across))
    if rows > side or columns > side:
        return False
    up_to = np.zeros((side + 1, side + 1), np.int32)
    inside.cumsum(0, np.int32).cumsum(1, out=up_to[1:, 1:])
    held = up_to[rows:, columns:] - up_to[:-rows, columns:] - up_to[rows:, :-columns] + up_to[:-rows, :-columns]
    return bool(held.max() == rows * columns)


def _recalled(known: dict[str, Any], cost: StretchCost, seen: str) -> StretchCost | None:
    """With what is known of the masks that `seen` stands for."""
    try:
        if known["seen"] != seen:
            return None
        classes = tuple(ClassCost(**one) for one in known["classes"])
        return replace(cost, measured=known["measured"], with_large=known["with_large"], classes=classes)
    except (KeyError, TypeError):  # not there, or of another program
        return None
