"""Postprocessing of a predicted mask: objects are filled, removed, split and numbered.

Objects are defined in data/objects.py. As their pixels are connected at corners too, those of the background are only
at sides (4-connected, in volumes 6-connected): an outline whose pixels touch only at their corners is closed. Masks
have any number of dimensions, and in all of them pixels count as equally long.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unet_cli.config.prediction import Cleaning
from unet_cli.data.cores import cores_in, grown, marked
from unet_cli.data.labels import LabelMap
from unet_cli.data.objects import (
    components,
    components_by_class,
    first_pixels,
    look_up,
    neighbours,
    steps_to_neighbours,
)
from unet_cli.errors import UserError

MAX_OBJECTS = 2**16 - 1

# Chosen on outlines of cell nuclei, and so that bars, ellipses, rings and winding lines of constant width aren't split.
SMOOTHING = 0.7  # standard deviation in pixels, which removes the staircase of a drawn outline
NECK = 0.15  # minimum rise of a part above its neck in the distance map, as a share of its own height,
STEP = 0.75  # and in pixels
SMALLEST_PAIR = 24  # pixels; smaller objects can't have a neck by these measures


def clean(pred: np.ndarray, cleaning: Cleaning, labels: LabelMap | None = None) -> np.ndarray:
    """Uint8 class indices ([D,] H, W), 0 being background -> a new array after fill_holes, remove_smaller and
    keep_largest.

    A hole is background that doesn't reach the image's border and is surrounded by a single class: it gets that class.
    Removed objects become background. Classes that overlap are cleaned each by itself. Of several largest objects of a
    class, the first in reading order is kept. An object with a core gets the class of most of its pixels. Needs up to 8
    bytes a pixel of temporary memory.
    """
    if labels is not None and labels.overlapping and cleaning.changes_masks:
        cleaned_sets = np.zeros_like(pred)
        for number in labels.scored:
            cleaned_sets |= clean(labels.region(pred, number).astype(np.uint8), cleaning) << (number - 1)
        return cleaned_sets
    if labels is not None and labels.cores:
        settled = _of_one_class_each(pred, cleaning, labels) if labels.num_classes > 2 else pred
        return _with_whole_objects(settled, cleaning, labels) if cleaning.changes_masks else settled
    cleaned = pred.copy()
    if cleaning.fill_holes:
        _fill_holes(cleaned)
    if cleaning.remove_smaller > 1 or cleaning.keep_largest:
        _remove_objects(cleaned, cleaning)
    return cleaned


def objects_of(pred: np.ndarray, cleaning: Cleaning, labels: LabelMap | None = None) -> np.ndarray:
    """Uint8 class indices ([D,] H, W) -> int32 of the same shape: background 0, the objects 1, 2, ... without gaps,
    class by class.

    An object has one class. With cleaning.split_touching, parts that are joined by necks become objects of their own,
    see `_parts`; their union is still exactly the foreground. Needs up to 9 bytes a pixel of temporary memory, and to
    split, 70 more for each pixel of the largest bounding box of an object. labels: of the classes; where these overlap
    each has numbers of its own, (classes, [D,] H, W), and where cores are known, touching objects are told apart by
    them.
    """
    if labels is not None and labels.overlapping:
        of_each = (labels.region(pred, number).astype(np.uint8) for number in labels.scored)
        return np.stack([objects_of(one, cleaning) for one in of_each])
    if labels is not None and labels.cores:
        numbers = np.zeros(pred.shape, np.int32)
        for number in labels.scored:
            of_class = _grown(np.where(labels.region(pred, number), pred, 0), cleaning)
            np.add(of_class, numbers.max(), out=numbers, where=of_class > 0)
        return numbers
    numbers, count = components(pred)
    if cleaning.split_touching:
        _split_touching(numbers, count)
    return numbers


def number_objects(
    pred: np.ndarray, cleaning: Cleaning, labels: LabelMap | None = None, is_wide: bool = False
) -> np.ndarray:
    """The instance map: ([D,] H, W) uint16, objects numbered in reading order of their first pixels; see objects_of.

    is_wide: whether more than 65,535 objects are numbered by 32 bits, as a TIFF holds; else they raise UserError.
    """
    numbers = objects_of(pred, cleaning, labels)
    count = int(numbers.max(initial=0))
    if count > MAX_OBJECTS and not is_wide:
        raise UserError(
            f"the mask has {count:,} objects, and 16 bits number {MAX_OBJECTS:,} at most: "
            "remove the small ones with --remove-smaller PIXELS, or number them by 32 bits with --format tif"
        )
    return _in_reading_order(numbers, count, np.uint16 if count <= MAX_OBJECTS else np.uint32)


def _grown(marks: np.ndarray, cleaning: Cleaning) -> np.ndarray:
    """Class indices with marked cores, whose foreground is taken as of one class -> object numbers, see `grown`."""
    cores, count = components(cores_in(marks))
    if cleaning.split_touching:
        _split_touching(cores, count)
    return grown(marks > 0, cores)


def _of_one_class_each(pred: np.ndarray, cleaning: Cleaning, labels: LabelMap) -> np.ndarray:
    numbers, classes = _grown(pred, cleaning), labels.without_cores(pred)
    pairs = numbers.astype(np.int64) * labels.num_classes + classes
    votes = np.bincount(pairs.ravel(), minlength=(int(numbers.max(initial=0)) + 1) * labels.num_classes)
    winners = votes.reshape(-1, labels.num_classes).argmax(1).astype(np.uint8)
    winners[0] = 0
    return marked(winners[numbers], cores_in(pred) > 0)


def _with_whole_objects(pred: np.ndarray, cleaning: Cleaning, labels: LabelMap) -> np.ndarray:
    """Objects with cores after filling and removing, where each counts by itself, however it touches others."""
    plain = labels.without_cores(pred)
    if cleaning.fill_holes:
        _fill_holes(plain)
    filled = marked(plain, cores_in(pred) > 0)
    sizes = np.bincount((numbers := objects_of(filled, cleaning, labels)).ravel())
    kept = sizes >= cleaning.remove_smaller
    for number in labels.scored if cleaning.keep_largest else ():
        if len(own := np.unique(numbers[labels.region(filled, number)])):
            kept[own] &= own == own[sizes[own].argmax()]
    return np.where((numbers > 0) & kept[numbers], filled, np.uint8(0))


def _fill_holes(pred: np.ndarray) -> None:
    from scipy.ndimage import label

    # For each background region the lowest and highest class next to it: where they are equal, one class surrounds it.
    regions, count = label(pred == 0)
    lowest, highest = np.full(count + 1, 255, dtype=np.uint8), np.zeros(count + 1, dtype=np.uint8)
    for step in steps_to_neighbours(pred.ndim)[: pred.ndim]:  # those at sides
        before, after = neighbours(step)
        for one, other in ((regions[before], pred[after]), (regions[after], pred[before])):
            edge = (one > 0) & (other > 0)
            np.minimum.at(lowest, one[edge], other[edge])
            np.maximum.at(highest, one[edge], other[edge])
    filling = np.where(lowest == highest, lowest, 0).astype(np.uint8)
    filling[0] = 0  # the foreground
    for axis in range(pred.ndim):
        filling[regions.take((0, -1), axis)] = 0  # regions at the border are open to the outside
    pred += look_up(filling, regions)


def _remove_objects(pred: np.ndarray, cleaning: Cleaning) -> None:
    for box, labels, count in components_by_class(pred):
        sizes = np.zeros(count + 1, dtype=np.int64)
        for row in labels:
            np.add.at(sizes, row, 1)
        sizes[0] = 0
        removed = sizes < cleaning.remove_smaller
        if cleaning.keep_largest:
            removed |= np.arange(count + 1) != sizes.argmax()
        removed[0] = False  # background isn't an object
        pred[box][look_up(removed, labels)] = 0


def _split_touching(numbers: np.ndarray, count: int) -> None:
    """Give the parts of each of `count` objects numbers of their own, in place."""
    from scipy.ndimage import find_objects

    for number, box in enumerate(find_objects(numbers), start=1):
        inside = numbers[box] == number
        if np.count_nonzero(inside) < SMALLEST_PAIR:
            continue
        parts = _parts(np.pad(inside, 1))
        # The first part keeps the object's number, so that numbers stay without gaps.
        numbers[box][inside] = np.where(parts == 0, number, count + parts)
        count += int(parts.max())


def _parts(inside: np.ndarray) -> np.ndarray:
    """([d,] h, w) bool, an object with background around -> part number of each of its pixels, from 0, in reading
    order.

    The watershed of the distance map (Beucher and Lantuéjoul 1979): each pixel belongs to the maximum at the end of its
    steepest ascent (Meyer 1994). Basins are then merged over their highest saddles unless the lower maximum exceeds
    the saddle by NECK and STEP: its dynamics (Grimaud 1992), here relative to its own height, so that small and large
    objects are treated alike.
    """
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    distance = distance_transform_edt(inside).astype(np.float32)
    heights = gaussian_filter(distance, SMOOTHING, mode="nearest")[inside]
    order = np.argsort(heights, kind="stable")
    # Ranks in place of heights make every pixel's height unique, so that there are no plateaus.
    rank = np.empty(len(order), dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    ranks = np.full(inside.shape, -1, dtype=np.int32)
    ranks[inside] = rank
    summits, basins = _basins(ranks)
    if len(summits) == 1:
        return np.zeros_like(rank)
    owners = _merged(heights[order], summits, *_saddles(ranks, basins))
    return np.unique(owners[basins[rank]], return_inverse=True)[1]


def _basins(ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([d,] h, w) ranks of n pixels by height, -1 elsewhere -> ranks of the maxima, ascending; (n,) basin of each
    rank."""
    from scipy.ndimage import maximum_filter

    inside = ranks >= 0
    upward = np.empty(np.count_nonzero(inside), dtype=np.int32)
    upward[ranks[inside]] = maximum_filter(ranks, 3, mode="nearest")[inside]
    # Pointer jumping: every round doubles the length of the ascent that is followed.
    while not np.array_equal(upward, further := upward[upward]):
        upward = further
    return np.unique(upward, return_inverse=True)


