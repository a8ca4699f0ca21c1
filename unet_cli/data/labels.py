"""Mask values and class indices: found from the masks of a data set, replayed when masks are written.

Values are whole numbers. A colour is the number 0xRRGGBB, so that what holds for values holds for colours as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unet_cli.config import MAX_CLASSES
from unet_cli.console import few
from unet_cli.data.imagefile import MaskPixels
from unet_cli.errors import UserError, explain
from unet_cli.system.schema import toml_of

MAX_NAME = 200  # characters of a class's name
IGNORED = 255  # the class index of pixels that count nowhere: not in losses, metrics or shares
SMALL_INTEGERS = 15  # values up to here are invisible as gray: masks are then written with a palette
NEAR_COLOURS = 24.0  # largest Euclidean distance in RGB at which a colour still is that of a class
TRACE = 0.01  # of a class's pixels; a near colour as rare as that is a slip of the brush
LEAST_COLOUR = 64  # pixels in areas of one colour from which it is a class and not a slip of the brush
FEW_VALUES = 36  # that classes seldom go beyond
MOST_VALUES = 1024  # values of one mask that are counted each for itself

# Paul Tol's 'bright' and 'light' schemes: told apart by colour-blind people. Background is black.
CLASS_COLOURS = (
    (0, 0, 0), (102, 204, 238), (238, 102, 119), (34, 136, 51), (204, 187, 68), (68, 119, 170), (170, 51, 119),
    (187, 187, 187), (119, 170, 221), (238, 136, 102), (238, 221, 136), (255, 170, 187), (153, 221, 255),
    (68, 187, 153), (187, 204, 51), (170, 170, 0),
)  # fmt: skip


@dataclass(frozen=True)
class ValueStats:
    """What was seen in one mask: counts of its values, and of values surrounded by the same value ('plateaus').

    colour: the values are colours. palette: (r, g, b, r, g, ...) up to the highest value, where the mask has one.
    rest: pixels of the rarest values, where there are more than MOST_VALUES; these are not in counts.
    """

    counts: dict[int, int]
    plateaus: dict[int, int]
    colour: bool = False
    palette: tuple[int, ...] | None = None
    rest: int = 0

    def as_colours(self) -> ValueStats:
        """The same by colour: that of the palette, or gray."""
        if self.colour:
            return self
        counts, plateaus = Counter[int](), Counter[int]()
        colours = None if self.palette is None else _pack_palette(self.palette)
        for value, count in self.counts.items():
            colour = 0x010101 * min(value, 255) if colours is None else int(colours[value])
            counts[colour] += count
            plateaus[colour] += self.plateaus.get(value, 0)
        return ValueStats(dict(counts), dict(plateaus), colour=True, rest=self.rest)


@dataclass(frozen=True)
class ClassSpec:
    """What the user said of the classes (--classes, --ignore-index).

    names: background first. values: the mask value of each, where they were given. ignore: a mask value; -1 is none,
    None is whatever is found.
    """

    names: tuple[str, ...] = ()
    values: tuple[int, ...] = ()
    colour: bool = False
    ignore: int | None = None


# Names of a first class that is what is left beside the others; in lower case, without what is no letter.
BACKGROUND_NAMES = {
    *("background", "bg", "back", "void", "unlabelled", "unlabeled", "other", "others", "none", "nothing", "rest"),
    *("empty", "unknown", "outside"),
}

FOUND = ClassSpec()  # the user said nothing


@dataclass(frozen=True)
class LabelMap:
    """Class index <-> mask value.

    values: for each class index the value that masks hold, background first. names: of the classes. ignore: the value
    of pixels that count nowhere; their index is IGNORED. palette: (r, g, b, r, g, ...) where the masks have one.
    kind: how values are read. 'values': each for itself. 'soft': binary masks with intermediate values at the borders
    (anti-aliased, JPEG); from the middle on, a value is foreground. 'instances': numbers of objects; all but 0 are
    foreground. 'colours': 0xRRGGBB; a colour within NEAR_COLOURS of a class's is that class. background: whether the
    first class is background, and not one like the others.
    """

    values: tuple[int, ...]
    names: tuple[str, ...]
    kind: Literal["values", "soft", "instances", "colours"] = "values"
    ignore: int | None = None
    palette: tuple[int, ...] | None = None
    background: bool = True

    def __post_init__(self) -> None:
        """Raises UserError at what can't be classes."""
        highest = 0xFFFFFF if self.kind == "colours" else 65535
        # Of numbered objects 255 is what masks are written with, and a number like any other in those that are read.
        ignored = [] if self.ignore is None or self.kind == "instances" else [self.ignore]
        every = [*self.values, *ignored]
        if not 2 <= len(self.values) <= MAX_CLASSES or len(self.names) != len(self.values):
            raise UserError(
                f"there are {len(self.values)} classes with {len(self.names)} names: 2 to {MAX_CLASSES} can be"
            )
        if len(set(every)) < len(every) or not all(0 <= value <= highest for value in every):
            raise UserError(f"the values of the classes are {few(every)}: each has its own, from 0 to {highest:,}")
        if not all(name.isprintable() and 0 < len(name) <= MAX_NAME for name in self.names):
            raise UserError(
                f"classes are called {few(map(ascii, self.names))}: use up to {MAX_NAME} printable characters"
            )
        if len(self.values) == 2 and not self.background:
            raise UserError("of two classes the first is always background")
        if len(self.palette or ()) > 768 or not all(0 <= part < 256 for part in self.palette or ()):
            raise UserError("the palette has to hold up to 256 colours of red, green and blue, each from 0 to 255")

    @property
    def num_classes(self) -> int:
        return len(self.values)

    @property
    def scored(self) -> range:
        """The classes that count in scores, and in losses of regions: all but the background, where there is one."""
        return range(int(self.background), self.num_classes)

    @property
    def scored_names(self) -> tuple[str, ...]:
        return self.names[self.scored.start :]

    @property
    def spec(self) -> ClassSpec | None:
        """What a user would say to have masks read in this way; None where that can't be said."""
        if self.kind == "soft":
            return None
        if self.kind == "instances":
            return ClassSpec(self.names, ignore=self.ignore)
        return ClassSpec(self.names, self.values, self.kind == "colours", -1 if self.ignore is None else self.ignore)

    def encode(self, mask: MaskPixels) -> np.ndarray:
        """Mask values (P, H, W) -> uint8 class indices of the same shape. Raises UserError at a value of no class."""
        if mask.is_blank:
            return np.zeros(mask.values.shape, np.uint8)
        if mask.colour and self.kind != "colours":
            raise UserError(f"holds colours, but the classes are {self._classes()}")
        values = _packed(mask) if self.kind == "colours" else mask.values
        indices = self.indices_of(values)
        if (indices < 0).any():
            strangers, counts = np.unique(values[indices < 0], return_counts=True)
            shown = self.spell(int(strangers[counts.argmax()]))
            raise UserError(f"holds {shown}, but the classes are {self._classes()}")
        return indices.astype(np.uint8)

    def indices_of(self, values: np.ndarray) -> np.ndarray:
        """Mask values of any shape -> class indices as int16; -1 for a value that no class has."""
        if self.kind in ("soft", "instances"):
            threshold = (self.values[0] + self.values[1]) / 2 if self.kind == "soft" else 1
            indices = (values >= threshold).astype(np.int16)
            if self.ignore is not None:
                indices[values == self.ignore] = IGNORED
            return indices
        known, index_of = self._known()
        places = np.searchsorted(known, values).clip(max=len(known) - 1)
        indices = np.where(known[places] == values, index_of[places], np.int16(-1))
        strange = indices < 0
        if self.kind == "colours" and strange.any():
            strangers, inverse = np.unique(values[strange], return_inverse=True)
            squares = sum((a[:, None] - b) ** 2 for a, b in zip(_unpacked(strangers), _unpacked(known), strict=True))
            is_near = squares.min(1) <= NEAR_COLOURS**2
            indices[strange] = np.where(is_near, index_of[squares.argmin(1)], np.int16(-1))[inverse]
        return indices

    def count_classes(self, masks: Sequence[ValueStats]) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
        """Pixels of each class in each mask, ignored ones left out, (masks, num_classes) int64; and what is no class:
        the number of the mask, the value, and its pixels."""
        if self.kind == "colours":
            masks = [stats.as_colours() for stats in masks]
        # One array for all masks, since there may be tens of thousands.
        row = np.repeat(np.arange(len(masks)), [len(stats.counts) for stats in masks])
        values = np.fromiter(chain.from_iterable(stats.counts for stats in masks), np.int64, len(row))
        counts = np.fromiter(chain.from_iterable(stats.counts.values() for stats in masks), np.int64, len(row))
        indices = self.indices_of(values).astype(np.int64)
        if self.kind != "colours":
            indices[np.array([stats.colour for stats in masks], bool)[row]] = -1
        known, strange = (indices >= 0) & (indices != IGNORED), indices < 0
        place = row[known] * self.num_classes + indices[known]
        pixels = np.bincount(place, counts[known], len(masks) * self.num_classes)
        pixels = pixels.reshape(-1, self.num_classes).astype(np.int64)
        if self.kind == "instances":
            pixels[:, 1] += [stats.rest for stats in masks]
        found = (row[strange].tolist(), values[strange].tolist(), counts[strange].tolist())
        return pixels, list(zip(*found, strict=True))

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """(H, W) class indices -> the user's values: (H, W) uint8 or uint16, or (H, W, 3) uint8 colours."""
        if self.kind == "colours":
            return np.stack(_unpacked(np.asarray(self.values)), axis=-1).astype(np.uint8)[indices]
        return np.asarray(self.values, dtype=np.uint8 if max(self.values) < 256 else np.uint16)[indices]

    @property
    def written_palette(self) -> list[int] | None:
        """The palette to write masks with: the user's own, or visible colours for small integers, or none."""
        if self.kind == "colours" or max(self.values) > 255:
            return None
        highest = max(self.values)
        if self.palette is None and highest > SMALL_INTEGERS:
            return None
        if self.palette is None and self.num_classes == 2 and self.values[0] < self.values[1]:
            return [0, 0, 0] * highest + [255, 255, 255]
        own = list(self.palette or ())
        # Of classes that no mask showed there is no colour yet.
        further = [part for value in range(highest + 1) for part in CLASS_COLOURS[value % len(CLASS_COLOURS)]]
        return own + further[len(own) :]

    def describe(self) -> str:
        """The map in words, for the log."""
        if self.kind == "instances":
            rule = "numbered objects are foreground, 0 is background"
        elif self.kind == "soft":
            rule = f"values from {(self.values[0] + self.values[1]) / 2:g} on are {self.names[1]}"
        elif self.num_classes == 2:
            rule = f"{self.spelled(0)} is {self.names[0]}, {self.spelled(1)} {self.names[1]}"
        else:
            rule = self._classes()
        ignored = "" if self.ignore is None else f"; {self.spell(self.ignore)} is ignored"
        return f"{self.num_classes} classes ({rule}{ignored}{'' if self.background else '; none is background'})"

    def may_be_objects(self, masks: Sequence[ValueStats]) -> bool:
        """Whether the classes might be numbers of a few objects: nearly all masks count from 1, not all equally far."""
        highest, counting = _countings(masks, self.ignore)
        several = len(set(highest)) > 2
        return self.kind == "values" and self.num_classes > 3 and several and counting >= 0.9 * len(highest)

    def spell(self, value: int) -> str:
        """A mask value for people: 'the value 7', 'the colour #ff0000'."""
        return f"the colour #{value:06x}" if self.kind == "colours" else f"the value {value}"

    def plain(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_plain(cls, value: dict[str, Any]) -> LabelMap:
        parts: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in value.items()}
        return cls(**parts)

    def _known(self) -> tuple[np.ndarray, np.ndarray]:
        """All values that mean something, ascending, and the class index of each."""
        index_of = {value: index for index, value in enumerate(self.values)}
        if self.ignore is not None:
            index_of[self.ignore] = IGNORED
        known = sorted(index_of)
        return np.array(known), np.array([index_of[value] for value in known], dtype=np.int16)

    def spelled(self, index: int) -> str:
        """The mask value of a class, as its name is where it has no other."""
        return f"#{self.values[index]:06x}" if self.kind == "colours" else str(self.values[index])

    def _classes(self) -> str:
        named = [
            value if value == name else f"{name} {value}"
            for name, value in zip(self.names, map(self.spelled, range(self.num_classes)), strict=True)
        ]
        return ", ".join(named if len(named) <= 12 else [*named[:11], "...", named[-1]])


