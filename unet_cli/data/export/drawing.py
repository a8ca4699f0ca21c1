"""One image with its objects, as all writers take it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from unet_cli.data.found import Objects
from unet_cli.data.outline import Part, outlines
from unet_cli.data.simplify import simplified

MAX_PRIM = 64  # rings that are joined one to the next; more are all joined to the first


@dataclass(frozen=True, eq=False)
class Drawing:
    """image: the name or path of the file, as the format is to state it. names: of the classes by index, the background
    first; colours: (red, green, blue) of each. tolerance: see simplify.simplified. scores: (n,) of the objects, None
    where there are none. ignored: (H, W) bool, pixels that are to count for nothing."""

    image: str
    objects: Objects
    names: Sequence[str]
    colours: Sequence[tuple[int, int, int]]
    tolerance: float = 0.5
    scores: np.ndarray | None = None
    ignored: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.objects.shape
        return height, width

    @cached_property
    def parts(self) -> dict[int, list[Part]]:
        """The simplified outlines of each object, by its number."""
        found: dict[int, list[Part]] = {}
        for window in self.objects.windows():
            found |= simplified(window, outlines(window), self.tolerance).by_object()
        return dict(sorted(found.items()))

    def exact(self) -> Iterator[tuple[int, list[Part]]]:
        """The number and the outlines of each object."""
        for window in self.objects.windows():
            yield from outlines(window).by_object().items()

    def name_of(self, number: int) -> str:
        """The class of an object."""
        return self.names[int(self.objects.classes[number - 1])]

    def figures(self, number: int) -> dict[str, Any]:
        """Score, if there is one, and area in pixels of an object, as JSON values."""
        score = {} if self.scores is None else {"score": round(float(self.scores[number - 1]), 4)}
        return score | {"area": int(self.objects.areas[number - 1])}


def plain_points(ring: np.ndarray) -> list[list[float]]:
    """A ring as JSON values, whole numbers where it has no others."""
    whole = ring.astype(np.int64)
    points: list[list[float]] = (whole if (whole == ring).all() else ring).tolist()
    return points


def bridged(rings: Sequence[np.ndarray]) -> np.ndarray:
    """Rings as one, each joined to the nearest corner of those before it by a line there and back."""
    from scipy.spatial import cKDTree

    done, *waiting = rings
    tree_of = done
    near = [(np.inf, 0, 0, 0)] * len(waiting)  # distance, ring that it is joined to, its corner there, own corner
    joined_to: list[tuple[np.ndarray, list[tuple[int, int, int]]]] = [(done, [])]
    while waiting:
        if len(joined_to) == 1 or len(rings) <= MAX_PRIM:
            tree = cKDTree(tree_of)
            for place, ring in enumerate(waiting):
                distance, corner = tree.query(ring)
                own = int(distance.argmin())
                near[place] = min(near[place], (float(distance[own]), len(joined_to) - 1, int(corner[own]), own))
        best = min(range(len(waiting)), key=lambda place: near[place])
        _, to, corner, own = near.pop(best)
        tree_of = waiting.pop(best)
        joined_to.append((tree_of, []))
        joined_to[to][1].append((corner, len(joined_to) - 1, own))
    return _walked(joined_to)


def _walked(rings: list[tuple[np.ndarray, list[tuple[int, int, int]]]]) -> np.ndarray:
    """Round the first ring, and at the corner of each bridge round the ring at its other end. rings: each with its
    bridges: own corner, the other ring, its corner."""
    done: dict[int, np.ndarray] = {}
    begins = {other: corner for _, bridges in rings for _, other, corner in bridges}
    for number in reversed(range(len(rings))):  # those that are joined to a ring come after it
        ring, bridges = rings[number]
        begin = begins.get(number, 0)
        turned = np.roll(ring, -begin, 0)
        pieces, last = [], 0
        for at, other in sorted(((corner - begin) % len(ring), other) for corner, other, _ in bridges):
            pieces += [turned[last : at + 1], done[other]]
            last = at  # the corner again, after the way back
        pieces.append(turned[last:])
        closing = turned[:1] if number else turned[:0]  # the ring's own first corner, before the way back
        done[number] = np.concatenate([*pieces, closing])
    return done[0]
