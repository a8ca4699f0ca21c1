"""Images and volumes in slabs along their first axis, so that no more than some slabs are in memory."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from unet_cli.system.scratch import Kept, Scratch

SLAB = 2**21  # pixels of a slab, if a row, or slice, has no more
SLABS_READY = 2  # the last that were read


class Slabs:
    """An array (n, ...) whose slabs were put aside in order; read by slab or by rows. Arrays that are read are not to
    be changed."""

    def __init__(self, scratch: Scratch, slabs: Iterable[np.ndarray] = ()) -> None:
        self.tops = [0]  # the first row of each slab, and the end
        self._scratch = scratch
        self._kept: list[Kept] = []
        self._ready: OrderedDict[int, np.ndarray] = OrderedDict()
        self._rest: tuple[int, ...] = ()
        for slab in slabs:
            self.append(slab)

    def append(self, slab: np.ndarray) -> None:
        """Raises UserError where there is no space left."""
        self._rest = slab.shape[1:]
        self._kept.append(self._scratch.put(slab))
        self.tops.append(self.tops[-1] + len(slab))

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.tops[-1], *self._rest)

    @property
    def bounds(self) -> Iterator[tuple[int, int]]:
        """First row and end of each slab."""
        return pairwise(self.tops)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, number: int) -> np.ndarray:
        if number not in range(len(self)):
            raise IndexError(number)
        if number not in self._ready:
            while len(self._ready) >= SLABS_READY:
                self._ready.popitem(last=False)
            self._ready[number] = self._kept[number]()
        self._ready.move_to_end(number)
        return self._ready[number]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[number] for number in range(len(self)))

    def rows(self, first: int, end: int) -> np.ndarray:
        parts = [self[number][max(first - top, 0) : end - top] for number, top in self.between(first, end)]
        return joined(parts)

    def between(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """The slabs that hold these rows: number and first row."""
        begin = max(int(np.searchsorted(self.tops, first, "right")) - 1, 0)
        for number in range(begin, len(self)):
            if self.tops[number] >= end:
                return
            yield number, self.tops[number]

    def whole(self) -> np.ndarray:
        return joined(list(self))


def in_slabs(array: np.ndarray) -> Slabs:
    """An array that is in memory."""
    return Slabs(Scratch(), regrouped([array], slab_height(array.shape[1:])))


def joined(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Blocks of rows as one array; a single block is not copied."""
    parts = list(blocks)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def slab_height(sides: Sequence[int]) -> int:
    """The rows, or slices, of a slab. sides: of a row (W,), or slice (H, W)."""
    return max(SLAB // max(math.prod(sides), 1), 1)


def regrouped(blocks: Iterable[np.ndarray], height: int) -> Iterator[np.ndarray]:
    """The rows of blocks of any heights in blocks of `height`; the last block has the rest."""
    waiting: list[np.ndarray] = []
    buffered = 0
    for block in blocks:
        waiting.append(block)
        buffered += len(block)
        while buffered >= height:
            together = joined(waiting)
            yield together[:height]
            buffered -= height
            waiting = [together[height:]] if buffered else []
    if buffered:
        yield joined(waiting)
