"""Settings of `unet convert`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unet_cli.config.base import setting
from unet_cli.config.data import DataConfig


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(DataConfig):
    """Everything that `unet convert` can be told."""

    to: Literal["masks", "coco", "yolo", "labelme"] = setting(
        help="What to write: masks as PNG, or annotations that COCO tools, Ultralytics (yolo) or labelme open.",
        panel="Output",
    )
    output: Path = setting(help="New folder for the data set in its other form.", panel="Output", metavar="DIR")
    simplify: float = setting(
        0.5, help="Leave out corners of polygons that are no farther than this many pixels from the rest; 0 keeps all, "
        "and the polygons draw exactly the mask.", panel="Output", minimum=0.0, maximum=100.0, metavar="PIXELS",
    )  # fmt: skip
