"""Settings of evaluation and of the report."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unet_cli.config.base import Checked, check_extension, flag_of, setting
from unet_cli.config.data import DataConfig
from unet_cli.config.hardware import Hardware
from unet_cli.config.prediction import Cleaning, Inference
from unet_cli.errors import UserError

Spacing = tuple[float, float, str]  # of rows, of columns, and the unit


def parse_spacing(text: str) -> Spacing:
    """'0.5' -> (0.5, 0.5, ''); '4.6,2.3nm' -> (4.6, 2.3, 'nm'): rows first. Raises UserError."""
    found = re.fullmatch(r"\s*([\d.eE+-]+?)\s*(?:,\s*([\d.eE+-]+?)\s*)?([^\d\s.,+-]*)\s*", str(text))
    try:
        rows = float(found[1]) if found else math.nan
        columns = float(found[2]) if found and found[2] else rows
    except ValueError:
        rows = columns = math.nan
    if not (0 < rows < math.inf and 0 < columns < math.inf) or found is None:
        raise UserError(f"'{text}' is no spacing: write the size of a pixel, such as 0.5um, or rows,columns: 4.6,2.3nm")
    return rows, columns, found[3]


def parse_distance(text: str | float) -> float:
    """'1.5' or '1.5um' -> 1.5. Raises UserError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*[^\d\s.,+-]*\s*", str(text))
    if found is None:
        raise UserError(f"'{text}' is no distance: write a number, in the unit of --spacing or in pixels")
    return float(found[1])


@dataclass(frozen=True, kw_only=True)
class Scoring(Checked):
    """How predictions are compared with truth."""

    empty: Literal["perfect", "skip", "worst"] = setting(
        "perfect", help="Score of a class that is neither in an image's mask nor in the prediction: perfect, not "
        "counted (skip), or the worst.", panel="Scores",
    )  # fmt: skip
    spacing: Spacing | None = setting(
        None, help="Pixel size, such as 0.5um, or rows,columns, such as 4.6,2.3nm: distances are then in this unit.  "
        "[default: distances in pixels]", panel="Scores", parse=parse_spacing, metavar="SIZE",
    )  # fmt: skip
    tolerance: float | None = setting(
        None, help="Tolerance of the surface Dice: how far borders may lie apart, in the unit of --spacing.  "
        "[default: 2 pixels]", panel="Scores", minimum=0.0, parse=parse_distance, metavar="DISTANCE",
    )  # fmt: skip
    band: float | None = setting(
        None, help="Width of the inner border that the boundary IoU compares, in the unit of --spacing.  [default: 2 % "
        "of the image's diagonal]", panel="Scores", minimum=0.0, parse=parse_distance, metavar="DISTANCE",
    )  # fmt: skip
    isbi: bool = setting(
        False, help="Also compute the Rand and information scores of the ISBI 2012 challenge, for cells with membranes "
        "between them: foreground is cell, background membrane.", panel="Scores",
    )  # fmt: skip

    @property
    def within(self) -> float:
        """How far borders may lie apart, in the unit of distances."""
        return 2 * max(self.pixel) if self.tolerance is None else self.tolerance

    def band_of(self, size: tuple[int, int]) -> float:
        """Width of the inner border of an image of (H, W) pixels, in the unit of distances."""
        return 0.02 * self.diagonal(size) if self.band is None else self.band

    @property
    def unit(self) -> str:
        """Of distances, in words."""
        return "px" if self.spacing is None else self.spacing[2] or "units"

    def diagonal(self, size: tuple[int, int]) -> float:
        """Of an image of (H, W) pixels, in the unit of distances."""
        return math.hypot(size[0] * self.pixel[0], size[1] * self.pixel[1])

    @property
    def pixel(self) -> tuple[float, float]:
        """Its height and width, in the unit of distances."""
        return (1.0, 1.0) if self.spacing is None else self.spacing[:2]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(DataConfig, Inference, Cleaning, Scoring):
    """Everything that `unet evaluate` can be told."""

    weights: tuple[Path, ...] = setting(
        (), help="Checkpoint that `unet train` wrote, or the folder of a run. Several, or a folder of folds, are an "
        "ensemble: for each image those that were not trained on it are averaged.", panel="Files", metavar="FILE",
    )  # fmt: skip
    pred: Path | None = setting(
        None, help="Folder of masks that any tool predicted, instead of --weights.", panel="Files", metavar="DIR"
    )
    compare: Path | None = setting(
        None, help="Another checkpoint, run or folder of masks: says of each score whether the difference on these "
        "images is statistically significant.", panel="Files", metavar="FILE",
    )  # fmt: skip
    csv: Path | None = setting(
        None, help="CSV file for the scores of each image and class.", panel="Output", metavar="FILE"
    )
    report: Path | None = setting(
        None, help="HTML file for a page with pictures of the images that came out worst.", panel="Output",
        metavar="FILE",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.weights) == (self.pred is not None):
            raise UserError("say what is to be evaluated: either --weights FILE, or --pred DIR with masks")
        if self.attention_maps:
            raise UserError("--attention-maps is for unet predict: leave it out")
        check_extension("--csv", self.csv, ".csv")
        check_extension("--report", self.report, ".html")
        of_networks = [name for name in ("size", "mode", "prune", "flips", "threshold") if getattr(self, name)]
        if of_networks and self.pred is not None and self.compare is None:
            raise UserError(f"{flag_of(of_networks[0])} is for networks, and --pred holds masks: leave it out")


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Hardware):
    """Everything that `unet report` can be told."""

    run: Path = setting(
        help="Folder of a run, or of a run's folds, such as checkpoints/cells-1.", panel="Files", metavar="RUN",
        positional=True,
    )  # fmt: skip
    output: Path | None = setting(
        None, help="HTML file to write.  [default: report.html in the run's folder]", panel="Output", metavar="FILE"
    )
    data: Path | None = setting(
        None, help="Folder with the images and masks, if they have moved.", panel="Data", metavar="DIR"
    )
    suspects: bool = setting(
        False, help="Also list training masks that look wrong, where the network is sure of something else.",
        panel="Output",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        check_extension("--output", self.output, ".html")
