"""Loss of mask detail by resizing to the network's size, and the choice between resizing and tiles."""

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
from unet_cli.data.labels import LabelMap, alone
from unet_cli.data.maskfile import read_mask
from unet_cli.data.source import Pair, spread
from unet_cli.errors import UserError
from unet_cli.system.console import Console
from unet_cli.system.prefetch import prefetch

Mode = Literal["resize", "tile"]

MAX_MASKS = 200  # of a data set that are measured
# Below this median Dice of the worst class, tiles are better. Evidence: validation Dice at original size of one run
# each (size 128, width 12, depth 3; the same number of steps stretched and on crops: 336 where sides are divided by 2.3
# and 2.9, 192 for vnc, 144 at 1.5).
#
#                                       sides divided by    stretched and back    trained stretched    on crops
#     membranes of vnc                                 2                 0.991                0.957       0.947
#     drawn curves of 6 pixels               2.3 and 2.9                 0.983                0.923       0.962
#     drawn curves of 4 pixels               2.3 and 2.9                 0.974                0.878       0.950
#     drawn curves of 2 pixels                       1.5                 0.966                0.769       0.846
#     drawn curves of 3 pixels                       1.5                 0.997                0.867       0.910
#
# The curves of the last row are faint in noise: their images lose detail that their masks keep.
POOR = 0.97
POOR_OF_HALVED = 0.985  # if half of the images have twice the size: images lose more detail than masks
POOR_OF_LARGE = 0.9  # if half of the masks have objects larger than a tile; a judgement, not measured
# Factor between the loss of Dice and its limit within which the decision is uncertain. All rows but the last are within
# it, and one of them is better stretched.
CLOSE = 2.0
FORMAT = 1  # version of the cached values, raised when they are computed or stored in another way


@dataclass(frozen=True)
class ClassCost:
    """Dice between masks and themselves after resizing and back, over the `masks` measured ones that contain the class.

    worst_tenth: the 10th percentile.
    """

    name: str
    median: float
    worst_tenth: float
    masks: int


@dataclass(frozen=True)
class StretchCost:
    """The loss of mask detail by resizing to `size` x `size`, over training masks. An estimate and no bound: a network
    may do better than an interpolated mask, and a faint object may vanish from the image before its mask does.

    pairs: number of training pairs; measured: number of their masks that were measured, none if no image has a side
    above `size`; with_large: how many of these have an object larger than a tile; halved: number of images with a side
    of at least twice `size`. classes: the foreground classes, and the background with a single foreground class.
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
        """Whether the loss is so close to the limit that the better mode is uncertain."""
        if not self.classes:
            return False
        lost, most = 1 - self.worst.median, 1 - self.limit
        return most / CLOSE < lost < most * CLOSE

    @property
    def is_poor(self) -> bool:
        return bool(self.classes) and self.worst.median < self.limit

    def describe(self) -> str:
        """The result as a sentence."""
        if not self.measured:
            return f"No image is larger than {self.size}x{self.size}, so resizing loses no detail of the masks"
        worst = self.worst
        of_how_many = "" if self.measured == self.pairs else f" of {self.pairs:,}"
        large = f", {self.with_large:,} with objects larger than a tile" if self.with_large else ""
        return (
            f"Masks stretched to {self.size}x{self.size} and back keep a Dice of {worst.median:.3f} "
            f"(class {worst.name}, worst tenth {worst.worst_tenth:.3f}; {self.measured:,}{of_how_many} masks{large})"
        )

    def details(self) -> list[str]:
        """A table of the classes; empty for a single one."""
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
    """The mode that --mode resize or auto selects for a data set, and the sentence that explains it or advises
    otherwise; '' without a reason. whole_only: name of the network if it can't be trained on crops."""
    figure = cost.describe()
    if wanted == "tile":
        return "tile", ""
    if not cost.is_poor:
        return "resize", f"{figure}: images are stretched" if cost.measured else ""
    if whole_only:
        return "resize", f"{figure}: crops would keep more, but {whole_only} needs whole images"
    if wanted == "resize":
        return "resize", f"{figure}: --mode tile trains on crops at the images' own resolution and keeps more"
    return "tile", (
        f"{figure}: training on crops at the images' own resolution, predicting in tiles (--mode resize stretches)"
    )


def stretch_cost(card: Card, size: int, config: DataConfig, console: Console) -> StretchCost:
    """The cost for the card's training split, from the cache if unchanged. Raises UserError if a mask has vanished
    since the card was made."""
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
        remember(memory, asdict(known) | {"seen": seen})  # a failure was reported for the facts
    return known


def compare_with_stretched(mask: np.ndarray, size: int, num_classes: int) -> tuple[dict[int, float], bool]:
    """(H, W) class indices -> the Dice of each present class with itself after resizing to `size` x `size` and back;
    and whether any foreground object is larger than a tile.

    Each class is a plane of its own, averaged over pixel areas on the way down, and bilinear on the way back; the
    argmax over classes wins, the lower index in a tie. IGNORED pixels are not counted.
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
        # The class probabilities of a perfect network at that size, resized as in prediction.
        small_image = Image.fromarray(np.rint(255 * small).astype(np.uint8))
        prob = np.asarray(small_image.resize((width, height), Image.Resampling.BILINEAR))
        np.copyto(back, np.uint8(index), where=prob > best)
        np.maximum(best, prob, out=best)
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
    if not labels.overlapping:
        return compare_with_stretched(mask, size, labels.num_classes)
    found: dict[int, float] = {}
    is_large = False
    for number in labels.scored:
        dice, has_large = compare_with_stretched(alone(mask, number), size, 2)
        found |= {number: dice[1]} if 1 in dice else {}
        is_large |= has_large
    return found, is_large


@lru_cache(maxsize=64)
def _averaging(length: int, size: int) -> Any:
    """The sparse (size, length) matrix of area averaging, with fractional pixels at the borders of each area. (Pillow's
    box filter takes whole pixels only.)"""
    from scipy.sparse import csr_array

    edges, pixels = np.linspace(0, length, size + 1), np.arange(length)
    overlaps = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return csr_array(overlaps.clip(min=0).astype(np.float32) * np.float32(size / length))


def _holds_large(inside: np.ndarray, down: float, across: float) -> bool:
    """Whether an object is larger than a tile, that is, contains the square inscribed in a disc of a tile's width.
    Networks of vessels or membranes span an image without such a square.

    inside: (S, S) bool, where the class fills a pixel of the resized mask. down, across: scale factors of the image's
    height and width to S.
    """
    side = inside.shape[0]
    rows, columns = (max(1, round(side * factor / 2**0.5)) for factor in (down, across))
    if rows > side or columns > side:
        return False
    # Summed-area table: the sum over each window of that size from its four corners.
    up_to = np.zeros((side + 1, side + 1), np.int32)
    inside.cumsum(0, np.int32).cumsum(1, out=up_to[1:, 1:])
    sums = up_to[rows:, columns:] - up_to[:-rows, columns:] - up_to[rows:, :-columns] + up_to[:-rows, :-columns]
    return bool(sums.max() == rows * columns)


def _recalled(known: dict[str, Any], cost: StretchCost, seen: str) -> StretchCost | None:
    """The cost from the cache, if it is of the masks with hash `seen`."""
    try:
        if known["seen"] != seen:
            return None
        classes = tuple(ClassCost(**one) for one in known["classes"])
        return replace(cost, measured=known["measured"], with_large=known["with_large"], classes=classes)
    except (KeyError, TypeError):  # missing, or written by another program
        return None
