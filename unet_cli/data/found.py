"""The objects of one mask, found once: what instance maps, polygons, tables and scores are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from unet_cli.data.numbered import Numbered, numbered_in, together
from unet_cli.data.objects import look_up
from unet_cli.data.slabs import Slabs, in_slabs, joined, regrouped
from unet_cli.system.scratch import Scratch

ROWS_AT_ONCE = 256  # rows, or slices, that are counted together

Block = tuple[int, np.ndarray]  # the first row, or slice, and (C, n, ...) values of it and those that follow


@dataclass(frozen=True, eq=False)
class Layer:
    """Where objects are. labels: int32 of each slab, 0 where there is none; numbers: for each slab those of its labels,
    from label 0 on."""

    labels: Slabs
    numbers: list[np.ndarray]

    def rows(self, first: int, end: int) -> np.ndarray:
        """The object numbers in these rows, or slices."""
        return joined(
            look_up(self.numbers[number], self.labels[number][max(first - top, 0) : end - top])
            for number, top in self.labels.between(first, end)
        )

    def __iter__(self) -> Iterator[np.ndarray]:
        """The object numbers slab by slab."""
        return (look_up(table, labels) for table, labels in zip(self.numbers, self.labels, strict=True))

    def whole(self) -> np.ndarray:
        return joined(self)

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """First row, and object numbers, of ROWS_AT_ONCE rows each."""
        for number, block in enumerate(regrouped(self, ROWS_AT_ONCE)):
            yield number * ROWS_AT_ONCE, block

    def mapped(self, table: np.ndarray) -> Layer:
        """The same with other numbers. table: of each number, from 0 on."""
        return Layer(self.labels, [table[numbers] for numbers in self.numbers])


@dataclass(frozen=True, eq=False)
class Window:
    """A box of the image in which some objects lie whole, and nothing else. numbers: int32, 0 where there is none.
    origin: its first pixel. members: the objects' numbers."""

    numbers: np.ndarray
    origin: tuple[int, ...]
    members: np.ndarray


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of a mask of `shape` ([D,] H, W), numbered from 1 in reading order of their first pixels.

    layers: where they are; several where classes may overlap. on: (n,) the layer of each. classes: (n,) index of each.
    areas: (n,) pixels. boxes: (n, 2, axes) first pixel and end. in_map: (n,) their numbers in the instance map, which
    are the same, or in that of their class, where classes overlap. unsplit: number of those that were too large to be
    separated at necks.
    """

    shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    on: np.ndarray
    classes: np.ndarray
    areas: np.ndarray
    boxes: np.ndarray
    in_map: np.ndarray
    unsplit: int = 0

    def __len__(self) -> int:
        return len(self.classes)

    def map_of(self, place: int, kind: DTypeLike) -> Layer:
        """A layer with the numbers of the instance map, of this type."""
        return self.layers[place].mapped(np.append(0, self.in_map).astype(kind))

    def inside(self, number: int) -> tuple[np.ndarray, tuple[int, ...]]:
        """The pixels of an object, bool over its box, and the box's first pixel."""
        first, end = self.boxes[number - 1]
        rows = self.layers[self.on[number - 1]].rows(int(first[0]), int(end[0]))
        box = tuple(slice(a, b) for a, b in zip(first[1:].tolist(), end[1:].tolist(), strict=True))
        return rows[(slice(None), *box)] == number, tuple(first.tolist())

    def windows(self) -> Iterator[Window]:
        """Windows that together hold each object once: those that begin in one slab. As large as such a slab, and as
        the objects that begin there."""
        for place, layer in enumerate(self.layers):
            own = np.flatnonzero(self.on == place)
            begins = self.boxes[own, 0, 0]
            for top, end in layer.labels.bounds:
                members = own[(begins >= top) & (begins < end)]
                if len(members):
                    first, last = self.boxes[members, 0].min(0).tolist(), self.boxes[members, 1].max(0).tolist()
                    box = tuple(slice(a, b) for a, b in zip(first[1:], last[1:], strict=True))
                    numbers = layer.rows(first[0], last[0])[(slice(None), *box)]
                    kept = np.zeros(len(self) + 1, np.int32)
                    kept[members + 1] = members + 1
                    yield Window(look_up(kept, numbers), tuple(first), members + 1)


def gathered(shape: tuple[int, ...], parts: Sequence[Numbered], overlapping: bool = False, unsplit: int = 0) -> Objects:
    """The objects of one layer each -> all of them. overlapping: whether each class has an instance map of its own."""
    facts = together((part.facts for part in parts), len(shape))
    owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    order = np.lexsort((owner, np.where(facts.areas > 0, facts.first, np.iinfo(np.int64).max)))
    order = order[: np.count_nonzero(facts.areas)]
    rank = np.zeros(len(owner), np.int32)
    rank[order] = np.arange(1, len(order) + 1)
    layers, begin = [], 0
    for part in parts:
        own = rank[begin : begin + len(part)]
        layers.append(Layer(part.labels, [np.append(np.int32(0), own[ids]) for ids in part.ids]))
        begin += len(part)
    classes = facts.classes[order]
    in_map = np.arange(1, len(order) + 1)
    for index in np.unique(classes) if overlapping else ():
        alike = classes == index
        in_map[alike] = np.arange(1, np.count_nonzero(alike) + 1)
    areas, boxes = facts.areas[order], facts.boxes[order]
    return Objects(shape, tuple(layers), owner[order], classes, areas, boxes, in_map, unsplit)


def gathered_from(layers: Iterable[tuple[np.ndarray, int]], shape: tuple[int, ...]) -> Objects:
    """Layers of `shape` with any numbers of their own, 0 where there is none, and their class -> all of their
    objects."""
    parts = [
        numbered_in(in_slabs(numbers), np.full(int(numbers.max(initial=0)), index), Scratch(), len(shape))
        for numbers, index in layers
    ]
    return gathered(shape, parts)


def mean_values(objects: Objects, blocks: Iterable[Block], chosen: np.ndarray | None = None) -> np.ndarray:
    """The mean over the pixels of each object, (n, C) float64, of an image that comes in blocks from top to bottom, or
    slabs from first to last. NaN is left out; all NaN gives NaN.

    chosen: (n,) of each object the one channel of interest; the result is then (n, 1).
    """
    sums = counts = np.zeros((len(objects), 0))
    for top, values in blocks:
        if not sums.size:
            channels = 1 if chosen is not None else len(values)
            sums, counts = np.zeros((2, len(objects), channels))
        for layer in objects.layers:
            numbers = layer.rows(top, top + values.shape[1])
            inside = numbers > 0
            own = numbers[inside]
            for place in range(len(values)):
                part, owners = values[place][inside].astype(np.float64), own
                if chosen is not None:
                    is_own = chosen[own - 1] == place
                    part, owners = part[is_own], own[is_own]
                known = ~np.isnan(part)
                column = 0 if chosen is not None else place
                sums[:, column] += np.bincount(owners[known], part[known], len(objects) + 1)[1:]
                counts[:, column] += np.bincount(owners[known], minlength=len(objects) + 1)[1:]
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
