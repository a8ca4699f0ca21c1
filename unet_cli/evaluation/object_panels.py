"""Pictures of what became of the objects of an image: the part with the most errors, enlarged, with the outlines of the
true and of the predicted objects in the colours of their fates."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from unet_cli.data.imagefile import read_image
from unet_cli.data.nearest import nearest
from unet_cli.data.pictures import CUT, averaged, stretched, to_rgb, visible
from unet_cli.data.source import Source
from unet_cli.evaluation.panels import jpeg
from unet_cli.metrics.objects import Side, compare_objects

SIDE = 440  # pixels of the longer side of a picture
ACROSS = 10  # objects of median size that it shows side by side
MIN_WINDOW = 48  # pixels of the image
MAX_ZOOM = 8
STEPS = 12  # places of the window that are tried along each axis
WIDTH = 2  # pixels of an outline
CASING, SHADE = 1, 0.35  # pixels beside an outline that are darkened, so that it is seen on any image
TINT = 0.28  # of an area

FOUND, LOST, SPLIT, MERGED = 1, 2, 3, 4  # fates; a lost object is missed if it is true, and false if it is predicted

# Of Okabe and Ito, "Color Universal Design" (2008), distinguishable for colour-blind people, as in
# ERROR_COLOURS. Splits and merges are filled too, so that no two kinds in one picture differ in hue alone.
FATE_COLOURS = {
    "found": (222, 222, 222),
    "missed": (230, 159, 0),
    "false": (86, 180, 233),
    "split": (0, 158, 115),
    "merged": (240, 228, 66),
}
TRUE_COLOURS, PRED_COLOURS = (
    np.array([(0, 0, 0), *(FATE_COLOURS[fate] for fate in ("found", lost, "split", "merged"))], np.float32)
    for lost in ("missed", "false")
)


@dataclass(frozen=True)
class ObjectPanels:
    """JPEG files of one part of an image: as it is, with its true and with its predicted objects.

    window: (top, left, height, width) of the part in pixels; whole: whether it is the whole image. zoom: pixels of the
    pictures for each of the image. slice: of a volume, the slice that is shown, counted from 0.
    """

    image: bytes
    true: bytes
    pred: bytes
    window: tuple[int, int, int, int]
    whole: bool
    zoom: float
    slice: int | None = None


@dataclass(frozen=True)
class Packed:
    """An array, compressed."""

    content: bytes
    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, values: np.ndarray) -> Packed:
        if values.dtype.itemsize > 2 and values.max(initial=0) < 2**16:
            values = values.astype(np.uint16)
        return cls(zlib.compress(values.tobytes(), 1), values.shape, values.dtype.str)

    @property
    def values(self) -> np.ndarray:
        return np.frombuffer(zlib.decompress(self.content), self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class Pictured:
    """What is kept of an image to draw its objects later: most images of a set are never shown.

    layers: object numbers of the truth and of the prediction, of each class. ignored: bool, where pixels are.
    """

    image: Source
    keep_alpha: bool
    layers: tuple[tuple[Packed, Packed], ...]
    ignored: Packed | None = None

    def draw(self) -> ObjectPanels:
        """Read the image again, and draw. Raises UserError."""
        pixels = read_image(self.image, self.keep_alpha)
        counted = True if self.ignored is None else ~self.ignored.values
        return draw_objects(pixels, [(true.values * counted, pred.values * counted) for true, pred in self.layers])


def draw_objects(pixels: np.ndarray, layers: Sequence[tuple[np.ndarray, np.ndarray]]) -> ObjectPanels:
    """(C, *spatial) pixels as in the file; object numbers of truth and prediction, *spatial, of each class -> files for
    the report.

    What is shown of an image with many objects is the window with the most errors, of a volume in the slice with the
    most of them.
    """
    fates = [_fates(*layer) for layer in layers]
    place = None
    if pixels.ndim == 4:
        errors = sum(np.count_nonzero(fate > FOUND, axis=(1, 2)) for both in fates for fate in both)
        any_object = sum(np.count_nonzero(fate, axis=(1, 2)) for both in fates for fate in both)
        place = int(np.argmax(errors if np.any(errors) else any_object))
        pixels = pixels[:, place]
        layers = [(true[place], pred[place]) for true, pred in layers]
        fates = [(true[place], pred[place]) for true, pred in fates]
    window = window_of(layers, fates)
    top, left, height, width = window
    cut = (slice(top, top + height), slice(left, left + width))
    zoom = min(SIDE / max(height, width), MAX_ZOOM)
    size = max(1, round(height * zoom)), max(1, round(width * zoom))
    shown = to_rgb(_resized(pixels[:, *cut], *size))
    pictures = [shown, shown.copy(), shown.copy()]
    for number, fate in zip(layers, fates, strict=True):
        for picture, one, kinds, colours in zip(pictures[1:], number, fate, (TRUE_COLOURS, PRED_COLOURS), strict=True):
            _outline(picture, nearest(one[cut], *size), nearest(kinds[cut], *size), colours)
    whole = (height, width) == pixels.shape[1:]
    image, true, pred = (jpeg(picture, sharp=True) for picture in pictures)
    return ObjectPanels(image, true, pred, window, whole, zoom, place)


def window_of(
    layers: Sequence[tuple[np.ndarray, np.ndarray]], fates: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the part of (H, W) that is shown: ACROSS objects wide, where most pixels are of
    objects that are not simply found, those of splits and merges counting twice."""
    sides = layers[0][0].shape
    areas = np.concatenate([np.unique(one[one > 0], return_counts=True)[1] for both in layers for one in both])
    wanted = max(MIN_WINDOW, round(ACROSS * float(np.sqrt(np.median(areas))))) if areas.size else max(sides)
    height, width = (min(side, wanted) for side in sides)
    every = [fate for both in fates for fate in both]
    weights = np.sum([(fate > FOUND).astype(np.int32) + (fate > LOST) for fate in every], axis=0)
    if not weights.any():
        weights = np.sum([(fate > 0).astype(np.int32) for fate in every], axis=0)
    total = np.pad(np.cumsum(np.cumsum(weights, 0, np.int64), 1), ((1, 0), (1, 0)))
    tops, lefts = (
        np.unique(np.linspace(0, side - part, STEPS).round().astype(int))
        for side, part in zip(sides, (height, width), strict=True)
    )
    rows, columns = np.ix_(tops, lefts)
    within = total[rows + height, columns + width] - total[rows, columns + width]
    within += total[rows, columns] - total[rows + height, columns]
    # Of several windows that hold as much, the one around the middle of it.
    middle = [np.average(np.arange(side), weights=weights.sum(1 - axis) + 1e-9) for axis, side in enumerate(sides)]
    off = np.hypot(tops[:, None] + height / 2 - middle[0], lefts + width / 2 - middle[1])
    row, column = np.unravel_index(np.where(within == within.max(), off, np.inf).argmin(), within.shape)
    return int(tops[row]), int(lefts[column]), height, width


