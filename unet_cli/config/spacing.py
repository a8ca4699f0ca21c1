"""The spacing of pixels and voxels as users state it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from unet_cli.config.base import Checked, setting
from unet_cli.errors import UserError

Spacing = tuple[tuple[float, ...], str]  # of all axes, or of rows and columns, or of slices, rows and columns; the unit

MM = {"nm": 1e-6, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "mm": 1.0, "": 1.0, "cm": 10.0, "m": 1e3}  # by unit


def parse_spacing(text: str) -> Spacing:
    """'0.5' -> ((0.5,), ''), which is of all axes; '4.6,2.3nm' -> ((4.6, 2.3), 'nm'): rows first; '3,1,1mm' -> ((3, 1,
    1), 'mm'): slices first. Raises UserError."""
    found = re.fullmatch(r"\s*([\d.eE+-]+?(?:\s*,\s*[\d.eE+-]+?){0,2})\s*([^\d\s.,+-]*)\s*", str(text))
    try:
        steps = tuple(float(step) for step in found[1].split(",")) if found else ()
    except ValueError:
        steps = ()
    if not steps or found is None or not all(0 < step < math.inf for step in steps):
        raise UserError(
            f"'{text}' is no spacing: write the size of a pixel, such as 0.5um, or rows,columns: 4.6,2.3nm, or for "
            "volumes slices,rows,columns: 3,0.8,0.8mm"
        )
    return steps, found[2]


def spell_spacing(spacing: Spacing) -> str:
    """A spacing as parse_spacing reads it."""
    steps, unit = spacing
    return ",".join(map(repr, steps)) + unit


def in_mm(spacing: Spacing, flag: str = "--spacing") -> tuple[float, float, float]:
    """The spacing of voxels along (D, H, W) in mm, which a number without a unit is in too. Raises UserError for
    another number of axes, and for unknown units."""
    steps, unit = spacing
    if len(steps) not in (1, 3):
        raise UserError(
            f"{flag} has {len(steps)} numbers, but volumes have three: slices,rows,columns; or give one for all"
        )
    if unit not in MM:
        raise UserError(f"{flag} is in '{unit}', which is no unit of length here: write mm, um, nm, cm or m")
    depth, height, width = (step * MM[unit] for step in steps * (3 // len(steps)))
    return depth, height, width


def along_axes(spacing: Spacing, dims: int) -> tuple[tuple[float, ...], str]:
    """The size of a pixel along (H, W), or of a voxel along (D, H, W), and the unit, 'units' where none is given.
    Raises UserError for another number of axes."""
    steps, unit = spacing
    if len(steps) not in (1, dims):
        axes = "volumes have three: slices,rows,columns" if dims == 3 else "images have two: rows,columns"
        raise UserError(f"--spacing has {len(steps)} numbers, but {axes}; or give one for all")
    return steps * (dims // len(steps)), unit or "units"


def describe_spacing(spacing: Sequence[float]) -> str:
    """Of voxels along (D, H, W) in mm, for messages: '0.5x0.5x2 mm', the slices last as in sizes."""
    return "x".join(f"{step:.3g}" for step in reversed(spacing)) + " mm"


def parse_resample(text: str) -> str:
    """'1, 1, 1mm' -> '1.0,1.0,1.0', in mm; 'median' and 'native' as they are. Raises UserError."""
    if text in ("median", "native"):
        return text
    try:
        return spell_spacing((in_mm(parse_spacing(text), "--resample"), ""))
    except UserError as error:
        raise UserError(
            f"--resample is '{text}': write slices,rows,columns in mm, such as 1,1,1, or median, or native"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Spaced(Checked):
    """What the files don't tell of their pixels or voxels. The same in training, prediction and evaluation."""

    spacing: Spacing | None = setting(
        None, help="Size of a voxel, slices,rows,columns, such as 3,0.8,0.8mm, whatever the files of volumes tell; in "
        "evaluation also that of a pixel, such as 0.5um, or rows,columns, such as 4.6,2.3nm: distances are then in "
        "this unit.  [default: what the files of volumes tell]", panel="Data", parse=parse_spacing,
        spell=spell_spacing, metavar="SIZE", lasting="run",
    )  # fmt: skip
