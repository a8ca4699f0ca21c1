"""What masks leave open: the questions, each with what was found and the flags that answer it.

Those that begin with `ask` raise UserError where there is something to ask.
"""

from __future__ import annotations

from collections.abc import Sequence

from unet_cli.console import few
from unet_cli.data.imagefile import UNLABELLED
from unet_cli.data.labels.label_map import LabelMap
from unet_cli.data.labels.stats import Held
from unet_cli.errors import UserError

LIKE_OBJECTS = 0.5  # share of the pixels of 255 that lie within another value, from which it may be a class
SHOWN = 20  # names that a flag may have, to be pasted


def objects_or_classes(labels: LabelMap) -> str:
    """To be asked where values may be classes or numbers of objects."""
    names = ",".join(["background", *labels.names[1:]]) if labels.num_classes <= SHOWN else "FILE.toml"
    return (
        f"the masks hold values up to {labels.values[-1]}, nearly each a single area in its mask: are these numbers of "
        f"objects, or classes? Add --classes background,object for objects, or --classes {names} for "
        "classes (or their real names)"
    )


def ask_what_unlabelled_pixels_are(held: Held) -> None:
    """NaN or -1 beside one or two values, none of which is 0, may be the background that nobody filled with 0."""
    values = [value for value in held.totals if value != UNLABELLED]
    if not 1 <= len(values) <= 2 or 0 in values:
        return
    raise UserError(
        f"{held.totals[UNLABELLED].pixels / held.pixels:.1%} of the masks' pixels have no value (NaN, -1), and none "
        f"has 0: are they background, or not labelled? Add {classes_flag([-1, *values])} for background (or real "
        "names), or --ignore-index -1 for not labelled"
    )


def ask_whether_255_is_a_class(held: Held, others: Sequence[int]) -> None:
    """255 beside small numbers marks unlabelled pixels; but not where it lies as objects do, within other values.

    others: that are classes.
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


def classes_flag(values: Sequence[int]) -> str:
    """--classes that makes each of these values a class, the first one background."""
    if len(values) > SHOWN:
        return f"a --classes FILE.toml with a line for each of {len(values)} values, first `background = {values[0]}`,"
    first, *others = values
    return f"--classes 'background={first},{','.join(f'{value}={value}' for value in others)}'"
