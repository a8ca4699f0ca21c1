"""The colours in which classes and errors are drawn: decided here for every picture, overlay and page.

Classes are drawn in the colours of the masks themselves, as far as they can be told apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import TypeAlias

import numpy as np

from unet_cli.data.labels import CLASS_COLOURS, LabelMap

Colour: TypeAlias = tuple[int, int, int]  # red, green, blue, 0 to 255

OUTLINE = (255, 0, 255)  # magenta: rare in microscopy, radiology and on metal
WHITE = (255, 255, 255)
IGNORED_COLOUR = (128, 128, 128)

# What a pixel of the errors is, and its colour; where a pixel of the panel stands for several, the last of them is
# shown. Orange, blue and purple of Okabe and Ito, "Color Universal Design" (2008): told apart by colour-blind people.
ERROR_COLOURS: dict[str, Colour] = {
    "background": (18, 18, 18),
    "ignored": (58, 58, 66),
    "right": (122, 122, 122),
    "false": (86, 180, 233),
    "missed": (230, 159, 0),
    "wrong class": (204, 121, 167),
}
MARKS = ("false", "missed", "wrong class")  # the kinds that have to be seen at once
# Where a class has one of their colours, they take others: the rest of Okabe and Ito's, and corners of the RGB cube.
FURTHER_MARKS = (
    (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (255, 0, 255), (0, 255, 255), (0, 255, 0), (255, 0, 0),
    (90, 90, 255), (255, 255, 255),
)  # fmt: skip

# Distances in CIE L*a*b* (CIE 1976, D65): 2 is just noticed side by side.
CLASSES_APART = 15.0
MARKS_APART = 30.0
COLOURLESS = 12.0  # largest distance from the gray axis
DARK = 20.0  # lightness, 0 to 100


@dataclass(frozen=True)
class Colours:
    """The drawing colours of a label map's classes.

    names: of the classes. areas: for each class the colour of its pixels in pictures of masks. lines: the colour of its
    outlines on images. errors: of each kind in ERROR_COLOURS. replaced: classes that are not drawn in the masks' own
    colours, which could not be told apart, or not be seen. background: whether the first class is background. ignored:
    whether masks have pixels that count nowhere; in areas they are IGNORED_COLOUR.
    """

    names: tuple[str, ...]
    areas: tuple[Colour, ...]
    lines: tuple[Colour, ...]
    errors: dict[str, Colour]
    replaced: frozenset[int] = frozenset()
    background: bool = True
    ignored: bool = False

    def area_palette(self) -> np.ndarray:
        """(256, 3) uint8: the colour of each class index in areas; IGNORED_COLOUR for all others."""
        return _table(self.areas)

    def line_palette(self) -> np.ndarray:
        """(256, 3) uint8: the same of outlines."""
        return _table(self.lines)

    def area_legend(self) -> list[tuple[str, Colour]]:
        """Text and colour of all that a picture of a mask may show."""
        return [*self._entries(self.areas, 0), *([("ignored", IGNORED_COLOUR)] if self.ignored else [])]

    def line_legend(self) -> list[tuple[str, Colour]]:
        """The same of outlines; the first class has none."""
        return list(self._entries(self.lines, 1))

    def _entries(self, colours: Sequence[Colour], first: int) -> Iterator[tuple[str, Colour]]:
        for index in range(first, len(self.names)):
            remark = " (not in its own colour)" if index in self.replaced else ""
            yield self.names[index] + remark, colours[index]


@lru_cache(maxsize=16)
def colours_of(labels: LabelMap) -> Colours:
    """The one place that decides how the classes of these masks are drawn.

    Masks in colours, or with a palette of colours, give their own. A class that could not be told from an earlier one,
    or from ignored pixels, gets the colour of CLASS_COLOURS that is farthest from all others. Where masks have no
    colours, a single class is white, and several are in CLASS_COLOURS. An outline in white, gray or black is lost on an
    image, so that a single class without a colour is outlined in OUTLINE, and so is a dark one of several. Marks of
    errors keep away from the colours of classes.
    """
    own = _own_colours(labels)
    reserved = [IGNORED_COLOUR] if labels.ignore is not None else []
    areas, replaced = _told_apart(own, reserved) if own else (_default_colours(labels), frozenset[int]())
    lightness, hue = _lab(areas)[:, 0], _lab(areas)[:, 1:]
    unseen = lightness < DARK if len(areas) > 2 else np.hypot(*hue.T) < COLOURLESS
    lines = tuple(OUTLINE if lost else colour for colour, lost in zip(areas, unseen.tolist(), strict=True))
    seen = set(areas[int(labels.background) :]) | set(areas if own else ())
    return Colours(
        labels.names, areas, lines, _marks(sorted(seen)), replaced, labels.background, labels.ignore is not None
    )


def distance(colours: Sequence[Colour], others: Sequence[Colour]) -> np.ndarray:
    """(len(colours), len(others)): how different they look, 0 to about 150; see CLASSES_APART."""
    return np.linalg.norm(_lab(colours)[:, None] - _lab(others)[None], axis=-1)


def _own_colours(labels: LabelMap) -> list[Colour] | None:
    """Of each class in the masks, as they are or as `unet` writes them; None where their foreground is only white, gray
    or black."""
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


def _told_apart(own: Sequence[Colour], reserved: Sequence[Colour]) -> tuple[tuple[Colour, ...], frozenset[int]]:
    """The colours, some of them replaced, and the indices of these. Of more classes than there are colours to tell
    apart, the others stay as they are."""
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
    """ERROR_COLOURS where no class has a colour like its marks, else with the marks that are farthest from the classes,
    from each other and from what surrounds them."""
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


def _table(colours: Sequence[Colour]) -> np.ndarray:
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
