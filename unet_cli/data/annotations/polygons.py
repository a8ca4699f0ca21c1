"""Shapes -> mask: class indices of one image in one pass, the later shape on top.

Two ways of drawing, since tools differ in what a coordinate is:

'parts' and 'holes' (COCO, YOLO, CVAT): (0, 0) is the corner of the first pixel, and a pixel belongs to a ring where its
centre, (x + 0.5, y + 0.5), lies inside. To the pixel this is `rleFrPoly` of pycocotools (cocoapi, common/maskApi.c):
vertices are rounded to fifths of a pixel, and within a ring the even-odd rule holds. The rings of 'parts' are united,
those of 'holes' follow the even-odd rule together. Unlike there, only what crosses the columns of the image is
computed, so that coordinates far outside cost nothing.

'outlined', 'rectangle' and 'ellipse' (labelme): (0, 0) is the centre of the first pixel, and the outline belongs to the
shape, as labelme itself draws by Pillow (labelme/utils/shape.py: outline=1, fill=1): a square from 1 to 3 is 3 x 3
pixels.

Arrays are (W, H) inside, since pycocotools fills columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise

import numpy as np
from PIL import Image, ImageDraw

from unet_cli.config.model import IGNORED
from unet_cli.data.annotations.shapes import BACKGROUND_LABEL, IGNORED_LABEL, Annotated, Shape
from unet_cli.errors import UserError

FIFTHS = 5  # parts of a pixel that vertices are rounded to
MAX_CROSSINGS = 20_000_000  # of edges and columns, of one image
PIXELS_AT_ONCE = 2**22  # that are painted
MAX_TIMES = 4  # as large as its image a bitmap may be
LAST_BIT = 31
FAR = 100_000.0  # pixels outside of the image, beyond which Pillow need not look

Claim = tuple[np.ndarray, np.ndarray]  # places in a flat (W, H) array, and the class index that is to be there


def drawn(one: Annotated, size: tuple[int, int], index_of: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """The mask (H, W) uint8, the last shape on top; and (H, W) uint32 all classes of each pixel, bit k - 1 for class k.

    From the 32nd on classes share the last bit. size: (H, W) of the image. index_of: class indices by label. Ignored
    areas are drawn first: where an object is known, it counts. Raises UserError where the shapes can't be drawn.
    """
    height, width = size
    shapes = sorted(one.shapes, key=lambda shape: shape.label != IGNORED_LABEL)
    scale = np.array([width, height], np.float64) if one.relative else np.ones(2)
    values = np.zeros(width * height, np.uint8)
    sets = np.zeros(values.shape, np.uint32)
    for places, classes in _claims(shapes, size, scale, {**index_of, IGNORED_LABEL: IGNORED, BACKGROUND_LABEL: 0}):
        values[places] = classes  # of a place that comes twice the last one counts
        _add_to_sets(sets, places, classes)
    return _image_of(values, size), _image_of(sets, size)


def _add_to_sets(sets: np.ndarray, places: np.ndarray, classes: np.ndarray) -> None:
    """Background takes all classes away."""
    borders = np.flatnonzero(np.diff(classes == 0)) + 1
    for first, end in pairwise([0, *borders.tolist(), len(classes)]):
        claimed, these = places[first:end], classes[first:end]
        for index in np.flatnonzero(np.bincount(these)).tolist():
            if index == 0:
                sets[claimed] = 0
            elif index != IGNORED:
                sets[claimed[these == index]] |= np.uint32(1 << min(index - 1, LAST_BIT))


def _image_of(flat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    return np.ascontiguousarray(flat.reshape(width, height).T)


def _claims(
    shapes: Sequence[Shape], size: tuple[int, int], scale: np.ndarray, index_of: Mapping[str, int]
) -> Iterator[Claim]:
    """What the shapes claim, in their order; those whose pixel centres decide many at a time."""
    for is_filled, group in groupby(shapes, lambda shape: shape.kind in ("parts", "holes")):
        several = list(group)
        classes = np.array([index_of[shape.label] for shape in several], np.uint8)
        if is_filled:
            yield from _filled(several, classes, size, scale)
            continue
        for shape, index in zip(several, classes, strict=True):
            places = _run_places(shape, size) if shape.kind == "runs" else _pillow_places(shape, size)
            yield places, np.full(places.shape, index, np.uint8)


# --- by the centres of pixels ----------------------------------------------------------------------------------------


def _filled(shapes: Sequence[Shape], classes: np.ndarray, size: tuple[int, int], scale: np.ndarray) -> Iterator[Claim]:
    """The pixels whose centres lie inside."""
    rings: list[np.ndarray] = []
    groups: list[int] = []
    owners: list[int] = []
    for number, shape in enumerate(shapes):
        for ring in shape.rings:
            if shape.kind == "parts" or not owners or owners[-1] != number:
                owners.append(number)  # one for each ring of parts, and one for all rings with holes
            rings.append(ring * scale)
            groups.append(len(owners) - 1)
    if not rings:
        return
    starts, ends, group = _spans(rings, np.array(groups), size)
    owner = classes[np.array(owners)[group]]
    lengths = ends - starts
    cuts = np.searchsorted(np.cumsum(lengths), np.arange(PIXELS_AT_ONCE, int(lengths.sum()), PIXELS_AT_ONCE))
    for first, last in pairwise([0, *cuts.tolist(), len(starts)]):
        part = lengths[first:last]
        before = np.cumsum(part) - part
        places = np.arange(int(part.sum())) + np.repeat(starts[first:last] - before, part)
        yield places, np.repeat(owner[first:last], part)


def _spans(
    rings: Sequence[np.ndarray], groups: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs of pixels inside, as first and end place of a flat (W, H) array, and the group of each; sorted by group.
    groups: of each ring, ascending; rings of one group follow the even-odd rule together."""
    height, width = size
    counts = np.array([len(ring) for ring in rings])
    whole = (FIFTHS * np.concatenate(rings) + 0.5).astype(np.int64)  # towards 0, as C converts
    following = np.arange(len(whole)) + 1
    lasts = np.cumsum(counts) - 1
    following[lasts] = lasts - counts + 1
    edge, column, row = _crossings(whole, whole[following], size)
    of_ring = np.repeat(np.arange(len(rings)), counts)
    room = height * width + 1
    keys = np.sort(groups[of_ring[edge]] * room + column * height + row)
    starts, ends = keys[0::2], keys[1::2]
    is_run = ends > starts
    return starts[is_run] % room, ends[is_run] % room, starts[is_run] // room


