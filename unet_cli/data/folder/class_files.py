"""Decode the mask file of a single class, whatever values its tool writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unet_cli.errors import UserError
from unet_cli.system.console import few

RANGE = 64  # minimum range of levels that may have soft edges: the class is then the upper half
MAX_LEVELS = 8  # maximum levels that cover areas; more are object numbers
MIN_CORES, CORE_SHARE = 4, 0.05  # minimum pixels, and fraction of its pixels, within areas of an intended value
MIN_SHARE = 0.1  # minimum pixels of a third intended value, relative to the second most frequent one
PAINTED = 4  # with at most so many values, all are intended; more include shades
NEAR = 24  # maximum distance of a value's shades, in each channel


def where_marked(channels: np.ndarray, path: Path) -> np.ndarray:
    """(C, P, H, W) gray or colour, black for unmarked pixels -> (P, H, W) bool.

    The class is everything that isn't black; with a wide range of levels, which may have soft edges, the upper half.
    Many values that cover areas are object numbers. Raises UserError if several values cover areas, so that the class
    is ambiguous.
    """
    light = channels.max(0)
    low, top = int(light.min()), int(light.max())
    if top < RANGE:
        return light > 0
    sure = _sure(channels)
    if len(sure) > MAX_LEVELS:
        return light > 0
    middle, is_bright = (low + top) / 2, top - low < RANGE
    bright = [max(value) for value in sure if max(value) >= middle]
    if is_bright:
        is_clear = all(_is_near(value, sure[0]) for value in sure)
    else:
        is_clear = len(sure) - len(bright) < 2 and max(bright, default=0) - min(bright, default=0) < RANGE
    if not is_clear:
        shown = few([str(one[0]) if len(one) == 1 else f"#{bytes(one).hex()}" for one in sorted(sure)])
        shown += f" and up to {top}" if not bright else ""
        why = "none of which is a background" if is_bright else "so that it isn't clear which of them is the class"
        raise UserError(
            f"{path} is the mask of one class and holds {shown}, {why}: save each class as 255 on 0, or all classes in "
            "one file"
        )
    return light > 0 if is_bright else light >= middle


def _sure(channels: np.ndarray) -> list[list[int]]:
    """The intended values, as a list of channels each: the most frequent ones that cover areas, without their
    shades."""
    # The channels are packed into one integer a pixel, since numpy's unique is much slower on rows.
    packed = np.zeros(channels.shape[1:], np.int64)
    for channel in channels:
        packed = packed << 16 | channel
    names, counts = np.unique(packed, return_counts=True)
    shifts = 16 * np.arange(len(channels))[::-1]
    found: list[list[int]] = []
    least = 0.0
    for place in np.argsort(-counts, kind="stable").tolist():
        if len(found) > MAX_LEVELS or counts[place] < max(MIN_CORES, least):
            break
        value = (int(names[place]) >> shifts & 0xFFFF).tolist()
        is_shade = any(_is_near(value, one) for one in found)
        if is_shade and len(names) > PAINTED:
            continue
        if _cores(packed == names[place]) >= max(MIN_CORES, CORE_SHARE * counts[place]):
            found.append(value)
            least = MIN_SHARE * counts[place] if len(found) == 2 else least
    return found


def _is_near(value: list[int], other: list[int]) -> bool:
    return max(abs(a - b) for a, b in zip(value, other, strict=True)) <= NEAR


def _cores(inside: np.ndarray) -> int:
    """Number of pixels of (P, H, W) whose 3 x 3 neighbourhood is inside."""
    rows = inside[:, :-2] & inside[:, 1:-1] & inside[:, 2:]
    return int(np.count_nonzero(rows[..., :-2] & rows[..., 1:-1] & rows[..., 2:]))
