"""Outlines of objects along the borders of their pixels.

A ring is a closed line of corners of pixels, (x, y), (0, 0) being the corner of the first pixel; the last corner isn't
repeated. Outer rings go clockwise on the screen, holes the other way. Where pixels of an object touch only at a corner,
its parts there have rings of their own that share this corner, and no ring visits a corner twice: filled by any usual
rule, the rings of an object give its pixels, and they are valid polygons (OGC Simple Features, 6.1.11).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np

from unet_cli.data.found import Window

EAST, SOUTH, WEST, NORTH = range(4)  # directions of a side, clockwise, with the object on its right

Part = list[np.ndarray]  # the outer ring, (n, 2), then its holes


@dataclass(frozen=True, eq=False)
class Rings:
    """Rings of many objects. points: (n, 2) x, y of all rings, one after the other. starts: (rings + 1,) where each
    begins. owners: the number of each ring's object; parts: of its part of the object, from 0. is_hole: of each.

    Rings are sorted by object, then part, the outer one first.
    """

    points: np.ndarray
    starts: np.ndarray
    owners: np.ndarray
    parts: np.ndarray
    is_hole: np.ndarray

    def __len__(self) -> int:
        return len(self.owners)

    def ring(self, number: int) -> np.ndarray:
        return self.points[self.starts[number] : self.starts[number + 1]]

    @property
    def ring_of_point(self) -> np.ndarray:
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def areas(self) -> np.ndarray:
        """(rings,) enclosed area, below 0 for holes."""
        following = np.arange(len(self.points)) + 1
        following[self.starts[1:] - 1] = self.starts[:-1]
        (x, y), (next_x, next_y) = self.points.T, self.points[following].T
        return np.add.reduceat(x * next_y - next_x * y, self.starts[:-1]) / 2 if len(self) else np.zeros(0)

    def of(self, owners: np.ndarray) -> Rings:
        """Those of these objects alone. owners: their numbers."""
        chosen = np.isin(self.owners, owners)
        points = self.points[chosen[self.ring_of_point]]
        starts = np.concatenate([[0], np.cumsum(np.diff(self.starts)[chosen])])
        return Rings(points, starts, self.owners[chosen], self.parts[chosen], self.is_hole[chosen])

    def by_object(self) -> dict[int, list[Part]]:
        """The parts of each object, by its number."""
        found: defaultdict[int, list[Part]] = defaultdict(list)
        for number, (owner, is_hole) in enumerate(zip(self.owners.tolist(), self.is_hole.tolist(), strict=True)):
            if is_hole:
                found[owner][-1].append(self.ring(number))
            else:
                found[owner].append([self.ring(number)])
        return found


def outlines(window: Window) -> Rings:
    """The rings of the objects in a window of a mask (H, W)."""
    rings = traced(window.numbers)
    return replace(rings, points=rings.points + np.array(window.origin[::-1]))


def joined(several: list[Rings]) -> Rings:
    """Rings of different objects together, sorted again."""
    if not several:
        none = np.zeros(0, np.int64)
        return Rings(np.zeros((0, 2), np.int64), np.zeros(1, np.int64), none, none, none > 0)
    lengths = np.concatenate([np.diff(one.starts) for one in several])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    points = np.concatenate([one.points for one in several])
    owners, parts, is_hole = (
        np.concatenate([getattr(one, name) for one in several]) for name in ("owners", "parts", "is_hole")
    )
    return _sorted(Rings(points, starts, owners, parts, is_hole))


def _sorted(rings: Rings) -> Rings:
    order = np.lexsort((rings.is_hole, rings.parts, rings.owners))
    lengths = np.diff(rings.starts)[order]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    places = np.arange(starts[-1]) + np.repeat(rings.starts[:-1][order] - starts[:-1], lengths)
    return Rings(rings.points[places], starts, rings.owners[order], rings.parts[order], rings.is_hole[order])


def traced(numbers: np.ndarray) -> Rings:
    """The rings of the objects in an array (H, W) of their numbers, 0 for background."""
    owner, start, end, direction = _sides(numbers)
    corners = (numbers.shape[0] + 1) * (numbers.shape[1] + 1)
    across = numbers.shape[1] + 1
    begins = (owner * corners + start[:, 1] * across + start[:, 0]) * 4 + direction
    order = np.argsort(begins)
    owner, start, end, direction, begins = owner[order], start[order], end[order], direction[order], begins[order]
    # The side that goes on where one ends; where two do, since pixels touch at that corner, the one to the right.
    wanted = owner * corners + end[:, 1] * across + end[:, 0]
    following = np.searchsorted(begins, wanted * 4)
    other = np.minimum(following + 1, len(begins) - 1)
    is_second = (begins[other] >> 2 == wanted) & (begins[following] & 3 != (direction + 1) & 3)
    following = np.where(is_second, other, following)
    cycle, order = _cycles(following)
    points, direction, ring = start[order], direction[order], cycle[order]
    starts = np.flatnonzero(np.append(True, ring[1:] != ring[:-1])) if len(ring) else np.zeros(0, np.int64)
    owners = owner[order][starts]
    points, direction, starts, owners = _split_where_they_touch(points, direction, starts, owners, across)
    none = np.zeros(len(owners), np.int64)
    rings = Rings(points, np.append(starts, len(points)), owners, none, none > 0)
    rings = replace(rings, is_hole=rings.areas() < 0)
    return _sorted(replace(rings, parts=_parts(rings, numbers, direction)))


def _sides(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The straight lines of all outlines: owner, start (x, y), end and direction."""
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    for is_upright, (ahead, back) in enumerate(((EAST, WEST), (NORTH, SOUTH))):
        lines = np.pad(numbers.T if is_upright else numbers, ((1, 1), (0, 0)))
        before, after = lines[:-1], lines[1:]
        differ = before != after
        # Of a horizontal line the object below has it on the right if it goes east; likewise to the north.
        for inside, direction in ((after, ahead), (before, back)):
            flat = np.flatnonzero(differ & (inside > 0))
            line, place = np.divmod(flat, inside.shape[1])
            owner = inside.ravel()[flat].astype(np.int64)
            same = (line[1:] == line[:-1]) & (place[1:] == place[:-1] + 1) & (owner[1:] == owner[:-1])
            first = np.flatnonzero(np.append(True, ~same)) if len(line) else np.zeros(0, np.int64)
            final = np.append(first[1:] - 1, len(line) - 1) if len(line) else first
            low, high = place[first], place[final] + 1
            ends = (low, high) if direction in (EAST, SOUTH) else (high, low)
            start, end = (np.stack((line[first], one) if is_upright else (one, line[first]), 1) for one in ends)
            found.append((owner[first], start, end, np.full(len(first), direction)))
    owners, starts, ends_at, directions = (np.concatenate(part) for part in zip(*found, strict=True))
    return owners, starts, ends_at, directions