def _crossings(a: np.ndarray, b: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where edges from a to b, (n, 2) in fifths of a pixel, cross the centres of columns: edge, column, and the first
    row whose centre lies beyond. Raises UserError where there are too many."""
    height, width = size
    steep = np.abs(b[:, 0] - a[:, 0]) < np.abs(b[:, 1] - a[:, 1])
    swap = np.where(steep, a[:, 1] > b[:, 1], a[:, 0] > b[:, 0])[:, None]
    a, b = np.where(swap, b, a), np.where(swap, a, b)
    low, high = np.minimum(a[:, 0], b[:, 0]), np.maximum(a[:, 0], b[:, 0])
    # The centre of column k lies between its fifths 5k + 2 and 5k + 3.
    first, end = np.maximum(-((2 - low) // FIFTHS), 0), np.minimum((high - 3) // FIFTHS + 1, width)
    number = np.maximum(end - first, 0)
    if number.sum() > MAX_CROSSINGS:
        raise UserError(f"has outlines that cross {int(number.sum()):,} columns of pixels: simplify them")
    edge = np.repeat(np.arange(len(a)), number)
    column = np.arange(len(edge)) - np.repeat(np.cumsum(number) - number, number) + first[edge]
    target = FIFTHS * column + 2
    (x, y), (dx, dy) = a[edge].T, (b - a)[edge].T
    steep = steep[edge]
    slope = np.where(steep, dx, dy) / np.where(steep, dy, dx)
    flat = target - x
    low_row = np.minimum(_rounded(y, slope, flat), _rounded(y, slope, flat + 1))
    low_row = np.where(steep, _before_turn(x, slope, target) + y, low_row)
    row = np.ceil(np.clip((low_row + 0.5) / FIFTHS - 0.5, 0, height)).astype(np.int64)
    return edge, column, row


def _rounded(start: np.ndarray, slope: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Where a line is after so many steps, as C rounds it."""
    return np.trunc(start + slope * steps + 0.5)


def _before_turn(x: np.ndarray, slope: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Of steep edges the last step before x gets from one side of target + 0.5 to the other."""
    with np.errstate(divide="ignore", invalid="ignore"):
        step = np.nan_to_num(np.floor((target + 0.5 - x) / slope))
    for _ in range(2):  # the division may be off by one at a tie
        step = np.where(_has_turned(x, slope, target, step), step - 1, step)
    for _ in range(2):
        step = np.where(_has_turned(x, slope, target, step + 1), step, step + 1)
    return step


def _has_turned(x: np.ndarray, slope: np.ndarray, target: np.ndarray, step: np.ndarray) -> np.ndarray:
    place = _rounded(x, slope, step)
    return np.where(slope > 0, place > target, place <= target)


# --- bitmaps, and what Pillow draws ----------------------------------------------------------------------------------


def _run_places(shape: Shape, size: tuple[int, int]) -> np.ndarray:
    """Raises UserError at a bitmap that is not of the image, or too large to be of a part of it."""
    runs = shape.runs
    assert runs is not None
    is_whole = runs.by_columns  # COCO's are of whole images
    if (is_whole and (runs.height, runs.width) != size) or runs.height * runs.width > MAX_TIMES * size[0] * size[1]:
        raise UserError(f"has run lengths of {runs.width}x{runs.height} pixels, in an image of {size[1]}x{size[0]}")
    return _places(runs.bitmap(), runs.top, runs.left, size)


def _pillow_places(shape: Shape, size: tuple[int, int]) -> np.ndarray:
    """Where Pillow draws the one ring: an outline, or opposite corners of a rectangle or of an ellipse's box."""
    height, width = size
    ring = np.clip(shape.rings[0], -FAR, [width + FAR, height + FAR])
    left, top = np.clip(np.floor(ring.min(0)).astype(int), 0, [width, height])
    right, bottom = np.clip(np.ceil(ring.max(0)).astype(int) + 1, 0, [width, height])
    if left >= right or top >= bottom:
        return np.zeros(0, np.int64)
    image = Image.new("L", (int(right - left), int(bottom - top)))
    points = list(map(tuple, (ring - [left, top]).tolist()))
    draw = ImageDraw.Draw(image)
    if shape.kind == "outlined":
        draw.polygon(points, fill=1, outline=1)
    else:
        (draw.rectangle if shape.kind == "rectangle" else draw.ellipse)(points, fill=1, outline=1)
    return _places(np.asarray(image) > 0, int(top), int(left), size)


def _places(bitmap: np.ndarray, top: int, left: int, size: tuple[int, int]) -> np.ndarray:
    """Of (h, w) bool at (top, left) the places in a flat (W, H) array; what lies outside is left out."""
    rows, columns = np.nonzero(bitmap)
    rows, columns = rows + top, columns + left
    inside = (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
    return columns[inside] * size[0] + rows[inside]
