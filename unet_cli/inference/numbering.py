"""Objects of class indices: connected components, grown from cores where these are known, and separated at necks.

An image comes in slabs, and no more than some of them are in memory. Components are exact, however the image is cut.
One that is to be divided is put together from its slabs and divided as a whole; so is one that is grown from cores, or,
where it is large, piece by piece: see `_grown`. Only necks of components whose box has more than WHOLE pixels stay.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from unet_cli.config.prediction import Cleaning
from unet_cli.data.cores import cores_in
from unet_cli.data.found import Objects, gathered
from unet_cli.data.labels import LabelMap
from unet_cli.data.numbered import Numbered, components_in, numbered_in
from unet_cli.data.objects import first_pixels
from unet_cli.data.slabs import Slabs, in_slabs
from unet_cli.errors import UserError
from unet_cli.inference.necks import SMALLEST_PAIR, parts_of
from unet_cli.system.scratch import Kept, Scratch

MAX_OBJECTS = 2**16 - 1
WHOLE = 2**26  # pixels of the largest box whose object is separated at its necks, which takes up to 70 bytes for each
AT_ONCE = 2**22  # pixels of the largest box that is grown as a whole

Divided = Sequence[np.ndarray]  # the pieces of an object: int32 numbers of its parts from 1, 0 elsewhere


def numbered_objects(
    indices: Slabs, cleaning: Cleaning, labels: LabelMap | None = None, scratch: Scratch | None = None
) -> Objects:
    """The objects of uint8 class indices ([D,] H, W), 0 being background, in reading order of their first pixels.

    An object has one class. With cleaning.split_touching, parts that are joined by necks become objects of their own,
    see necks.parts_of; their union is still exactly the foreground. labels: of the classes; where these overlap each is
    a layer by itself, and where cores are known, touching objects are told apart by them. Raises UserError where there
    is no space left for what is put aside.
    """
    scratch = scratch or Scratch()
    axes = len(indices.shape)
    if labels is not None and labels.overlapping:
        parts, unsplit = [], 0
        for number in labels.scored:
            regions = (labels.region(slab, number) * np.uint8(number) for slab in indices)
            part, large = _apart(components_in(regions, scratch, axes), cleaning, scratch)
            parts.append(part)
            unsplit += large
        return gathered(indices.shape, parts, True, unsplit)
    if labels is not None and labels.cores:
        return grown_objects(indices, cleaning, labels.without_cores, scratch)
    part, unsplit = _apart(components_in(indices, scratch, axes), cleaning, scratch)
    return gathered(indices.shape, [part], unsplit=unsplit)


def grown_objects(
    indices: Slabs, cleaning: Cleaning, classes: Callable[[np.ndarray], np.ndarray], scratch: Scratch
) -> Objects:
    """The objects of class indices with marked cores, each of one class. classes: indices -> the uint8 class of each
    pixel, 0 for background. Raises UserError where there is no space left."""
    axes = len(indices.shape)
    of_cores = (classes(slab) * cores_in(slab) for slab in indices)
    cores, unsplit = _apart(components_in(of_cores, scratch, axes), cleaning, scratch)
    whole = components_in(map(classes, indices), scratch, axes)
    return gathered(indices.shape, [_grown_from(cores, whole, scratch)], unsplit=unsplit)


def objects_of(pred: np.ndarray, cleaning: Cleaning, labels: LabelMap | None = None) -> np.ndarray:
    """Uint8 class indices ([D,] H, W) -> int32 of the same shape: background 0, the objects 1, 2, ... without gaps, in
    reading order of their first pixels: see numbered_objects. Of classes that overlap, each has numbers of its own,
    (classes, [D,] H, W)."""
    found = numbered_objects(in_slabs(pred), cleaning, labels)
    if labels is None or not labels.overlapping:
        return found.layers[0].whole()
    return np.stack([found.map_of(place, np.dtype(np.int32)).whole() for place in range(len(found.layers))])


def number_objects(pred: np.ndarray, cleaning: Cleaning, labels: LabelMap | None = None) -> np.ndarray:
    """The instance map: ([D,] H, W) uint16; see objects_of. Raises UserError for more objects than it can number."""
    found = numbered_objects(in_slabs(pred), cleaning, labels)
    return found.map_of(0, map_type(len(found))).whole()


def map_type(count: int, is_wide: bool = False) -> np.dtype[np.unsignedinteger]:
    """The type of an instance map. is_wide: whether more than 65,535 objects are numbered by 32 bits, as a TIFF holds;
    else they raise UserError."""
    if count > MAX_OBJECTS and not is_wide:
        raise UserError(
            f"the mask has {count:,} objects, and 16 bits number {MAX_OBJECTS:,} at most: "
            "remove the small ones with --remove-smaller PIXELS, or number them by 32 bits with --format tif"
        )
    return np.dtype(np.uint16 if count <= MAX_OBJECTS else np.uint32)


def _apart(numbered: Numbered, cleaning: Cleaning, scratch: Scratch) -> tuple[Numbered, int]:
    """Components, with cleaning.split_touching separated at their necks; and how many are too large for that."""
    if not cleaning.split_touching:
        return numbered, 0
    is_large = _box_sizes(numbered) > WHOLE
    candidates = (numbered.facts.areas >= SMALLEST_PAIR) & ~is_large
    return _divided(numbered, candidates, _at_necks, None, scratch), int(np.count_nonzero(is_large))


def _box_sizes(numbered: Numbered) -> np.ndarray:
    boxes = numbered.facts.boxes
    return (boxes[:, 1] - boxes[:, 0]).prod(1)


def _grown_from(cores: Numbered, whole: Numbered, scratch: Scratch) -> Numbered:
    """A component without a core, or with one, is an object; with several cores, each pixel is of the nearest."""
    # Cores lie within a component: one pixel of each says in which.
    owner_of = np.full(len(cores), -1)
    for labels, inside, core_ids, ids in zip(cores.labels, whole.labels, cores.ids, whole.ids, strict=True):
        values, places = first_pixels(labels)
        own = inside.ravel()[places]
        owner_of[core_ids[values[own > 0] - 1]] = ids[own[own > 0] - 1]
    several = np.bincount(owner_of[owner_of >= 0], minlength=len(whole)) > 1
    return _divided(whole, several, _grown, cores, scratch)


def _divided(
    numbered: Numbered,
    chosen: np.ndarray,
    divide: Callable[[Sequence[Kept]], Divided],
    marks: Numbered | None,
    scratch: Scratch,
) -> Numbered:
    """Objects of which some are divided into parts. chosen: bool, for each. divide: the pieces of its box, one from
    each slab -> its parts; a piece has the numbers of `marks`, 0 where there is none, and -1 outside of the object."""
    boxes, classes, count = numbered.facts.boxes, [numbered.facts.classes], len(numbered)
    bounds = list(numbered.labels.bounds)
    waiting: defaultdict[int, list[Kept]] = defaultdict(list)
    redrawn = dict[int, Kept]()
    drawn: defaultdict[int, list[Drawn]] = defaultdict(list)
    for number, (top, end) in enumerate(bounds):
        mine = np.unique(numbered.ids[number])
        mine = mine[chosen[mine]]
        if not len(mine):
            continue
        own = numbered.slab(number)
        values = None if marks is None else marks.slab(number)
        for one in mine.tolist():
            here = _within(boxes[one], top, end)
            marked = np.int32(0) if values is None else values[here]
            piece = np.where(own[here] == one + 1, marked, np.int32(-1))
            if boxes[one, 1, 0] > end:
                waiting[one].append(scratch.put(piece))
                continue
            parts = divide([*waiting.pop(one, ()), partial(np.asarray, piece)])
            further = max(int(part.max()) for part in parts) - 1
            if further:
                for at, part in enumerate(parts[:-1], number + 1 - len(parts)):
                    drawn[at].append(Drawn(_within(boxes[one], *bounds[at]), scratch.put(part), count))
                _draw(own[here], parts[-1], count)
                # The first part keeps the object's number, so that numbers stay without gaps.
                count += further
                classes.append(np.full(further, numbered.facts.classes[one]))
        redrawn[number] = scratch.put(own)
    if count == len(numbered):
        return numbered

    def slabs() -> Iterator[np.ndarray]:
        for number in range(len(bounds)):
            numbers = redrawn.pop(number)().copy() if number in redrawn else numbered.slab(number)
            for place, kept, before in drawn.pop(number, ()):
                _draw(numbers[place], kept(), before)
            yield numbers

    return numbered_in(slabs(), np.concatenate(classes), scratch, boxes.shape[2])


class Drawn(NamedTuple):
    """The parts of an object in a slab: their box there, and the number of objects before the second part."""

    place: tuple[slice, ...]
    parts: Kept
    before: int


def _draw(numbers: np.ndarray, parts: np.ndarray, before: int) -> None:
    further = parts > 1
    numbers[further] = parts[further] + np.int32(before - 1)


def _within(box: np.ndarray, top: int, end: int) -> tuple[slice, ...]:
    """The part of a box that lies in a slab."""
    first, last = box.tolist()
    rows = slice(max(first[0] - top, 0), min(last[0], end) - top)
    return (rows, *(slice(a, b) for a, b in zip(first[1:], last[1:], strict=True)))


# --- how one object is divided ---------------------------------------------------------------------------------------


def _at_necks(pieces: Sequence[Kept]) -> Divided:
    arrays = [piece() for piece in pieces]
    inside = np.concatenate(arrays) >= 0
    parts = np.zeros(inside.shape, np.int32)
    parts[inside] = parts_of(np.pad(inside, 1)) + 1
    return np.split(parts, np.cumsum([len(array) for array in arrays])[:-1])


def _grown(pieces: Sequence[Kept]) -> Divided:
    """Each pixel is of the nearest core. A large object is grown piece by piece."""
    shapes = [piece().shape for piece in pieces]
    if sum(map(math.prod, shapes)) <= AT_ONCE:
        whole = np.concatenate([piece() for piece in pieces])
        nearest = np.split(_nearest([lambda: whole], 0), np.cumsum([shape[0] for shape in shapes])[:-1])
    else:
        nearest = [_nearest(pieces, number) for number in range(len(pieces))]
    every = np.unique(np.concatenate([np.unique(one) for one in nearest]))
    every = every[every > 0]
    return [np.where(one > 0, np.searchsorted(every, one) + 1, 0).astype(np.int32) for one in nearest]


def _nearest(pieces: Sequence[Kept], number: int) -> np.ndarray:
    """The nearest core of each pixel of a piece, 0 outside. Found together with so many pieces around it that no core
    beyond them can be as near: the same as in all of them together."""
    reach = 1
    while (found := _nearest_within(pieces, number, reach)) is None:
        reach *= 2
    return found


def _nearest_within(pieces: Sequence[Kept], number: int, reach: int) -> np.ndarray | None:
    """The same with `reach` pieces on each side; None where that isn't enough."""
    from scipy.ndimage import distance_transform_edt

    first, end = max(number - reach, 0), min(number + reach + 1, len(pieces))
    window = [pieces[one]() for one in range(first, end)]
    marks = np.concatenate(window)
    if not (marks > 0).any():
        return None
    before = sum(map(len, window[: number - first]))
    rows = slice(before, before + len(window[number - first]))
    places = distance_transform_edt(marks <= 0, return_distances=False, return_indices=True)[:, rows]
    inside = marks[rows] >= 0
    row, *others = np.nonzero(inside)
    row += before
    distance = sum((place[inside] - own) ** 2 for place, own in zip(places, (row, *others), strict=True))
    beyond = np.full(len(row), np.iinfo(np.int32).max)  # rows up to the first that may hold another core
    if first > 0:
        beyond = np.minimum(beyond, row + 1)
    if end < len(pieces):
        beyond = np.minimum(beyond, len(marks) - row)
    if (distance >= beyond**2).any():
        return None
    return np.where(inside, marks[tuple(places)], np.int32(0))
