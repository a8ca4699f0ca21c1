"""The plain values that an annotation file is parsed to: shapes of each image, whatever the format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np

from unet_cli.errors import UserError

# Labels with a meaning of their own; no file can hold them, since names are printable.
IGNORED_LABEL = "\0ignored"
BACKGROUND_LABEL = "\0background"

OBJECT = "object"  # the class of shapes without a class

FARTHEST = 1e9  # pixels from the corner; whatever lies beyond is no coordinate

ARRAY = 120  # bytes of an object and of an array, beside its numbers

Item = TypeVar("Item")
Kind = Literal["parts", "holes", "outlined", "rectangle", "ellipse", "runs"]


class OtherFormat(UserError):
    """At a file that only looks as if it were of a format."""


@dataclass(frozen=True, eq=False)
class Runs:
    """A bitmap as run lengths, that of 0 first, over a box of `height` rows and `width` columns at (top, left).

    by_columns: runs go down the columns, as in COCO, and else along the rows.
    """

    lengths: np.ndarray
    height: int
    width: int
    top: int = 0
    left: int = 0
    by_columns: bool = False

    @classmethod
    def of(cls, bitmap: np.ndarray, top: int = 0, left: int = 0) -> Runs:
        """bitmap: (height, width) bool."""
        flat = bitmap.ravel()
        turns = np.flatnonzero(np.diff(flat, prepend=False))  # runs begin with what is outside
        lengths = np.diff(np.concatenate([[0], turns, [flat.size]]))
        return cls(lengths, bitmap.shape[0], bitmap.shape[1], top, left)

    def bitmap(self) -> np.ndarray:
        """(height, width) bool. The lengths add up to its area, see `checked`."""
        inside = np.repeat(np.arange(len(self.lengths)) % 2 == 1, self.lengths)
        return inside.reshape(self.width, self.height).T if self.by_columns else inside.reshape(self.height, self.width)

    def checked(self) -> Runs:
        """Itself. Raises UserError where the lengths don't make up the box."""
        total = int(self.lengths.sum())
        if total != self.height * self.width or (self.lengths < 0).any():
            raise UserError(
                f"has run lengths that add up to {total:,} pixels, where {self.width}x{self.height} are "
                f"{self.height * self.width:,}"
            )
        return self


@dataclass(frozen=True, eq=False)
class Shape:
    """One drawn object.

    label: the name of its class, or IGNORED_LABEL, or BACKGROUND_LABEL. rings: each (n, 2) float64, x and y in pixels
    of the image (or in shares of its sides, see Annotated). kind: how they are drawn, see polygons.py. runs: of the
    kind 'runs', which has no rings.
    """

    label: str
    kind: Kind
    rings: tuple[np.ndarray, ...] = ()
    runs: Runs | None = None


@dataclass(frozen=True, eq=False)
class Annotated:
    """What a file says of one image.

    size: (H, W) of the image, where the file says it. relative: coordinates are shares of the image's sides. problem:
    why no mask can be drawn, to be said of this image alone.
    """

    size: tuple[int, int] | None
    shapes: tuple[Shape, ...] = ()
    relative: bool = False
    problem: str = ""


@dataclass(frozen=True, eq=False)
class AnnotationFile:
    """A parsed file. images: by their names in the file. classes: names in the file's order, without background.

    counts: of shapes, by what they are called in their format. left_out: of what is not drawn, by reason. colours:
    0xRRGGBB of the classes, where the file has them. slices: of a file of one stack, the entries of `images` that hold
    the shapes of one page alone, by its number from 0.
    """

    images: Mapping[str, Annotated]
    classes: tuple[str, ...]
    counts: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    colours: Mapping[str, int] = field(default_factory=dict)
    slices: Mapping[int, str] = field(default_factory=dict)

    @cached_property
    def labels(self) -> frozenset[str]:
        """Of classes that are drawn."""
        found = {shape.label for one in self.images.values() for shape in one.shapes}
        return frozenset(found - {IGNORED_LABEL, BACKGROUND_LABEL})

    @cached_property
    def has_ignored(self) -> bool:
        return any(shape.label == IGNORED_LABEL for one in self.images.values() for shape in one.shapes)

    @cached_property
    def nbytes(self) -> int:
        """About what the shapes take in memory."""
        shapes = [shape for one in self.images.values() for shape in one.shapes]
        arrays = sum(ring.nbytes + ARRAY for shape in shapes for ring in shape.rings)
        runs = sum(shape.runs.lengths.nbytes + ARRAY for shape in shapes if shape.runs is not None)
        return arrays + runs + ARRAY * (len(shapes) + len(self.images))


def is_background(name: str) -> bool:
    """Whether a class's name says that it is what we call so."""
    return name.casefold() == "background"


def shapes_or_problem(
    items: Iterable[tuple[str, Item]], shape_of: Callable[[Item], Shape | Sequence[Shape] | None]
) -> tuple[list[tuple[Item, Shape]], str]:
    """The items that are drawn, each with its shape, and what is wrong with the first broken one, '' where none is.

    items: each with the words that its problem begins with. shape_of: None for an item that is left out, several for
    one of several classes; raises UserError.
    """
    found, problem = list[tuple[Item, Shape]](), ""
    for name, item in items:
        try:
            shapes = shape_of(item)
        except UserError as error:
            problem = problem or f"{name} {error}"
            continue
        if shapes is not None:
            found += [(item, shape) for shape in ([shapes] if isinstance(shapes, Shape) else shapes)]
    return found, problem


def size_of(height: object, width: object) -> tuple[int, int] | None:
    """(H, W), where both are numbers of pixels."""
    if isinstance(height, int) and isinstance(width, int) and 0 < height < FARTHEST and 0 < width < FARTHEST:
        return height, width
    return None


def ring_of(points: object) -> np.ndarray:
    """x, y, x, y, ... or [x, y], [x, y], ... -> (n, 2) float64. Raises UserError at what is no list of points."""
    try:
        with np.errstate(invalid="ignore"):  # numbers that are none, of files in bytes
            ring = np.array(points, np.float64)
        ring = ring.reshape(-1, 2)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError("has coordinates that are no pairs of numbers") from error
    if not (np.abs(ring) < FARTHEST).all():  # NaN is not either
        raise UserError("has coordinates that are not finite, or far beyond any image")
    return ring


def clipped_points(one: Annotated) -> int:
    """How many vertices lie outside of the image; beyond its far borders, where the file says its size."""
    height, width = (1, 1) if one.relative else one.size or (np.inf, np.inf)
    rings = [ring for shape in one.shapes for ring in shape.rings]
    if not rings:
        return 0
    x, y = np.concatenate(rings).T
    return int(np.count_nonzero((x < 0) | (y < 0) | (x > width) | (y > height)))
