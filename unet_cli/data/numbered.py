"""Objects of an image that is read in slabs: found in each slab, and joined across the borders between slabs.

What is known of a slab is its labels, int32 from 1, and some figures for each label. Labels of neighbouring slabs that
meet are one object, by which all figures are joined: exactly those of the whole image, however it is cut.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import product

import numpy as np

from unet_cli.data.objects import components, first_pixels, look_up, neighbours
from unet_cli.data.slabs import Slabs
from unet_cli.system.scratch import Scratch


@dataclass(frozen=True, eq=False)
class Facts:
    """Of n objects: their first pixel in reading order, as an index of the flat image; areas in pixels; boxes (n, 2,
    axes), first pixel and end; classes."""

    first: np.ndarray
    areas: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray

    def joined(self, ids: np.ndarray, count: int) -> Facts:
        """Those of `count` objects that consist of these. ids: (n,) from 0. An object without any has area 0."""
        if count == len(ids) and np.array_equal(ids, np.arange(count)):
            return self
        first = np.full(count, np.iinfo(np.int64).max)
        np.minimum.at(first, ids, self.first)
        areas, classes = np.zeros((2, count), np.int64)
        np.add.at(areas, ids, self.areas)
        classes[ids] = self.classes
        boxes = np.zeros((count, *self.boxes.shape[1:]), np.int64)
        boxes[:, 0] = np.iinfo(np.int64).max
        np.minimum.at(boxes[:, 0], ids, self.boxes[:, 0])
        np.maximum.at(boxes[:, 1], ids, self.boxes[:, 1])
        return Facts(first, areas, boxes, classes)


def facts_of(labels: np.ndarray, count: int, top: int, classes: np.ndarray | None = None) -> Facts:
    """Of labels 1 to `count`, none of which is missing, in a slab that begins at row `top`. classes: of its pixels, or
    else 0."""
    from scipy.ndimage import find_objects

    _, first = first_pixels(labels)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    found = [[(part.start, part.stop) for part in box] for box in find_objects(labels)]
    boxes = np.array(found, np.int64).reshape(count, labels.ndim, 2).swapaxes(1, 2)
    boxes[:, :, 0] += top
    kinds = np.zeros(count, np.int64) if classes is None else classes.ravel()[first].astype(np.int64)
    return Facts(first + top * labels[0].size, areas[1:], boxes, kinds)


def together(parts: Iterable[Facts], axes: int) -> Facts:
    none = np.zeros(0, np.int64)
    every = [Facts(none, none, np.zeros((0, 2, axes), np.int64), none), *parts]
    return Facts(*(np.concatenate([getattr(one, field.name) for one in every]) for field in fields(Facts)))


class Links:
    """Which labels of slabs that come in order are one component. By two rows at a time, so all that is kept is the
    last row, and the pairs that meet.

    corners: whether pixels are neighbours over corners too.
    """

    def __init__(self, corners: bool = True) -> None:
        self._corners = corners
        self.starts = [0]  # labels before each slab
        self._last: tuple[np.ndarray, np.ndarray] | None = None
        self._pairs: list[np.ndarray] = []

    def add(self, labels: np.ndarray, count: int, classes: np.ndarray) -> None:
        """A slab with labels 1 to `count`, and the classes of its pixels: only equal ones are linked."""
        if self._last is not None:
            for step in product((-1, 0, 1) if self._corners else (0,), repeat=labels.ndim - 1):
                before, after = neighbours(step)
                one, other = self._last[0][before], labels[0][after]
                meet = (one > 0) & (other > 0) & (self._last[1][before] == classes[0][after])
                pairs = np.stack([one[meet].astype(np.int64) + self.starts[-2], other[meet] + self.starts[-1]], 1) - 1
                self._pairs.append(np.unique(pairs, axis=0))
        self._last = labels[-1].copy(), classes[-1].copy()
        self.starts.append(self.starts[-1] + count)

    def ids(self) -> tuple[list[np.ndarray], int]:
        """For the labels of each slab their component, from 0; and the count of components."""
        count = self.starts[-1]
        owner = np.arange(count)
        pairs = np.concatenate(self._pairs) if self._pairs else np.zeros((0, 2), np.int64)
        if len(pairs):
            from scipy.sparse import coo_array
            from scipy.sparse.csgraph import connected_components

            graph = coo_array((np.ones(len(pairs), bool), tuple(pairs.T)), shape=(count, count))
            count, owner = connected_components(graph, directed=False)
        return np.split(owner, self.starts[1:-1]), count


@dataclass(frozen=True, eq=False)
class Numbered:
    """Objects in any order. labels: int32 of each slab, from 1. ids: for each slab the object, from 0, of its labels.
    facts: of the objects; those of area 0 are none. Read slab by slab as numbers: 1 + the object, 0 for none."""

    labels: Slabs
    ids: list[np.ndarray]
    facts: Facts

    def __len__(self) -> int:
        return len(self.facts.areas)

    def slab(self, number: int) -> np.ndarray:
        return self.mapped(number, np.arange(1, len(self) + 1, dtype=np.int32))

    def mapped(self, number: int, values: np.ndarray) -> np.ndarray:
        """A slab in which each object has its value, and what is none 0."""
        return look_up(np.append(values.dtype.type(0), values[self.ids[number]]), self.labels[number])


def components_in(slabs: Iterable[np.ndarray], scratch: Scratch, axes: int = 2) -> Numbered:
    """The connected components of class indices that come in slabs, those of each class by themselves, over corners
    too: see data/objects.py."""
    labels, links, facts = Slabs(scratch), Links(), list[Facts]()
    for slab in slabs:
        own, count = components(slab)
        facts.append(facts_of(own, count, labels.tops[-1], slab))
        links.add(own, count, slab)
        labels.append(own)
    ids, count = links.ids()
    known = together(facts, axes)
    return Numbered(labels, ids, known.joined(np.concatenate(ids), count))


def numbered_in(slabs: Iterable[np.ndarray], classes: np.ndarray, scratch: Scratch, axes: int = 2) -> Numbered:
    """Objects that have numbers, int32 from 1, in slabs. classes: of each number."""
    labels, ids, facts = Slabs(scratch), list[np.ndarray](), list[Facts]()
    for slab in slabs:
        values, _ = first_pixels(slab)
        table = np.zeros(int(values.max(initial=0)) + 1, np.int32)
        table[values] = np.arange(1, len(values) + 1)
        own = look_up(table, slab)
        facts.append(facts_of(own, len(values), labels.tops[-1]))
        labels.append(own)
        ids.append(values.astype(np.int64) - 1)
    every = np.concatenate([np.zeros(0, np.int64), *ids])
    known = together(facts, axes)
    known = Facts(known.first, known.areas, known.boxes, np.asarray(classes, np.int64)[every])
    return Numbered(labels, ids, known.joined(every, len(classes)))
