"""Masks in colours: detect colours that encode numbers, and colours that are classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unet_cli.config.model import MAX_CLASSES
from unet_cli.data.labels.doubts import ask_about_lost_colours, ask_whether_an_outline_is_a_class
from unet_cli.data.labels.label_map import NEAR_COLOURS, LabelMap, spelled
from unet_cli.data.labels.mixtures import is_mixture
from unet_cli.data.labels.noise import FLATNESS, ON_BORDERS, SHADES, SNAP
from unet_cli.data.labels.readings import Reading
from unet_cli.data.labels.spec import SWAPPED, ClassSpec, named
from unet_cli.data.labels.stats import CORE_SHARE, FEW_VALUES, Held, Total, ValueStats, unpacked
from unet_cli.data.maskfile import TRANSPARENT
from unet_cli.errors import UserError

TRACE = 0.01  # fraction of a class's pixels; a similar colour that is rarer, and without areas, is a drawing error
MIN_COLOUR = 64  # minimum pixels of a class's colour without areas; fewer are drawing errors
INVISIBLE = 64  # a channel with lower values contains numbers, since such colours look the same
MANY_SHADES = 8  # shades of one channel; more are numbers
MAX_CANDIDATES = 20_000  # most frequent colours in flat areas that are clustered
MIN_AREAS = 0.15  # minimum fraction of pixels within areas of exactly their colour, in masks even after JPEG
TINTED = 2 * NEAR_COLOURS  # maximum distance of JPEG's tints from a colour
LINE = 0.25  # components per pixel from which a thin colour is a shade and no line
BRIGHT = 0.6  # minimum fraction of the image border, for a lighter colour to be background
# Low and high end of plotting libraries' colour maps: viridis, plasma, inferno, magma, cividis, jet.
COLOUR_MAPS = (
    (0x440154, 0xFDE724), (0x440154, 0xFDE725), (0x0D0887, 0xF0F921), (0x000003, 0xFCFEA4), (0x000004, 0xFCFFA4),
    (0x000003, 0xFCFDBF), (0x000004, 0xFCFDBF), (0x00204C, 0xFFE945), (0x00224E, 0xFEE838), (0x000080, 0x800000),
    (0x00007F, 0x7F0000),
)  # fmt: skip


def numbers_in_colours(masks: Sequence[ValueStats]) -> Reading | None:
    """The reading of numbers stored in colour channels: dark or many shades of one channel; or two channels, low byte
    first. None for other colours."""
    colours = {value for stats in masks if stats.colour for value in stats.counts} - {TRANSPARENT, 0}
    if not colours or any(stats.rest for stats in masks if stats.colour):
        return None
    if any(stats.palette is not None for stats in masks):
        return None
    plain = {value for stats in masks if not stats.colour for value in stats.counts}
    red, green, blue = unpacked(np.array(sorted(colours)))
    channels: tuple[tuple[Reading, np.ndarray], ...] = (("red", red), ("green", green), ("blue", blue))
    for reading, channel in channels:
        others = sum(int(other.max()) for name, other in channels if name != reading)
        if others == 0 and (channel.max() < INVISIBLE or len(colours) > MANY_SHADES):
            return reading
    # Numbers up to 65,535: the low byte in red varies fully, the high byte in green stays low.
    if plain <= {0} and blue.max() == 0 and green.max() < INVISIBLE and len(colours) > FEW_VALUES:
        return "rgb"
    return None


def find_colours(held: Held, spec: ClassSpec) -> LabelMap:
    """The label map with colours that cover areas as classes. Background is transparent, or black; of two colours the
    low end of a colour map, the one along the image border or the darker one; else the most frequent. Raises
    UserError."""
    if spec.ignore not in (None, -1) and not spec.colour:
        raise UserError(
            f"the masks hold colours, of which --ignore-index {spec.ignore} is none: "
            "give `ignore = '#rrggbb'` and the classes in a --classes FILE.toml"
        )
    ignore = None if spec.ignore == -1 else spec.ignore
    is_told = bool(spec.names or spec.values)
    chosen, has_strays = _chosen(held, ignore, is_told)
    if ignore is None and {TRANSPARENT, 0} <= set(chosen) and not spec.values and _is_at_borders(held, 0):
        ignore = TRANSPARENT  # with black as background, transparent pixels are unlabelled
        chosen.remove(TRANSPARENT)
    if spec.values:
        return LabelMap(spec.values, spec.names, "colours", ignore, strays=has_strays)
    areas = sum(total.cores for total in held.totals.values())
    if len(held.totals) > FEW_VALUES and areas < MIN_AREAS * held.pixels:
        raise UserError(
            f"{1 - areas / held.pixels:.0%} of the masks' pixels have colours that cover no area: these look like "
            f"photographs. {SWAPPED}. Else name the classes in a --classes FILE.toml"
        )
    if len(chosen) > MAX_CLASSES:
        raise UserError(
            f"the masks hold more than {MAX_CLASSES} colours that cover areas: these look like photographs, not masks. "
            f"{SWAPPED}"
        )
    if not chosen:
        raise UserError(
            "the masks hold no colour that covers an area: these look like photographs. "
            f"{SWAPPED}. Else name the classes in a --classes FILE.toml"
        )
    if not is_told:
        ask_about_lost_colours(held, [colour for colour in chosen if colour != TRANSPARENT])
    background = _background(held, chosen)
    values = [background, *sorted(set(chosen) - {background})]
    if len(values) == 1:
        values.append(0xFFFFFF if background != 0xFFFFFF else 0)
    usual = ["background", "foreground"] if len(values) == 2 else [spelled(value) for value in values]
    usual[0] = "background" if values[0] == TRANSPARENT else usual[0]
    return LabelMap(tuple(values), named(spec, usual, "colours"), "colours", ignore, strays=has_strays)


def _chosen(held: Held, ignore: int | None, is_told: bool) -> tuple[list[int], bool]:
    """The colours that are classes, the most frequent first, and whether others are noise."""
    totals = {value: total for value, total in held.totals.items() if value != ignore}
    # Few colours are exact, even those of thin lines; many come from JPEG or soft edges and cover no areas.
    as_painted = len(totals) <= FEW_VALUES and not held.rest
    chosen = _painted(totals) if as_painted else _clusters(totals)
    edges = _edges(totals, chosen) if as_painted else {}
    if edges and not is_told:
        ask_whether_an_outline_is_a_class(edges)
    chosen = [colour for colour in chosen if colour not in edges]
    far = [value for value in totals if min((_distance(value, one) for one in chosen), default=0) > NEAR_COLOURS]
    if as_painted and len(far) + sum(not totals[value].has_areas for value in chosen) >= SHADES:
        chosen = [
            value for value in chosen if totals[value].has_areas or totals[value].parts < LINE * totals[value].pixels
        ]
    return chosen, len(far) >= SHADES or held.rest > 0 or bool(edges)


def _painted(totals: dict[int, Total]) -> list[int]:
    """All colours but drawing errors: classes may have similar colours, but not if one is a trace of the other."""
    chosen: list[int] = []
    for colour in sorted(totals, key=lambda value: -totals[value].pixels):
        total = totals[colour]
        near = [other for other in chosen if _distance(colour, other) <= NEAR_COLOURS]
        is_trace = any(total.pixels < TRACE * totals[other].pixels for other in near) and not total.has_areas
        if (total.pixels >= MIN_COLOUR or total.has_areas) and not is_trace and len(chosen) <= MAX_CLASSES:
            chosen.append(colour)
    return chosen


def _edges(totals: dict[int, Total], painted: list[int]) -> dict[int, int]:
    """Pixels of each colour that soft edges mix from two others, if one of them would otherwise be a class."""
    sure = [colour for colour in painted if totals[colour].has_areas]
    edges = {
        colour: total.pixels
        for colour, total in totals.items()
        if not total.has_areas and total.ramps >= ON_BORDERS * total.pixels and is_mixture(colour, sure)
    }
    return edges if edges.keys() & set(painted) else {}


def _clusters(totals: dict[int, Total]) -> list[int]:
    """The centres of the colours that JPEG and soft edges have left in flat areas."""
    flat = sorted((value for value in totals if totals[value].flats), key=lambda value: -totals[value].flats)
    values = np.array(flat[:MAX_CANDIDATES], np.int64)
    flats, pixels, cores = (np.array([totals[value][place] for value in values.tolist()]) for place in (2, 0, 1))
    channels = np.stack(unpacked(values), 1).astype(np.float32)
    chosen: list[int] = []
    sure: list[int] = []
    left = flats.copy()
    while left.any() and len(chosen) <= MAX_CLASSES:
        best = int(left.argmax())
        distances = np.linalg.norm(channels - channels[best], axis=1)
        distances[values == TRANSPARENT] = np.inf
        distances[best] = 0
        near = distances <= NEAR_COLOURS
        if flats[near].sum() >= max(MIN_COLOUR, FLATNESS * pixels[near].sum()):
            chosen.append(_snapped(int(values[best])))
            if cores[near].sum() >= CORE_SHARE * pixels[near].sum():
                sure.append(chosen[-1])
        left[near] = 0
        # JPEG tints flat areas around objects; a class of such a colour has areas of exactly this colour.
        left[(distances <= TINTED) & (cores < CORE_SHARE * pixels)] = 0
    # A wide blur is flat halfway between two colours, without being a class.
    return [colour for colour in dict.fromkeys(chosen) if colour in sure or not is_mixture(colour, sure)]


def _snapped(colour: int) -> int:
    """A colour after JPEG, with channels near 0 or 255 set to these."""
    if colour == TRANSPARENT:
        return colour
    parts = [0 if part <= SNAP else 255 if part >= 255 - SNAP else part for part in colour.to_bytes(3)]
    return int.from_bytes(bytes(parts))


def _background(held: Held, chosen: Sequence[int]) -> int:
    if TRANSPARENT in chosen or 0 in chosen:
        return TRANSPARENT if TRANSPARENT in chosen else 0
    if len(chosen) != 2:
        return chosen[0]
    for low, high in COLOUR_MAPS:
        if {low, high} == set(chosen):
            return low
    darker, lighter = sorted(chosen, key=lambda colour: sum(colour.to_bytes(3)))
    edges = {colour: held.totals[colour].edge if colour in held.totals else 0 for colour in chosen}
    whole = max(sum(edges.values()), 1)
    if edges[lighter] >= BRIGHT * whole:
        return lighter
    return darker


def _is_at_borders(held: Held, colour: int) -> bool:
    """Whether at least half of the opaque pixels along the image border have this colour."""
    seen = sum(total.edge for value, total in held.totals.items() if value != TRANSPARENT)
    return held.totals[colour].edge >= seen / 2 > 0


def _distance(colour: int, other: int) -> float:
    if TRANSPARENT in (colour, other):
        return 0.0 if colour == other else 1e3
    return sum((a - b) ** 2 for a, b in zip(colour.to_bytes(3), other.to_bytes(3), strict=True)) ** 0.5