def value_stats(mask: MaskPixels, page: int = 0) -> ValueStats:
    """Count the values of one (H, W) page, and those whose four neighbours all have the same value."""
    values = mask.values[page]
    if values.dtype.itemsize > 2:  # colours, or high object numbers: too many to count in a table
        distinct, flat = np.unique(values, return_inverse=True)
        values = flat.reshape(values.shape)
    else:
        distinct = None
    counts = np.bincount(values.ravel())
    held = np.flatnonzero(counts)
    rest = 0
    if len(held) > MOST_VALUES:
        kept = np.sort(held[np.argsort(counts[held], kind="stable")[-MOST_VALUES:]])
        rest = int(counts[held].sum() - counts[kept].sum())
        held = kept
    names = held if distinct is None else distinct[held]
    plateaus = dict(zip(names.tolist(), counts[held].tolist(), strict=True))
    if len(held) > 2:  # of two values, each covers areas
        inner = values[1:-1, 1:-1]
        same = (
            (inner == values[:-2, 1:-1])
            & (inner == values[2:, 1:-1])
            & (inner == values[1:-1, :-2])
            & (inner == values[1:-1, 2:])
        )
        flat_counts = np.bincount(inner[same], minlength=len(counts))
        plateaus = dict(zip(names.tolist(), flat_counts[held].tolist(), strict=True))
    palette = None if mask.palette is None else tuple(mask.palette[: 3 * (int(held[-1]) + 1)])
    counted = dict(zip(names.tolist(), counts[held].tolist(), strict=True))
    return ValueStats(counted, plateaus, mask.colour, palette, rest)


