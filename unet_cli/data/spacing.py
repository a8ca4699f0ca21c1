"""The spacing of a volume's voxels, as its file tells it."""

from __future__ import annotations

from unet_cli.data.source import Source


def spacing_of(source: Source) -> tuple[float, float, float] | None:
    """Distance between the centres of voxels in mm, along (D, H, W); None where the file doesn't tell. Raises
    UserError."""
    return None
