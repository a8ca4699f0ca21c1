"""Questions to the user about ambiguous masks, each with the findings and the flags that answer it.

Functions that begin with `ask` raise UserError if the question arises.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unet_cli.data.labels.label_map import NEAR_COLOURS, LabelMap, spelled
from unet_cli.data.labels.mixtures import off_mixtures
from unet_cli.data.labels.noise import MIN_PIXELS, NEAR, Levels
from unet_cli.data.labels.stats import FEW_VALUES, FLAT, Held, Total
from unet_cli.data.maskfile import TRANSPARENT, UNLABELLED
from unet_cli.errors import UserError
from unet_cli.system.console import few

ONE_LEVEL = 0.98  # minimum fraction of the intermediate pixels with one value that may be a class
CLEAN = 0.9  # minimum fraction, on ramps, of the pixels with nearly the value of a level, if areas are exact
LEFT_BY_INTERPOLATION = 0.06  # maximum fraction of the noise off ramps after interpolation, as at corners
LEFT_BY_JPEG = 0.025  # the same after JPEG, as a fraction of all pixels
LIKE_PHOTOGRAPHS = 0.5  # fraction of noise pixels above which masks look like photographs
PEAK_SHARE, PEAK = 0.04, 3.0  # minimum fraction of the noise in a peak; minimum ratio to the values near it
LOST, LOST_IN = 0.01, 0.2  # minimum fraction of the pixels, and of the masks, with colours that are no mixtures
MAX_MIXED = 40  # maximum number of classes whose mixtures are computed
LIKE_OBJECTS = 0.5  # minimum fraction of the pixels of 255 that are enclosed, if it may be a class
SHOWN = 20  # maximum number of names in a flag to paste


def objects_or_classes(labels: LabelMap) -> str:
    """The question whether values are classes or object numbers."""
    names = ",".join(["background", *labels.names[1:]]) if labels.num_classes <= SHOWN else "FILE.toml"
    return (
        f"the masks hold values up to {labels.values[-1]}, nearly each a single area in its mask: are these numbers of "
        f"objects, or classes? Add --classes background,object for objects, or --classes {names} for "
        "classes (or their real names)"
    )


def ask_what_unlabelled_pixels_are(held: Held) -> None:
    """NaN or -1 beside one or two values, none of them 0, may be background that was not filled with 0."""
    values = [value for value in held.totals if value != UNLABELLED]
    if not 1 <= len(values) <= 2 or 0 in values:
        return
    raise UserError(
        f"{held.totals[UNLABELLED].pixels / held.pixels:.1%} of the masks' pixels have no value (NaN, -1), and none "
        f"has 0: are they background, or not labelled? Add {classes_flag([-1, *values])} for background (or real "
        "names), or --ignore-index -1 for not labelled"
    )


def ask_whether_255_is_a_class(held: Held, others: Sequence[int]) -> None:
    """255 beside small numbers marks unlabelled pixels, unless it is enclosed by other values, as objects are.

    others: values of classes.
    """
    looked_at = [stats for stats in held.masks if stats.enclosed is not None]
    enclosed = sum(stats.enclosed or 0 for stats in looked_at)
    pixels = sum(stats.counts.get(255, 0) for stats in looked_at)
    if not enclosed or enclosed < LIKE_OBJECTS * pixels:
        return
    raise UserError(
        f"the masks hold {few(others)} and 255, which covers {pixels / held.pixels:.1%} of the pixels: is 255 a class, "
        f"or pixels that nobody has labelled? {enclosed / pixels:.0%} of it lies within another value, as objects do, "
        "and not along the images' borders or between values. Add --ignore-index -1 if it is a class, or "
        "--ignore-index 255 if it counts nowhere"
    )


def ask_whether_a_ring_is_a_class(held: Held, ends: tuple[int, int]) -> None:
    """Soft edges have several values; if nearly all intermediate pixels of a binary mask have one value, it may be a
    class drawn around objects."""
    reach = FLAT if ends[1] < 256 else FLAT * 257
    between = {value: total for value, total in held.totals.items() if ends[0] + reach < value < ends[1] - reach}
    pixels = sum(total.pixels for total in between.values())
    value = max(between, key=lambda value: between[value].pixels, default=0)
    if pixels < MIN_PIXELS or between[value].pixels < ONE_LEVEL * pixels:
        return
    raise UserError(
        f"the masks hold {ends[0]}, {ends[1]} and, in thin structures, {value} ({pixels / held.pixels:.2%} of the "
        f"pixels): is {value} a class, or a soft edge? Add {classes_flag([ends[0], value, ends[1]])} if it is a class "
        "(or real names), or --classes background,foreground if it is an edge"
    )


def ask_whether_they_were_resized(held: Held, levels: Levels) -> None:
    """Interpolation causes values between those of adjacent areas, on ramps. Others, outside the range of levels or off
    ramps, indicate thin classes, whose pixels may all have lost their own value."""
    noise = {value: held.totals[value] for value in levels.noise}
    pixels = sum(total.pixels for total in noise.values())
    lowest, highest = levels.values[0] - FLAT, levels.values[-1] + FLAT
    beyond = sum(total.pixels for value, total in noise.items() if not lowest <= value <= highest)
    on_no_ramp = pixels - sum(total.ramps for total in noise.values())
    usual = LEFT_BY_INTERPOLATION * pixels if _has_clean_areas(held, levels) else LEFT_BY_JPEG * held.pixels
    if max(beyond, on_no_ramp) < max(MIN_PIXELS, usual) or pixels > LIKE_PHOTOGRAPHS * held.pixels:
        return
    every = sorted({*levels.values, *_peaks(noise)})
    raise UserError(
        "the masks look as though they were resized with interpolation, or saved as JPEG of low quality: "
        f"{pixels / held.pixels:.1%} of the pixels have other values than the {len(levels.values)} that cover areas "
        f"({', '.join(map(str, levels.values[:SHOWN]))}), and thin classes may be lost among these. Save the masks "
        "again, resized with nearest neighbour, as PNG; or give the value of every class, such as "
        f"{classes_flag(every)}"
    )


def _has_clean_areas(held: Held, levels: Levels) -> bool:
    """Whether values near a level are only on ramps, as after interpolation; JPEG spreads them over areas."""
    near = [
        total
        for value, total in held.totals.items()
        if 0 < min(abs(value - level) for level in levels.values) <= levels.reach
    ]
    return sum(total.ramps for total in near) > CLEAN * sum(total.pixels for total in near)


def _peaks(noise: dict[int, Total]) -> list[int]:
    """Values with many more pixels than others near them."""
    pixels = sum(total.pixels for total in noise.values())
    return [
        value
        for value, total in noise.items()
        if total.pixels >= PEAK_SHARE * pixels
        and total.pixels >= PEAK * np.median([one.pixels for near, one in noise.items() if abs(near - value) <= NEAR])
    ]


def ask_whether_an_outline_is_a_class(edges: dict[int, int]) -> None:
    """The corresponding question for colours. edges: pixels of the colours that lie between two others, in RGB and in
    position."""
    colour = max(edges, key=lambda colour: edges[colour])
    if edges[colour] < ONE_LEVEL * sum(edges.values()):
        return
    raise UserError(
        f"the masks hold {spelled(colour)} in thin structures, and it lies between two other colours: is it a class, "
        "or a soft edge? Name the colour of every class, with or without this one, such as --classes "
        f"'background=#000000,outline={spelled(colour)}', or in a --classes FILE.toml"
    )


def ask_about_lost_colours(held: Held, chosen: Sequence[int]) -> None:
    """JPEG leaves no areas of small or thin classes; their colours are no mixtures of those with areas.

    chosen: colours that cover areas.
    """
    if len(held.totals) <= FEW_VALUES or not 1 <= len(chosen) <= MAX_MIXED:
        return
    colours = np.array([colour for colour in held.totals if colour != TRANSPARENT])
    lost = set(colours[off_mixtures(colours, chosen) > 3 * NEAR_COLOURS].tolist())
    pixels = sum(held.totals[colour].pixels for colour in lost)
    # A photograph among the masks is reported elsewhere, when it is encoded.
    holders = sum(
        sum(count for colour, count in stats.counts.items() if colour in lost) > LOST * sum(stats.counts.values())
        for stats in held.masks
    )
    if pixels < max(MIN_PIXELS, LOST * held.pixels) or holders < LOST_IN * len(held.masks):
        return
    raise UserError(
        f"{pixels / held.pixels:.1%} of the masks' pixels have colours that are none of the {len(chosen)} that cover "
        f"areas ({', '.join(map(spelled, chosen[:SHOWN]))}), nor between two of these: JPEG seems to have blurred "
        "classes that are small or thin. Save the masks again as PNG; or name the colour of every class, such as "
        f"--classes 'background={spelled(chosen[0])},name=#rrggbb', or in a --classes FILE.toml"
    )


def classes_flag(values: Sequence[int]) -> str:
    """The --classes flag that makes each of these values a class, the first one background."""
    if len(values) > SHOWN:
        return f"a --classes FILE.toml with a line for each of {len(values)} values, first `background = {values[0]}`,"
    first, *others = values
    return f"--classes 'background={first},{','.join(f'{value}={value}' for value in others)}'"