def find_labels(masks: Sequence[ValueStats], spec: ClassSpec = FOUND) -> LabelMap:
    """The label map that all masks of a data set agree with, or the user's.

    Two values are background and foreground, the smaller one first; one value alone is all background (or, if it isn't
    0, all foreground). More values are classes, unless they look like a binary mask that was smoothed (`_is_soft`) or
    like numbers of objects (`_are_instances`). 255 beside small whole numbers is ignored (`_find_ignored`). Colours are
    classes where they cover areas. What only a few stray masks hold is no class (`_without_strays`).
    Raises UserError where there are more values than classes can be, or other than the user said.
    """
    palette = _common_palette(masks)
    has_colours = any(stats.colour for stats in masks)
    if spec.values and not spec.colour and has_colours:
        raise UserError("the masks hold colours, but --classes gives numbers: give '#rrggbb' for each class")
    if spec.colour or has_colours or (palette is None and not spec.values):
        return _find_colours([stats.as_colours() for stats in masks], spec)
    fixed = tuple(palette or ()) or None
    masks = masks if spec.values else _without_strays(masks)
    counts, plateaus = _sum(stats.counts for stats in masks), _sum(stats.plateaus for stats in masks)
    ignore = None if spec.ignore == -1 else spec.ignore
    if spec.ignore is None and not spec.values and len(spec.names) != len(counts):
        ignore = _find_ignored(masks)
    values = sorted(value for value in counts if value != ignore)
    if not values:
        raise UserError(f"every mask holds nothing but the ignored value {ignore}")

    binary = spec.names or ("background", "foreground")
    if fixed is None and len(binary) == 2 and spec.values in ((), (values[0], values[-1])):
        if _is_soft({value: counts[value] for value in values}, plateaus):
            return LabelMap(_storable((values[0], values[-1])), binary, "soft", ignore)
        # Two names for many numbers: the user says that they are those of objects.
        said = bool(spec.names) and len(values) > 2
        if not spec.values and (said or _are_instances(masks, values, ignore)):
            return LabelMap((0, 255), binary, "instances", ignore)
    if spec.values:
        return LabelMap(spec.values, spec.names, ignore=ignore, palette=fixed)
    if spec.names and len(values) != len(spec.names) and values[-1] < len(spec.names):
        values = [value for value in range(len(spec.names)) if value != ignore]  # a class that no mask happens to show
    if len(values) == 1:
        only = values[0]
        values = [0, only] if only else [0, 1 if fixed else 255]
    if len(values) > MAX_CLASSES:
        raise UserError(
            f"the masks hold {len(values):,} different values up to {values[-1]:,}: these are too many for classes, "
            "and no object numbers either, which count from 1 in each mask. "
            "Save masks with one value for each class, such as 0 for background and 255 for objects"
        )
    usual = ["background", "foreground"] if len(values) == 2 else [str(value) for value in values]
    return LabelMap(_storable(tuple(values)), _names(spec, usual), ignore=ignore, palette=fixed)


