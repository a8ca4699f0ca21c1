"""Detect the label map from masks: the kinds of masks, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from unet_cli.config.model import MAX_CLASSES
from unet_cli.data.labels.colours import find_colours, numbers_in_colours
from unet_cli.data.labels.doubts import (
    ask_what_unlabelled_pixels_are,
    ask_whether_255_is_a_class,
    ask_whether_a_ring_is_a_class,
    ask_whether_they_were_resized,
)
from unet_cli.data.labels.label_map import LabelMap
from unet_cli.data.labels.noise import MIN_PIXELS, MIN_RANGE, Levels, find_levels
from unet_cli.data.labels.numbering import MANY_CLASSES, are_drawn_at_random, are_objects
from unet_cli.data.labels.palettes import palettes
from unet_cli.data.labels.readings import Reading, stats_as
from unet_cli.data.labels.spec import FOUND, SWAPPED, ClassSpec, named
from unet_cli.data.labels.stats import FEW_VALUES, FLAT, Held, ValueStats
from unet_cli.data.maskfile import TRANSPARENT, UNLABELLED
from unet_cli.errors import UserError

SOFT_SHARE = 0.3  # maximum fraction of a binary mask's pixels between its two values, and of these within areas
AREA_SHARE = 0.2  # minimum fraction within areas of an intermediate level that is a class
MAX_UNSURE = 0.25  # maximum fraction of pixels whose value covers no area
DENSE, SPECKLED = 0.8, 0.3  # minimum fraction of the 8-bit values; maximum fraction of pixels within areas for specks


@dataclass(frozen=True)
class Numbers:
    """Statistics of masks of numbers before their kind is known. ignore: the ignored value. levels: the intended values
    without the ignored one. palette: if all masks share one."""

    held: Held
    spec: ClassSpec
    ignore: int | None
    levels: Levels
    palette: tuple[int, ...] | None

    @property
    def values(self) -> list[int]:
        """All values, ascending, without the ignored one."""
        return _without(self.held, self.ignore)

    @property
    def binary_names(self) -> tuple[str, ...] | None:
        """Names of background and foreground, unless the user gives another number of classes."""
        names = self.spec.names or ("background", "foreground")
        return names if len(names) == 2 else None


def find_labels(masks: Sequence[ValueStats], spec: ClassSpec = FOUND) -> LabelMap:
    """The label map that fits all masks of a data set, or the user's classes.

    First the reading of files is detected (`_reading`), then the kind (KINDS). Raises UserError if the files are no
    masks, or don't match the user's classes.
    """
    reading, palette = _reading(masks, spec)
    read = masks if reading == "stored" else [stats_as(reading, stats) for stats in masks]
    if reading == "colours":
        return find_colours(Held(read), spec)
    numbers = _numbers(read, spec, palette)
    labels = next(found for kind in KINDS if (found := kind(numbers)) is not None)
    return labels if reading == "stored" else replace(labels, reading=reading)


def _reading(masks: Sequence[ValueStats], spec: ClassSpec) -> tuple[Reading, tuple[int, ...] | None]:
    """How files become values, and the palette of the masks if values are its indices."""
    if spec.colour:
        return "colours", None
    # RGB with class numbers in the red channel looks like three planes if the only class is 1.
    if any(stats.planes for stats in masks) and not any(_has_colours(stats) for stats in masks):
        all_marked = all(stats.planes and 0 not in stats.counts for stats in masks)
        return ("planes from 0" if all_marked else "planes"), None
    if any(stats.colour for stats in masks):
        reading = numbers_in_colours([stats_as("colours", stats) if stats.planes else stats for stats in masks])
        if reading is None and not spec.names and are_drawn_at_random([stats_as("colours", stats) for stats in masks]):
            reading = "rgb"
        if reading is None and spec.values:
            raise UserError("the masks hold colours, but --classes gives numbers: give '#rrggbb' for each class")
        return reading or "colours", None
    if not spec.values:
        return palettes(masks)
    try:
        reading, palette = palettes(masks)
    except UserError:
        return "stored", None
    if reading != "stored":
        stored = {value for stats in masks for value in stats.counts}
        reading = "stored" if stored <= {*spec.values, spec.ignore} or reading == "colours" else reading
    return reading, palette


def _has_colours(stats: ValueStats) -> bool:
    return stats.colour and not stats.counts.keys() <= {0, TRANSPARENT}


def _numbers(masks: Sequence[ValueStats], spec: ClassSpec, palette: tuple[int, ...] | None) -> Numbers:
    held = Held(masks if spec.values else _without_photographs(masks))
    ignore = None if spec.ignore == -1 else spec.ignore
    if ignore is None and UNLABELLED in held.totals and not spec.unlabelled_is_background:
        ignore = UNLABELLED
        if spec.ignore is None and not spec.names:
            ask_what_unlabelled_pixels_are(held)
    if spec.ignore is None and ignore is None and not spec.values:
        ignore = _nodata(held)
    levels = Levels(_without(held, ignore)) if spec.is_exact else find_levels(held, ignore)
    if levels.reach and ignore not in (None, UNLABELLED):  # JPEG has blurred the ignored value too
        levels = find_levels(held, None)
        near = {value for value in levels.values if ignore is not None and abs(value - ignore) <= levels.reach}
        levels = levels._replace(values=[value for value in levels.values if value not in near])
    count = len(spec.names)
    if count and not spec.values and count != len(levels.values) and levels.noise:
        levels = _most_frequent(held, levels, count, ignore)
    if spec.ignore is None and ignore is None and not spec.values and count != len(levels.values):
        ignore = _find_ignored(held, levels)
        levels = levels._replace(values=[value for value in levels.values if value != ignore])
    if not levels.values:
        raise UserError(f"every mask holds nothing but the ignored value {ignore}")
    return Numbers(held, spec, ignore, levels, palette)


def _without(held: Held, ignore: int | None) -> list[int]:
    """The values, ascending, without the ignored one."""
    return [value for value in held.totals if value not in (ignore, UNLABELLED)]


def _most_frequent(held: Held, levels: Levels, count: int, ignore: int | None) -> Levels:
    """As many levels as the user names, if about that many cover areas, or there are exactly that many values."""
    values = _without(held, ignore)
    if len(values) == count:
        return Levels(values)
    chosen = list(levels.values)
    with_areas = [value for value in levels.noise if held.totals[value].flats >= MIN_PIXELS]
    for value in sorted(with_areas, key=lambda value: -held.totals[value].pixels):
        if len(chosen) < count and min(abs(value - other) for other in chosen) > FLAT:
            chosen.append(value)
    return levels._replace(values=sorted(chosen), noise=levels.noise - set(chosen)) if len(chosen) == count else levels


# The kinds: each function returns a label map if it recognizes its kind, else None.


def _soft(numbers: Numbers) -> LabelMap | None:
    """Binary masks that were smoothed, resized or saved as JPEG, or contain a few odd values."""
    names, values, levels = numbers.binary_names, numbers.values, numbers.levels.values
    if names is None or numbers.palette is not None or values[-1] - values[0] < MIN_RANGE or numbers.spec.is_exact:
        return None
    ends = values[0], values[-1]
    if len(values) > 3 and _is_soft(numbers):
        if len(levels) > 2 and (numbers.levels.drawn or _between(numbers)):
            return None
        if not numbers.spec.names:
            ask_whether_a_ring_is_a_class(numbers.held, ends)
    elif len(levels) == 2 and numbers.levels.noise and levels[1] - levels[0] >= MIN_RANGE:
        ends = levels[0], levels[1]
    else:
        return None
    if numbers.spec.values not in ((), ends):
        return None
    return LabelMap(_storable(ends), names, "soft", numbers.ignore)


def _objects(numbers: Numbers) -> LabelMap | None:
    """Object numbers, also if the user gives two names for many numbers."""
    names = numbers.binary_names
    if names is None or numbers.palette is not None or numbers.spec.values:
        return None
    said = bool(numbers.spec.names) and len(numbers.levels.values) > 2 and not numbers.levels.reach
    if said or are_objects(numbers.held.masks, numbers.ignore) == "objects":
        return LabelMap((0, 255), names, "instances", numbers.ignore)
    return None


def _given(numbers: Numbers) -> LabelMap | None:
    """The values given by the user; other values are noise if they cover no area."""
    spec = numbers.spec
    if not spec.values:
        return None
    strays = any(value not in {*spec.values, numbers.ignore} for value in numbers.levels.noise)
    gaps = [after - before for before, after in zip(sorted(spec.values), sorted(spec.values)[1:], strict=False)]
    reach = min(numbers.levels.reach, (min(gaps) - 1) // 3)
    return LabelMap(
        spec.values,
        spec.names,
        ignore=numbers.ignore,
        palette=numbers.palette,
        strays=strays,
        reach=reach,
        unlabelled_is_background=spec.unlabelled_is_background,
    )


def _classes(numbers: Numbers) -> LabelMap:
    """Each intended value is a class."""
    spec, ignore, palette = numbers.spec, numbers.ignore, numbers.palette
    values = list(numbers.levels.values)
    if spec.names and len(values) != len(spec.names) and values[-1] < len(spec.names):
        values = [value for value in range(len(spec.names)) if value != ignore]  # some class is in no mask
    if len(values) == 1:
        only = values[0]
        values = [0, only] if only else [0, 1 if palette else 255]
    if not spec.names:
        ask_whether_they_were_resized(numbers.held, numbers.levels)
        _check_plausible(numbers)
    if len(values) > MAX_CLASSES:
        raise UserError(
            f"the masks hold {len(values):,} different values up to {values[-1]:,}: these are too many for classes, "
            "and no object numbers either, which count from 1 in each mask. "
            "Save masks with one value for each class, such as 0 for background and 255 for objects; or, if they "
            "number objects, add --classes background,object"
        )
    usual = ["background", "foreground"] if len(values) == 2 else [str(value) for value in values]
    names = named(spec, usual, "values")
    strays, reach = bool(numbers.levels.noise), numbers.levels.reach
    return LabelMap(_storable(tuple(values)), names, ignore=ignore, palette=palette, strays=strays, reach=reach)


KINDS: tuple[Callable[[Numbers], LabelMap | None], ...] = (_soft, _objects, _given, _classes)


def _check_plausible(numbers: Numbers) -> None:
    """Raises UserError if there are more classes than people draw, and another sign that they are none."""
    values = numbers.levels.values
    noise = sum(numbers.held.totals[value].pixels for value in numbers.levels.noise)
    if noise > MAX_UNSURE * numbers.held.pixels:
        raise UserError(
            f"{noise / numbers.held.pixels:.0%} of the masks' pixels have values that cover no area: these look like "
            f"photographs. {SWAPPED}. Else name the classes in a --classes FILE.toml"
        )
    if len(values) <= MANY_CLASSES:
        return
    totals = numbers.held.totals
    pixels = sum(totals[value].pixels for value in values[1:])
    cores = sum(totals[value].cores for value in values[1:])
    is_dense = len(values) >= DENSE * 256
    are_specks = cores < SPECKLED * pixels
    if not (is_dense or are_specks):
        return
    why = "in specks instead of areas" if are_specks else "nearly every one that there can be"
    raise UserError(
        f"the masks hold {len(values):,} values, {why}, where people draw up to {MANY_CLASSES} classes: these "
        f"look like photographs. {SWAPPED}. If the masks number objects, add --classes background,object; if each "
        "value is a class, name them in a --classes FILE.toml"
    )


def _is_soft(numbers: Numbers) -> bool:
    """Whether this is a binary mask with soft borders rather than classes.

    It has two dominant values, one in each half of the range. The other values are rare and on ramps or in noise: few
    of their pixels are within areas of their own value.
    """
    totals, values = numbers.held.totals, numbers.values
    middle = (values[0] + values[-1]) / 2
    dominant = {
        max((value for value in values if (value < middle) == below), key=lambda value: totals[value].pixels)
        for below in (True, False)
    }
    others = [totals[value] for value in values if value not in dominant]
    pixels = sum(one.pixels for one in others)
    shades = sum(max(one.ramps, one.parts) for one in others)
    every = sum(totals[value].pixels for value in values)
    return (
        pixels < SOFT_SHARE * every
        and sum(one.cores for one in others) < SOFT_SHARE * pixels
        and shades >= SOFT_SHARE * pixels
    )


def _between(numbers: Numbers) -> list[int]:
    """Levels that cover areas and lie between the lowest and the highest level."""
    values, totals = numbers.levels.values, numbers.held.totals
    inner = [value for value in values if values[0] + FLAT < value < values[-1] - FLAT]
    window = {value: [t for v, t in totals.items() if abs(v - value) <= numbers.levels.reach] for value in inner}
    return [
        value
        for value, near in window.items()
        if sum(one.flats for one in near) >= max(MIN_PIXELS, AREA_SHARE * sum(one.pixels for one in near))
    ]


def _storable(values: tuple[int, ...]) -> tuple[int, ...]:
    """The values. Raises UserError for a value that doesn't fit 16 bits."""
    if values[-1] > 65535:
        raise UserError(f"the masks hold the value {values[-1]:,}: use values up to 65,535, one for each class")
    return values