def _cycles(following: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A permutation -> the lowest element of each one's cycle; and all elements, cycle by cycle, in their order.

    By pointer doubling: every round doubles the length of the way that is known.
    """
    count = np.arange(len(following))
    lowest, jump = count, following
    while True:
        lower = np.minimum(lowest, lowest[jump])
        if np.array_equal(lower, lowest):
            break
        lowest, jump = lower, jump[jump]
    is_last = following == lowest
    remaining, jump = (~is_last).astype(np.int64), np.where(is_last, count, following)
    while not np.array_equal(jump, further := jump[jump]):
        remaining, jump = remaining + remaining[jump], further
    return lowest, np.lexsort((-remaining, lowest))


def _split_where_they_touch(
    points: np.ndarray, direction: np.ndarray, starts: np.ndarray, owners: np.ndarray, across: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rings that visit a corner twice become several that visit it once."""
    lengths = np.diff(np.append(starts, len(points)))
    ring = np.repeat(np.arange(len(starts)), lengths)
    corner = points[:, 1] * across + points[:, 0]
    order = np.lexsort((corner, ring))
    is_twice = (ring[order][1:] == ring[order][:-1]) & (corner[order][1:] == corner[order][:-1])
    touching = np.unique(ring[order][1:][is_twice])
    if not len(touching):
        return points, direction, starts, owners
    places, sizes, numbers = [], [], []
    for number in touching.tolist():
        first = int(starts[number])
        for loop in _loops(corner[first : first + lengths[number]].tolist()):
            places.append(np.array(loop) + first)
            sizes.append(len(loop))
            numbers.append(owners[number])
    kept = ~np.isin(np.arange(len(starts)), touching)
    counts = np.concatenate([lengths[kept], sizes]).astype(np.int64)
    place = np.concatenate([np.flatnonzero(kept[ring]), *places])
    return (
        points[place],
        direction[place],
        np.cumsum(counts) - counts,
        np.concatenate([owners[kept], np.array(numbers, owners.dtype)]),
    )


def _loops(corners: list[int]) -> list[list[int]]:
    """The places of a ring's corners -> those of each of its loops, none of which has a corner twice."""
    loops, open_at, waiting = [], dict[int, int](), list[int]()
    for place, corner in enumerate(corners):
        if corner in open_at:
            begin = open_at[corner]
            loop, waiting = waiting[begin:], waiting[:begin]
            loops.append(loop)
            for one in loop:
                del open_at[corners[one]]
        open_at[corner] = len(waiting)
        waiting.append(place)
    return [*loops, waiting]


def _parts(rings: Rings, numbers: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """For each ring the part of its object that it bounds. Parts are connected at the sides of their pixels."""
    from scipy.ndimage import find_objects, label

    parts = np.zeros(len(rings), np.int64)
    outer = ~rings.is_hole
    several = np.flatnonzero(np.bincount(rings.owners[outer]) > 1)
    order = np.argsort(rings.owners, kind="stable")
    begins = np.searchsorted(rings.owners[order], several)
    ends = np.searchsorted(rings.owners[order], several, "right")
    boxes = find_objects(numbers) if len(several) else []
    for owner, begin, end in zip(several.tolist(), begins, ends, strict=True):
        own = order[begin:end]
        box = boxes[owner - 1]
        found, _ = label(numbers[box] == owner)
        corner = rings.starts[own]
        x, y = (rings.points[corner] - [box[1].start, box[0].start]).T
        turn = direction[corner]
        # The pixel on the right of the side that begins at the corner.
        parts[own] = found[y - np.isin(turn, (WEST, NORTH)), x - np.isin(turn, (SOUTH, WEST))] - 1
    return parts


def pixel_lines(ring: np.ndarray) -> np.ndarray:
    """An outer ring of corners -> the pixels along it, (n, 2) x, y: those at the ends of each straight line."""
    step = np.sign(np.roll(ring, -1, 0) - ring)
    right = np.stack([(step[:, 0] - step[:, 1] - 1) // 2, (step[:, 0] + step[:, 1] - 1) // 2], 1)
    first = ring + right
    last = np.roll(ring, -1, 0) - step + right
    pixels = np.stack([first, last], 1).reshape(-1, 2)
    return pixels[(pixels != np.roll(pixels, 1, 0)).any(1)] if len(np.unique(pixels, axis=0)) > 1 else pixels[:1]
