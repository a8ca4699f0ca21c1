"""Remarks on decisions about the masks that the user can change: one line each, with the flag."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from unet_cli.data.labels.doubts import classes_flag
from unet_cli.data.labels.label_map import LabelMap
from unet_cli.data.labels.numbering import MANY_CLASSES
from unet_cli.data.labels.stats import ValueStats
from unet_cli.data.maskfile import TRANSPARENT, UNLABELLED

READINGS = {
    "gray": "the masks' palettes are read as the gray that they show: white comes first, or they number otherwise",
    "red": "the masks keep numbers in their red channel: read as such, and written as gray",
    "green": "the masks keep numbers in their green channel: read as such, and written as gray",
    "blue": "the masks keep numbers in their blue channel: read as such, and written as gray",
    "rgb": "the masks keep numbers in their colours (R + 256 G + 65536 B): read as such, and written as gray",
    "planes": "the masks are one-hot: the number of the plane that marks a pixel, from 1 on; 0 where none does",
    "planes from 0": "the masks are one-hot: the number of the plane that marks a pixel, from 0 on",
}


def remarks(labels: LabelMap, masks: Sequence[ValueStats]) -> list[str]:
    """A line for each decision. masks: statistics as counted in the files."""
    lines = [READINGS[labels.reading]] if labels.reading in READINGS else []
    pixels = max(sum(sum(stats.counts.values()) + stats.rest for stats in masks), 1)
    if labels.strays or labels.reach or labels.kind == "colours":
        strays, doubtful = count_strays(labels, masks)
        what = "colour" if labels.kind == "colours" else "value"
        if strays > doubtful:
            lines.append(f"{(strays - doubtful) / pixels:.2%} of the pixels have nearly the {what} of a class")
        if doubtful:
            lines.append(
                f"{doubtful / pixels:.2%} of the pixels are doubtful, as slips, soft edges and JPEG leave them: read "
                "as the nearest sure pixel"
            )
    if labels.kind == "colours":
        lines += _of_colours(labels)
    if labels.kind == "instances":
        most = max((len(stats.counts) for stats in masks), default=1) - 1
        lines.append(
            f"the masks number their objects (up to {most:,} in one): train learns each by itself, and predict numbers "
            "them; --target classes learns the foreground alone"
        )
    unlabelled = sum(stats.counts.get(UNLABELLED, 0) for stats in masks)
    if labels.unlabelled_is_background and unlabelled:
        lines.append(f"{unlabelled / pixels:.1%} of the pixels have no value (NaN, -1): {labels.names[0]}")
    if labels.num_classes > MANY_CLASSES:
        lines.append(f"{labels.num_classes} classes are many; if the masks number objects: --classes background,object")
    if labels.ignore is not None:
        ignored = sum(stats.counts.get(labels.ignore, 0) for stats in labels.read(masks))
        same = "" if labels.kind == "colours" else f"--ignore-index {labels.ignore} says the same, and "
        lines.append(
            f"{labels.spell(labels.ignore)} counts nowhere in the masks ({ignored / pixels:.1%} of the pixels); "
            f"{same}--ignore-index or --classes FILE.toml decides otherwise"
        )
    if labels.ignore == UNLABELLED and 0 not in labels.values:
        lines.append(f"if pixels without a value are background: {classes_flag([-1, *labels.values])} (or real names)")
    return lines


def count_strays(labels: LabelMap, masks: Sequence[ValueStats]) -> tuple[int, int]:
    """Pixels whose value is neither exactly that of a class nor ignored; and those among them that are near to no
    class."""
    known = {*labels.values, labels.ignore, UNLABELLED}
    counts, rest = Counter[int](), 0
    for stats in labels.read(masks):
        counts.update({value: count for value, count in stats.counts.items() if value not in known})
        rest += stats.rest
    values = np.fromiter(counts, np.int64, len(counts))
    far = labels.indices_of(values) < 0
    return counts.total() + rest, int(np.fromiter(counts.values(), np.int64, len(counts))[far].sum()) + rest


def _of_colours(labels: LabelMap) -> list[str]:
    lines = []
    if TRANSPARENT in labels.values:
        lines.append(f"transparent pixels of the masks are the class {labels.names[labels.values.index(TRANSPARENT)]}")
    elif labels.num_classes == 2 and labels.values[0] and labels.names[0] == "background":
        first, second = labels.spelled(0), labels.spelled(1)
        lines.append(
            f"{first} is taken for the background, as the colour along the images' borders or the darker one; to turn "
            f"it round: --classes 'background={second},foreground={first}'"
        )
    return lines
