"""Interpretation of palettes: the index is the label if palettes agree, else the displayed colour."""

from __future__ import annotations

from collections.abc import Sequence

from unet_cli.data.labels.readings import Reading, pack_palette
from unet_cli.data.labels.stats import ValueStats
from unet_cli.errors import UserError
from unet_cli.system.console import counted, few


def palettes(masks: Sequence[ValueStats]) -> tuple[Reading, tuple[int, ...] | None]:
    """How masks are read of which some have a palette; and the palette, if indices are the labels.

    The index is the label if all palettes agree and have distinct colours; masks without palette then contain indices.
    If palettes differ, or have a colour twice, the colour is the label. Of two entries black is background, whatever
    its index. Raises UserError if masks without palette fit neither.
    """
    with_palette = [stats for stats in masks if stats.palette is not None]
    plain = {value for stats in masks if stats.palette is None and not stats.colour for value in stats.counts}
    has_colours = any(stats.colour for stats in masks)
    if not with_palette:
        return "stored", None
    agreed = _agreed(with_palette)
    shown = {colour for stats in with_palette for colour in _colours(stats).values()}
    is_gray = all(colour % 0x010101 == 0 for colour in shown)
    if agreed is not None and not has_colours:
        fits_gray = is_gray and plain <= {colour & 255 for colour in shown}
        if _is_white_first(with_palette) and len(agreed) > 1:
            if not fits_gray and plain:
                raise UserError(
                    f"{counted(len(with_palette), 'mask')} with a palette show the value 0 as white, and plain ones "
                    f"beside them hold {few(sorted(plain))}: which is the background? Save all masks without a palette"
                )
            return "gray", None
        if not plain:
            return "stored", tuple(part for value in range(max(agreed) + 1) for part in _parts(agreed.get(value, 0)))
        in_conflict = any(agreed.get(value) != 0x010101 * value for value in plain)
        return ("gray" if fits_gray and in_conflict and not _is_ramp(agreed) else "stored"), None
    levels = {colour & 255 for colour in shown if colour % 0x010101 == 0}
    if plain and not has_colours and not plain <= levels:
        raise UserError(
            f"the palettes of {counted(len(with_palette), 'mask')} number the same colours differently, and "
            f"plain masks beside them hold {few(sorted(plain))}, which are none of the grays that these show: save all "
            "masks with one palette, or all without"
        )
    return ("gray" if is_gray and not has_colours else "colours"), None


def _agreed(masks: Sequence[ValueStats]) -> dict[int, int] | None:
    """The colour of each used index; None if palettes differ in one, or have a colour twice."""
    agreed: dict[int, int] = {}
    listed: dict[int, int] = {}
    for stats in masks:
        palette = stats.palette or ()
        last = max((place // 3 for place, part in enumerate(palette) if part), default=0)
        for value, colour in _colours(stats).items():
            if agreed.setdefault(value, colour) != colour:
                return None
            if value <= last:  # indices beyond are black since the palette has no entry
                listed[value] = colour
    return agreed if len(set(listed.values())) == len(listed) else None


def _colours(stats: ValueStats) -> dict[int, int]:
    """The colours of the indices that a mask uses."""
    colours = pack_palette(stats.palette or ())
    return {value: int(colours[value]) for value in stats.counts if 0 <= value < 256}


def _is_white_first(masks: Sequence[ValueStats]) -> bool:
    """Whether palettes are black and white only, with white at index 0."""
    every = [stats.palette or () for stats in masks]
    return all(
        set(palette) <= {0, 255} and palette[::3] == palette[1::3] == palette[2::3] and palette[:1] == (255,)
        for palette in every
    )


def _is_ramp(agreed: dict[int, int]) -> bool:
    """Whether the palette is the complete gray ramp, inverted, as written by viewers that show masks inverted."""
    return all(colour == 0x010101 * (255 - index) for index, colour in agreed.items())


def _parts(colour: int) -> tuple[int, int, int]:
    return colour >> 16, colour >> 8 & 255, colour & 255
