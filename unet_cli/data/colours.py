"""Drawing colours of classes and errors for all pictures, overlays and reports.

Classes are drawn in the colours of the masks themselves, as far as these are distinguishable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import TypeAlias

import numpy as np

from unet_cli.data.labels import CLASS_COLOURS, LabelMap, alone

Colour: TypeAlias = tuple[int, int, int]  # red, green, blue, 0 to 255

OUTLINE = (255, 0, 255)  # magenta: rare in microscopy, radiology and on metal
WHITE = (255, 255, 255)
IGNORED_COLOUR = (128, 128, 128)

# The kinds of pixels in an error panel; a downsampled pixel shows the last of its kinds. Orange, blue and purple of
# Okabe and Ito, "Color Universal Design" (2008), are distinguishable for colour-blind people.
ERROR_COLOURS: dict[str, Colour] = {
    "background": (18, 18, 18),
    "ignored": (58, 58, 66),
    "right": (122, 122, 122),
    "false": (86, 180, 233),
    "missed": (230, 159, 0),
    "wrong class": (204, 121, 167),
}
MARKS = ("false", "missed", "wrong class")  # the kinds that must stand out
# Alternatives if a class has one of their colours: the rest of Okabe and Ito's, and corners of the RGB cube.
FURTHER_MARKS = (
    (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (255, 0, 255), (0, 255, 255), (0, 255, 0), (255, 0, 0),
    (90, 90, 255), (255, 255, 255),
)  # fmt: skip

# Minimum distances in CIE L*a*b* (CIE 1976, D65); 2 is just noticeable side by side.
CLASSES_APART = 15.0
MARKS_APART = 30.0
COLOURLESS = 12.0  # maximum chroma (distance from the gray axis) of colours that count as gray
DARK = 20.0  # lightness, 0 to 100


@dataclass(frozen=True)
class Colours:
    """The drawing colours of a label map's classes.

    names: of the classes. areas: the fill colour of each class. lines: the outline colour of each class. errors: the
    colour of each kind in ERROR_COLOURS. replaced: classes that are not drawn in the masks' own colours, which are
    indistinguishable or invisible. background: whether the first class is background. ignored: whether masks have
    ignored pixels; areas show them in IGNORED_COLOUR. overlapping: whether class indices are sets of classes.
    """

    names: tuple[str, ...]
    areas: tuple[Colour, ...]
    lines: tuple[Colour, ...]
    errors: dict[str, Colour]
    replaced: frozenset[int] = frozenset()
    background: bool = True
    ignored: bool = False
    overlapping: bool = False

    @property
    def indices(self) -> int:
        """The number of different class indices."""
        return 2 ** (len(self.names) - 1) if self.overlapping else len(self.names)

    def layers(self, indices: np.ndarray) -> list[np.ndarray]:
        """Class indices in which no class hides another: themselves, or where classes overlap those of each class,
        together with what is ignored."""
        if not self.overlapping:
            return [indices]
        of_each = ((number, alone(indices, number)) for number in range(1, len(self.names)))
        return [np.where(one == 1, np.uint8(number), one) for number, one in of_each]

    def area_palette(self) -> np.ndarray:
        """(256, 3) uint8: the fill colour of each class index, of a set of classes their mean; IGNORED_COLOUR for all
        others."""
        if not self.overlapping:
            return _table(self.areas)
        held = np.arange(1, self.indices)[:, None] >> np.arange(len(self.names) - 1) & 1
        mixed = held @ np.array(self.areas[1:], float) / held.sum(1, keepdims=True)
        return _table([self.areas[0], *mixed.round().astype(int)])

    def line_palette(self) -> np.ndarray:
        """(256, 3) uint8: the outline colour of each class index; IGNORED_COLOUR for all others."""
        return _table(self.lines)

    def area_legend(self) -> list[tuple[str, Colour]]:
        """Text and colour of all that a picture of a mask may show."""
        return [*self._entries(self.areas, 0), *([("ignored", IGNORED_COLOUR)] if self.ignored else [])]

    def line_legend(self) -> list[tuple[str, Colour]]:
        """Text and colour of outlines; the first class has none."""
        return list(self._entries(self.lines, 1))

    def _entries(self, colours: Sequence[Colour], first: int) -> Iterator[tuple[str, Colour]]:
        for index in range(first, len(self.names)):
            remark = " (not in its own colour)" if index in self.replaced else ""
            yield self.names[index] + remark, colours[index]


@lru_cache(maxsize=16)
def colours_of(labels: LabelMap) -> Colours:
    """Choose the drawing colours of a label map's classes.

    Masks in colours, or with a coloured palette, use their own. A class that is indistinguishable from an earlier one,
    or from ignored pixels, gets the colour of CLASS_COLOURS that is farthest from all others. Masks without colours: a
    single class is white, several use CLASS_COLOURS. White, gray or black outlines are invisible on an image, so a
    single class without a colour is outlined in OUTLINE, and so are dark ones of several. The colours of error marks
    keep a distance from those of the classes.
    """
    own = _own_colours(labels)
    reserved = [IGNORED_COLOUR] if labels.ignore is not None else []
    areas, replaced = _distinguishable(own, reserved) if own else (_default_colours(labels), frozenset[int]())
    lightness, hue = _lab(areas)[:, 0], _lab(areas)[:, 1:]
    unseen = lightness < DARK if len(areas) > 2 else np.hypot(*hue.T) < COLOURLESS
    lines = tuple(OUTLINE if lost else colour for colour, lost in zip(areas, unseen.tolist(), strict=True))
    seen = set(areas[int(labels.background) :]) | set(areas if own else ())
    is_ignoring = labels.ignore is not None
    marks = _marks(sorted(seen))
    return Colours(labels.names, areas, lines, marks, replaced, labels.background, is_ignoring, labels.overlapping)


def distance(colours: Sequence[Colour], others: Sequence[Colour]) -> np.ndarray:
    """(len(colours), len(others)): perceptual distances, 0 to about 150; see CLASSES_APART."""
    return np.linalg.norm(_lab(colours)[:, None] - _lab(others)[None], axis=-1)


def _own_colours(labels: LabelMap) -> list[Colour] | None:
    """The colour of each class in the masks, as they are or as `unet` writes them; None if their foreground is only
    white, gray or black."""
    if labels.kind == "colours":
        found = labels.decode(np.arange(labels.num_classes))
    elif labels.written_palette is None:
        return None
    else:
        found = np.reshape(labels.written_palette, (-1, 3))[list(labels.values)]
    own = [(int(red), int(green), int(blue)) for red, green, blue in found]
    return own if (np.hypot(*_lab(own[1:])[:, 1:].T) >= COLOURLESS).any() else None


def _default_colours(labels: LabelMap) -> tuple[Colour, ...]:
    if labels.num_classes == 2:
        return CLASS_COLOURS[0], WHITE
    further = CLASS_COLOURS[1:]
    return CLASS_COLOURS[0], *(further[index % len(further)] for index in range(labels.num_classes - 1))


def _distinguishable(own: Sequence[Colour], reserved: Sequence[Colour]) -> tuple[tuple[Colour, ...], frozenset[int]]:
    """The colours, some of them replaced, and the indices of those. Once CLASS_COLOURS has no distinguishable colour
    left, the remaining classes keep theirs."""
    chosen, replaced = list[Colour](), set[int]()
    for index, colour in enumerate(own):
        others = [*reserved, *chosen]
        if others and (nearest := distance([colour], others).min()) < CLASSES_APART:
            free = distance(CLASS_COLOURS[1:], [*others, *own[index + 1 :]]).min(1)
            if free.max() > max(nearest, CLASSES_APART):
                colour = CLASS_COLOURS[1 + int(free.argmax())]
                replaced.add(index)
        chosen.append(colour)
    return tuple(chosen), frozenset(replaced)


def _marks(classes: Sequence[Colour]) -> dict[str, Colour]:
    """ERROR_COLOURS if no class has a similar colour, else with the combination of marks that is farthest from the
    classes, from each other and from the other kinds."""
    usual = tuple(ERROR_COLOURS[kind] for kind in MARKS)
    around = [colour for kind, colour in ERROR_COLOURS.items() if kind not in MARKS]
    if distance(usual, classes).min() >= MARKS_APART:
        return ERROR_COLOURS
    pool = [*usual, *FURTHER_MARKS]
    alone = distance(pool, [*classes, *around]).min(1)
    apart = distance(pool, pool)

    def least(marks: tuple[int, ...]) -> float:
        pairs = ((0, 1), (0, 2), (1, 2))
        return float(min(alone[list(marks)].min(), *(apart[marks[a], marks[b]] for a, b in pairs)))

    best = max(permutations(range(len(pool)), len(MARKS)), key=least)  # the first of equals
    return ERROR_COLOURS | dict(zip(MARKS, (pool[place] for place in best), strict=True))


def _table(colours: Sequence[Colour | np.ndarray]) -> np.ndarray:
    table = np.full((256, 3), IGNORED_COLOUR, np.uint8)
    table[: len(colours)] = colours
    return table


def _lab(colours: Sequence[Colour]) -> np.ndarray:
    """(n, 3) CIE L*a*b* of sRGB colours, for the white point D65. Source: IEC 61966-2-1 and CIE 15."""
    share = np.array(colours, float).reshape(-1, 3) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / to_xyz.sum(1)
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])], axis=-1)