def _fates(true: np.ndarray, pred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Object numbers -> uint8 of the same shape: 0 for background, and the fates."""
    found = compare_objects(pred, true)
    of_true = _table(found.true, is_split=found.true.is_shared, is_merged=found.true.shares)
    of_pred = _table(found.pred, is_split=found.pred.shares, is_merged=found.pred.is_shared)
    return of_true(true), of_pred(pred)


def _table(side: Side, is_split: np.ndarray, is_merged: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Look up the fate of each pixel's object."""
    fates = np.select([is_merged, is_split, side.is_matched], [MERGED, SPLIT, FOUND], LOST).astype(np.uint8)
    table, numbers = np.append(np.uint8(0), fates), np.append(0, side.numbers)
    return lambda mask: table[np.searchsorted(numbers, mask)]


def _resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """(C, h, w) pixels as in the file -> (1 or 3, height, width) uint8, with contrast stretched: averaged if it is made
    smaller, else interpolated."""
    if height * width <= pixels[0].size:
        return stretched(averaged(pixels, height, width), CUT)
    own = stretched(averaged(pixels, *pixels.shape[1:]), CUT)
    planes = [Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC) for plane in visible(own)]
    return np.stack([np.asarray(plane) for plane in planes])


def _outline(picture: np.ndarray, numbers: np.ndarray, fates: np.ndarray, colours: np.ndarray) -> None:
    """Draw the outlines of objects inside them on (H, W, 3) uint8, in place: (H, W) object numbers, their fates, and
    the colour of each fate."""
    inside = numbers > 0
    line = _near_border(numbers, WIDTH) & inside
    beside = (_near_border(numbers, WIDTH + CASING) & ~line) | (_near_border(numbers, CASING) & ~inside)
    filled = inside & ~line & (fates >= SPLIT)
    picture[filled] = (1 - TINT) * picture[filled] + TINT * colours[fates[filled]]
    picture[beside] = SHADE * picture[beside]
    picture[line] = colours[fates[line]]


def _near_border(numbers: np.ndarray, width: int) -> np.ndarray:
    """(H, W) bool: pixels with another number at most `width` rows and columns away, within the picture."""
    from scipy.ndimage import maximum_filter, minimum_filter

    lowest, highest = (of(numbers, 2 * width + 1, mode="nearest") for of in (minimum_filter, maximum_filter))
    return lowest != highest
