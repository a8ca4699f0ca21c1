"""Read masks as the classes that they are compared with, though their values or colours may differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from unet_cli.data.labels import ClassSpec, LabelMap, ValueStats, find_labels
from unet_cli.data.labels.numbering import could_be_objects
from unet_cli.errors import UserError


def values_or_objects(stats: Sequence[ValueStats], labels: LabelMap) -> LabelMap:
    """The label map of masks that are compared with these classes. Compared with objects or with two classes, masks of
    many numbers are read as objects if they can be, however few the masks. Raises UserError."""
    objects = ClassSpec(labels.names)
    if labels.kind == "instances":
        return find_labels(stats, objects)
    try:
        values = find_labels(stats)
    except UserError:  # a few masks of many small objects look like photographs
        if labels.num_classes != 2 or not could_be_objects(stats, None):
            raise
        return find_labels(stats, objects)
    return find_labels(stats, objects) if labels.num_classes == 2 and values.could_be_objects(stats) else values


def as_classes(
    stats: Sequence[ValueStats], found: LabelMap, wanted: LabelMap, what: str, is_given: bool = False
) -> tuple[LabelMap, list[str]]:
    """The label map that reads masks of these values as the wanted classes, and remarks on it: by value if all values
    are known, by name if the user has named the same classes, else by order.

    is_given: whether the user has specified how the masks are read. Raises UserError if the number of classes differs,
    or if only some values are known.
    """
    if is_given and sorted(found.names) == sorted(wanted.names):
        order = [found.names.index(name) for name in wanted.names]
        values = tuple(found.values[place] for place in order)
        return _called_as(replace(found, values=values), wanted), []
    alike = (wanted.kind, found.kind) in (("values", "values"), ("values", "soft"), ("colours", "colours"))
    alike &= wanted.reading == found.reading or found.reading != "gray"  # palettes that hold other things than indices
    alike |= wanted.kind == "colours" and any(one.palette is not None for one in stats)
    by_palette = _by_palette(found, wanted)
    if by_palette is not None and not is_given and not by_palette.count_classes(stats)[1]:
        return by_palette, [f"{what} are read by the colours of the palette that they are compared with"]
    by_value = alike and not is_given and wanted.ignore not in found.values and not _fall_together(found, wanted)
    if by_value and not wanted.count_classes(stats)[1]:
        return wanted, []
    # A partial overlap of values is ambiguous: reading by order could silently exchange classes.
    some_known = wanted.num_classes > 2 and set(found.values[1:]) & set(wanted.values[1:])
    if found.num_classes != wanted.num_classes or (some_known and not is_given):
        raise UserError(
            f"{what} have other classes than they are compared with, {found.describe()} and not {wanted.describe()}: "
            "map values to classes of the same names with --classes FILE.toml, or give masks of the same classes"
        )
    note = (
        [] if found.values == wanted.values else [f"{what} are read in the order of their values: {found.describe()}"]
    )
    return _called_as(found, wanted), note


def _called_as(found: LabelMap, wanted: LabelMap) -> LabelMap:
    return replace(found, names=wanted.names, background=wanted.background, overlapping=wanted.overlapping)


def _fall_together(found: LabelMap, wanted: LabelMap) -> bool:
    """Whether distinct values fall into one class of `wanted` only because of its tolerance for JPEG noise: 0, 1 and 2
    are all background within the reach of 0, 128 and 255, but not if `found` has no such noise."""
    if not wanted.reach or found.reach or found.kind != "values":
        return False
    known = [index for index in wanted.indices_of(np.array(found.values)).tolist() if index >= 0]
    return len(set(known)) < len(known)


def _by_palette(found: LabelMap, wanted: LabelMap) -> LabelMap | None:
    """The label map of colour masks that use the palette colours of the wanted classes; None if they don't."""
    if found.kind != "colours" or not wanted.palette or max(wanted.values) >= len(wanted.palette) // 3:
        return None
    shown = [int.from_bytes(bytes(wanted.palette[3 * value : 3 * value + 3])) for value in wanted.values]
    if len(set(shown)) < len(shown) or not set(found.values) <= set(shown):
        return None
    return replace(found, values=tuple(shown), names=wanted.names, background=wanted.background, ignore=None)