def _saddles(ranks: np.ndarray, basins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of the highest saddle between each pair of adjacent basins, descending, and (saddles, 2) these basins."""
    saddles, pairs = [], []
    for step in steps_to_neighbours(ranks.ndim):
        one, other = (ranks[part] for part in neighbours(step))
        both = (one >= 0) & (other >= 0)
        one, other = one[both], other[both]
        meet = basins[one] != basins[other]
        saddles.append(np.minimum(one, other)[meet])
        pairs.append(np.sort(basins[np.stack([one[meet], other[meet]], axis=1)], axis=1))
    saddle, pair = np.concatenate(saddles), np.concatenate(pairs)
    descending = np.argsort(-saddle, kind="stable")
    saddle, pair = saddle[descending], pair[descending]
    highest = np.sort(np.unique(pair[:, 0] * len(basins) + pair[:, 1], return_index=True)[1])
    return saddle[highest], pair[highest]


def _merged(heights: np.ndarray, summits: np.ndarray, saddles: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(n,) heights by rank, ranks of maxima and saddles -> the basin into which each basin is merged, by union-find."""
    tops: list[float] = heights[summits].tolist()
    owners = list(range(len(tops)))

    def owner(basin: int) -> int:
        while owners[basin] != basin:
            owners[basin] = basin = owners[owners[basin]]
        return basin

    # From the highest saddle down, so that a basin is compared with the highest maximum that it is connected to.
    for saddle, pair in zip(heights[saddles].tolist(), pairs.tolist(), strict=True):
        low, high = sorted(map(owner, pair))
        if tops[low] - saddle < max(NECK * tops[low], STEP):
            owners[low] = high
    return np.array([owner(basin) for basin in owners])


def _in_reading_order(numbers: np.ndarray, count: int, kind: type[np.unsignedinteger[Any]]) -> np.ndarray:
    """([D,] H, W) numbers 1 ... count in any order -> in the order of their first pixels."""
    values, first = first_pixels(numbers)
    table = np.zeros(count + 1, kind)
    table[values[np.argsort(first)]] = np.arange(1, count + 1)
    return look_up(table, numbers)