def _find_ignored(held: Held, levels: Levels) -> int | None:
    """255, if it is beside at least two small integers with few gaps, since classes are not numbered 0, 1, 2, 255; or
    is drawn in thin lines, as around the objects of PASCAL VOC.

    Raises UserError if masks of 0 and 1 and masks of 0 and 255 are mixed.
    """
    rest = [value for value in levels.values if value != 255]
    if 255 not in levels.values or 255 not in held.totals or len(rest) < 2:
        return None
    few_gaps = rest[-1] <= 2 * len(rest) + 2 and rest[-1] < 200
    total = held.totals[255]
    is_thin = rest[-1] <= FEW_VALUES and total.cores < SOFT_SHARE * total.pixels
    if not few_gaps and not is_thin:
        return None
    holders = [stats for stats in held.masks if 255 in stats.counts]
    if rest == [0, 1] and all(1 not in stats.counts for stats in holders):
        raise UserError(
            f"{len(holders):,} of {len(held.masks):,} masks hold 255 and others 1, never both: "
            "save all masks with the same values, or give --ignore-index 255 if that is what it means"
        )
    ask_whether_255_is_a_class(held, rest)
    return 255


def _nodata(held: Held) -> int | None:
    """The nodata value of the files, if they agree and it occurs beside background and objects; 0 is always
    background."""
    called = {stats.nodata for stats in held.masks}
    value = called.pop() if len(called) == 1 else None
    return value if value and value in held.totals and len(held.totals) > 2 else None


def _without_photographs(masks: Sequence[ValueStats]) -> Sequence[ValueStats]:
    """The masks without a few that have many times as many values as most, if the others have plain classes.

    A photograph among masks must not produce a hundred classes: its values are reported when masks are encoded.
    """
    counts = sorted(len(stats.counts) for stats in masks)
    usual = max(4 * counts[len(counts) // 2], FEW_VALUES)
    kept = [stats for stats in masks if len(stats.counts) <= usual]
    if len(kept) == len(masks):
        return masks
    plain = {value for stats in kept for value in stats.counts}
    is_stray = 10 * len(kept) >= 9 * len(masks) and len(plain) <= FEW_VALUES
    if not is_stray:
        return masks
    # Many values within the range of a binary mask may be JPEG noise.
    held = Held(masks)
    whole = Numbers(held, FOUND, None, Levels(held.values), None)
    is_binary = max(plain) - min(plain) >= MIN_RANGE
    is_noise = is_binary and len(held.values) > 3 and _is_soft(whole)
    return masks if is_noise else kept