def with_background(labels: LabelMap, pixels: np.ndarray, said: str) -> LabelMap:
    """Whether the first class is background: as is `said`, first or none; else, of three or more classes without an
    ignored value, where its name says so, or, without names, it is the largest. pixels: (classes) of the training
    part."""
    if labels.num_classes == 2 or said == "first":
        return labels
    if said == "none":
        return replace(labels, background=False)
    name = "".join(filter(str.isalpha, labels.names[0].lower()))
    is_named = labels.names[0] != labels.spelled(0)
    is_background = name in BACKGROUND_NAMES if is_named else bool(pixels[0] == pixels.max())
    return replace(labels, background=is_background or labels.ignore is not None)


def parse_classes(text: str | None, ignore: int | None = None) -> ClassSpec:
    """--classes: names with commas between them, or a TOML file of `name = value`, a value being a number, '#rrggbb' or
    [r, g, b], and `ignore` the name of what is ignored. The first class is the background. Raises UserError."""
    if text is None:
        return ClassSpec(ignore=ignore)
    if not text.lower().endswith(".toml"):
        names = tuple(name.strip() for name in text.split(","))
        if len(names) < 2 or "" in names or len(set(names)) < len(names):
            raise UserError(
                f"--classes is '{text}': give different names with commas between them, background first, "
                "such as background,weed,crop; or a .toml file"
            )
        return ClassSpec(names, ignore=ignore)
    try:
        content = toml_of(Path(text).read_text(encoding="utf-8"))
    except OSError as error:
        raise explain(error, text) from error
    except ValueError as error:  # of TOML and of its encoding
        raise UserError(f"{text} is not TOML: {error}") from error
    table = content.pop("classes", {})
    if not isinstance(table, dict):
        raise UserError(f"{text}: write a line `name = value` for each class, background first")
    content |= table
    values = {name: _parse_value(text, name, value) for name, value in content.items()}
    colour = any(not isinstance(value, int) for value in content.values())
    if colour and any(isinstance(value, int) for value in content.values()):
        raise UserError(f"{text} mixes numbers and colours: give all classes as one of them")
    if "ignore" in values and ignore not in (None, values["ignore"]):
        raise UserError(f"{text} says ignore = {content['ignore']}, but --ignore-index {ignore}: leave one of them out")
    ignore = values.pop("ignore", ignore)
    if len(values) < 2 or len(set(values.values())) < len(values):
        raise UserError(f"{text} has to name at least two classes, each with a value of its own: background = 0")
    return ClassSpec(tuple(values), tuple(values.values()), colour, ignore)


