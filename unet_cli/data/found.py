"""The objects of one mask, found once: what polygons, tables and scores are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from unet_cli.data.labels import LabelMap
from unet_cli.data.objects import first_pixels, look_up

ROWS_AT_ONCE = 256  # rows, or slices, that are counted together

Block = tuple[int, np.ndarray]  # the first row, or slice, and (C, n, ...) values of it and those that follow


@dataclass(frozen=True, eq=False)
class Layer:
    """A box of the image. numbers: int32 of its objects, 0 where there is none. origin: its first pixel."""

    numbers: np.ndarray
    origin: tuple[int, ...]

    @property
    def box(self) -> tuple[slice, ...]:
        return tuple(slice(at, at + side) for at, side in zip(self.origin, self.numbers.shape, strict=True))


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of a mask of `shape` ([D,] H, W), numbered from 1 in reading order of their first pixels.

    layers: where they are; several where classes may overlap. on: (n,) the layer of each. classes: (n,) index of each.
    areas: (n,) pixels. boxes: (n, 2, axes) first pixel and end. in_map: (n,) their numbers in the instance map, which
    are the same, or in that of their class, where classes overlap.
    """

    shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    on: np.ndarray
    classes: np.ndarray
    areas: np.ndarray
    boxes: np.ndarray
    in_map: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)

    def class_of(self, layer: Layer) -> int:
        """The one class of a layer that `by_class` found."""
        return int(self.classes[int(layer.numbers.max()) - 1])

    def inside(self, number: int) -> tuple[np.ndarray, tuple[int, ...]]:
        """The pixels of an object, bool over its box, and the box's first pixel."""
        first, end = self.boxes[number - 1]
        layer = self.layers[self.on[number - 1]]
        box = tuple(slice(a - at, b - at) for a, b, at in zip(first, end, layer.origin, strict=True))
        return layer.numbers[box] == number, tuple(first.tolist())


def by_class(indices: np.ndarray, labels: LabelMap, numbered: Callable[[np.ndarray], np.ndarray]) -> Objects:
    """The objects of class indices ([D,] H, W), those of the first class being background.

    numbered: uint8 1 and 0, of objects with cores their indices -> int32 numbers from 1 without gaps.
    """
    found = []
    for index in range(1, labels.num_classes):
        region = labels.region(indices, index)
        axes = range(region.ndim)
        sides = [np.flatnonzero(region.any(tuple(other for other in axes if other != axis))) for axis in axes]
        if len(sides[0]):
            box = tuple(slice(int(side[0]), int(side[-1]) + 1) for side in sides)
            numbers = numbered(np.where(region, indices, 0)[box] if labels.cores else region[box].astype(np.uint8))
            classes = np.full(int(numbers.max()), index)
            found.append((Layer(numbers, tuple(part.start for part in box)), classes))
    return gathered(indices.shape, found, labels.overlapping)


def gathered(
    shape: tuple[int, ...], layers: Iterable[tuple[Layer, Sequence[int] | np.ndarray]], overlapping: bool = False
) -> Objects:
    """Layers with any numbers of their own, and the class of each number from 1 on -> all of their objects.
    overlapping: whether each class has an instance map of its own."""
    from scipy.ndimage import find_objects

    values, places, kinds, owners = [], [], [], []
    parts = list(layers)
    for number, (layer, classes) in enumerate(parts):
        own, first = first_pixels(layer.numbers)
        at = np.unravel_index(first, layer.numbers.shape)
        moved = tuple(one + start for one, start in zip(at, layer.origin, strict=True))
        values.append(own)
        places.append(np.ravel_multi_index(moved, shape))
        kinds.append(np.asarray(classes, np.int64)[own - 1])
        owners.append(np.full(len(own), number))
    if not parts:
        none = np.zeros(0, np.int64)
        return Objects(shape, (), none, none, none, np.zeros((0, 2, len(shape)), np.int64), none)
    owner, value = np.concatenate(owners), np.concatenate(values)
    order = np.lexsort((owner, np.concatenate(places)))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    areas, boxes = np.zeros(len(order), np.int64), np.zeros((len(order), 2, len(shape)), np.int64)
    renumbered = []
    for number, (layer, _) in enumerate(parts):
        mine = owner == number
        table = np.zeros(int(value[mine].max(initial=0)) + 1, np.int32)
        table[value[mine]] = rank[mine]
        new = Layer(look_up(table, layer.numbers), layer.origin)
        for top in range(0, len(new.numbers), ROWS_AT_ONCE):
            part = new.numbers[top : top + ROWS_AT_ONCE]
            areas += np.bincount(part.ravel(), minlength=len(order) + 1)[1:]
        for index, box in enumerate(find_objects(new.numbers)):
            if box is not None:
                boxes[index] = np.array([[part.start, part.stop] for part in box]).T + layer.origin
        renumbered.append(new)
    classes = np.concatenate(kinds)[order]
    in_map = np.arange(1, len(order) + 1)
    for index in np.unique(classes) if overlapping else ():
        own = classes == index
        in_map[own] = np.arange(1, np.count_nonzero(own) + 1)
    return Objects(shape, tuple(renumbered), owner[order], classes, areas, boxes, in_map)


def mean_values(objects: Objects, blocks: Iterable[Block], chosen: Callable[[Layer], int] | None = None) -> np.ndarray:
    """The mean over the pixels of each object, (n, C) float64, of an image that comes in blocks from top to bottom, or
    slabs from first to last. NaN is left out; all NaN gives NaN.

    chosen: of each layer the one channel of interest; the result is then (n, 1).
    """
    sums = counts = np.zeros((len(objects), 0))
    for top, values in blocks:
        if not sums.size:
            channels = 1 if chosen else len(values)
            sums, counts = np.zeros((2, len(objects), channels))
        for layer in objects.layers:
            first, end = max(top, layer.origin[0]), min(top + values.shape[1], layer.origin[0] + len(layer.numbers))
            if first >= end:
                continue
            numbers = layer.numbers[first - layer.origin[0] : end - layer.origin[0]]
            inside = numbers > 0
            own = numbers[inside]
            for place, channel in enumerate([chosen(layer)] if chosen else range(len(values))):
                part = values[channel][(slice(first - top, end - top), *layer.box[1:])][inside].astype(np.float64)
                known = ~np.isnan(part)
                sums[:, place] += np.bincount(own[known], part[known], len(objects) + 1)[1:]
                counts[:, place] += np.bincount(own[known], minlength=len(objects) + 1)[1:]
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