def _parse_value(path: str, name: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65535:
        return value
    if isinstance(value, str) and len(value) == 7 and value[0] == "#":
        try:
            return int(value[1:], 16)
        except ValueError:
            pass  # said below, with all else that is no value
    if isinstance(value, list) and len(value) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in value):
        return value[0] << 16 | value[1] << 8 | value[2]
    raise UserError(f"{path}: {name} is {value!r}: give a mask value of 0 to 65535, or a colour as '#ff0000'")


def _find_colours(masks: Sequence[ValueStats], spec: ClassSpec) -> LabelMap:
    """Colours that cover areas are classes, the most frequent first where they are near each other; black, if it is
    one, or else the most frequent, is the background. Others are found strange when masks are encoded."""
    if spec.ignore not in (None, -1) and not spec.colour:
        raise UserError(
            f"the masks hold colours, of which --ignore-index {spec.ignore} is none: "
            "give `ignore = '#rrggbb'` and the classes in a --classes FILE.toml"
        )
    ignore = None if spec.ignore == -1 else spec.ignore
    if spec.values:
        return LabelMap(spec.values, spec.names, "colours", ignore)
    counts = _sum(stats.counts for stats in masks)
    # Few colours are as they were painted, thin lines too; many come from JPEG or soft edges, which have no areas.
    as_painted = len(counts) <= FEW_VALUES and not any(stats.rest for stats in masks)
    areas = counts if as_painted else _sum(stats.plateaus for stats in masks)
    chosen: list[int] = []
    for colour in sorted(counts, key=lambda value: -counts[value]):
        if areas.get(colour, 0) < LEAST_COLOUR or len(chosen) > MAX_CLASSES or colour == ignore:
            continue
        near = [other for other in chosen if _distance(colour, other) <= NEAR_COLOURS]
        if as_painted:  # classes may be painted in much the same colour, but then one isn't a trace of the other
            near = [other for other in near if counts[colour] < TRACE * counts[other]]
        if not near:
            chosen.append(colour)
    if len(chosen) > MAX_CLASSES:
        raise UserError(
            f"the masks hold more than {MAX_CLASSES} colours that cover areas: these look like pictures, not masks"
        )
    if not chosen:
        raise UserError("the masks hold no colour that covers an area: name the classes in a --classes FILE.toml")
    background = 0 if 0 in chosen else chosen[0]
    values = [background, *sorted(set(chosen) - {background})]
    if len(values) == 1:
        values.append(0xFFFFFF if background != 0xFFFFFF else 0)
    usual = ["background", "foreground"] if len(values) == 2 else [f"#{value:06x}" for value in values]
    return LabelMap(tuple(values), _names(spec, usual, colour=True), "colours", ignore)


def _names(spec: ClassSpec, usual: list[str], colour: bool = False) -> tuple[str, ...]:
    if not spec.names:
        return tuple(usual)
    if len(spec.names) != len(usual):
        found = ", ".join(usual if len(usual) <= 20 else [*usual[:20], "..."])
        kind = "colours" if colour else "values"
        raise UserError(
            f"--classes names {len(spec.names)} classes ({', '.join(spec.names)}), "
            f"but the masks hold {len(usual)} {kind} ({found}): "
            "name as many, background first, or say in a .toml file which value is which class"
        )
    return spec.names


def _common_palette(masks: Iterable[ValueStats]) -> list[int] | None:
    """The palette of all masks; [] where not all have one; None where they give a value they use different colours."""
    colours: dict[int, tuple[int, ...]] = {}
    indexed, plain = False, False
    for stats in masks:
        indexed, plain = indexed or stats.palette is not None, plain or stats.palette is None
        for value in stats.counts if stats.palette is not None else ():
            colour = (*stats.palette[3 * value : 3 * value + 3], 0, 0, 0)[:3] if stats.palette else (0, 0, 0)
            if colours.setdefault(value, colour) != colour:
                return None
    if plain or not indexed:
        return []
    return [part for value in range(max(colours) + 1) for part in colours.get(value, (0, 0, 0))]


def _storable(values: tuple[int, ...]) -> tuple[int, ...]:
    """Raises UserError at a value that no mask of 16 bits can be written with."""
    if values[-1] > 65535:
        raise UserError(f"the masks hold the value {values[-1]:,}: use values up to 65,535, one for each class")
    return values


def _find_ignored(masks: Sequence[ValueStats]) -> int | None:
    """255 beside at least two small whole numbers that have few gaps, for nobody counts 0, 1, 2, 255; or that is drawn
    in thin lines, as around the objects of PASCAL VOC.

    Raises UserError where masks of 0 and 1 and masks of 0 and 255 are mixed.
    """
    rest = sorted({value for stats in masks for value in stats.counts} - {255})
    holders = [stats for stats in masks if 255 in stats.counts]
    if not holders or len(rest) < 2:
        return None
    few_gaps = rest[-1] <= 2 * len(rest) + 2 and rest[-1] < 200
    pixels = sum(stats.counts[255] for stats in holders)
    inner = sum(stats.plateaus[255] for stats in holders)
    is_thin = rest[-1] <= FEW_VALUES and inner < 0.6 * pixels
    if not few_gaps and not is_thin:
        return None
    if rest == [0, 1] and all(1 not in stats.counts for stats in holders):
        raise UserError(
            f"{len(holders):,} of {len(masks):,} masks hold 255 and others 1, never both: "
            "save all masks with the same values, or give --ignore-index 255 if that is what it means"
        )
    return 255


def _without_strays(masks: Sequence[ValueStats]) -> Sequence[ValueStats]:
    """The masks but for a few that hold many times as many values as most, where the others are plain classes.

    A photograph among masks must not make a hundred classes: its values are then found strange when masks are encoded.
    """
    numbers = sorted(len(stats.counts) for stats in masks)
    usual = max(4 * numbers[len(numbers) // 2], FEW_VALUES)
    kept = [stats for stats in masks if len(stats.counts) <= usual]
    plain = {value for stats in kept for value in stats.counts}
    is_stray = 10 * len(kept) >= 9 * len(masks) and len(plain) <= FEW_VALUES
    # Where all values lie in a binary mask's range, they may be the noise of a JPEG.
    return masks if not is_stray or _is_soft(_sum(s.counts for s in masks), _sum(s.plateaus for s in masks)) else kept


def _are_instances(masks: Sequence[ValueStats], values: list[int], ignore: int | None) -> bool:
    """Numbers of objects, not classes.

    Either nearly every mask counts from 1 without gaps, up to numbers that differ from mask to mask and go beyond a
    dozen; or there are numbers beyond 255, too many for classes, and at least half of the masks have such numbers, or
    another highest number than others.
    """
    highest, counting = _countings(masks, ignore)
    several = len(set(highest))
    mostly_beyond = 2 * max(several, sum(number > 255 for number in highest)) >= len(highest)
    if values[-1] > 255 and len(values) > FEW_VALUES and mostly_beyond:
        return True
    return several >= max(2, min(4, len(highest))) and max(highest) > 12 and counting >= 0.8 * len(highest)


def _countings(masks: Sequence[ValueStats], ignore: int | None) -> tuple[list[int], int]:
    """The highest value of each mask that isn't empty, and how many of these masks count up to it without gaps."""
    highest, counting = [], 0
    for stats in masks:
        held = [value for value in stats.counts if value not in (0, ignore)]
        if held:
            highest.append(max(held))
            counting += stats.rest == 0 and len(held) == max(held)
    return highest, counting


def _is_soft(counts: dict[int, int], plateaus: dict[int, int]) -> bool:
    """A binary mask with soft borders, not classes.

    A binary mask that was smoothed, resized or saved as JPEG has two values that most pixels hold, one in the lower and
    one in the upper half of the range. The other values are rare and stand on ramps and in noise: few such pixels have
    four neighbours of their own value. Classes cover areas of their own.
    """
    low, high = min(counts), max(counts)
    if high - low < 100 or len(counts) < 4:
        return False
    middle = (low + high) / 2
    dominant = {
        max((value for value in counts if (value < middle) == below), key=lambda value: counts[value])
        for below in (True, False)
    }
    others = [value for value in counts if value not in dominant]
    pixels = sum(counts[value] for value in others)
    flat = sum(plateaus.get(value, 0) for value in others)
    return pixels < 0.3 * sum(counts.values()) and flat < 0.3 * pixels


def _packed(mask: MaskPixels) -> np.ndarray:
    """Mask values as colours 0xRRGGBB."""
    if mask.colour:
        return mask.values
    if mask.palette is not None:
        return _pack_palette(mask.palette)[mask.values]
    return mask.values.astype(np.int32) * 0x010101


def _pack_palette(palette: Sequence[int]) -> np.ndarray:
    """(r, g, b, r, g, ...) -> (256) colours; what is missing is black."""
    full = np.zeros(768, np.int32)
    full[: len(palette)] = palette
    red, green, blue = full.reshape(256, 3).T
    return red << 16 | green << 8 | blue


def _distance(colour: int, other: int) -> float:
    return sum((a - b) ** 2 for a, b in zip(colour.to_bytes(3), other.to_bytes(3), strict=True)) ** 0.5


def _unpacked(colours: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """0xRRGGBB -> red, green and blue, each of the same shape."""
    return colours >> 16, colours >> 8 & 255, colours & 255


def _sum(parts: Iterable[dict[int, int]]) -> dict[int, int]:
    total = Counter[int]()
    for part in parts:
        total.update(part)
    return dict(total)
