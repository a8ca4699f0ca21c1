"""Settings of evaluation and of the report."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unet_cli.config.base import check_extension, flag_of, setting
from unet_cli.config.data import DataConfig
from unet_cli.config.hardware import Hardware
from unet_cli.config.prediction import Cleaning, Inference
from unet_cli.config.spacing import Spaced
from unet_cli.errors import UserError


def parse_distance(text: str | float) -> float:
    """'1.5' or '1.5um' -> 1.5. Raises UserError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*[^\d\s.,+-]*\s*", str(text))
    if found is None:
        raise UserError(f"'{text}' is no distance: write a number, in the unit of --spacing or in pixels")
    return float(found[1])


@dataclass(frozen=True, kw_only=True)
class Scoring(Spaced):
    """How predictions are compared with truth."""

    empty: Literal["perfect", "skip", "worst"] = setting(
        "perfect", help="Score of a class that is neither in an image's mask nor in the prediction: perfect, not "
        "counted (skip), or the worst.", panel="Scores",
    )  # fmt: skip
    tolerance: float | None = setting(
        None, help="Tolerance of the surface Dice: how far borders may lie apart, in the unit of --spacing.  "
        "[default: 2 pixels; in volumes twice the shortest side of a voxel]", panel="Scores", minimum=0.0,
        parse=parse_distance, metavar="DISTANCE",
    )  # fmt: skip
    band: float | None = setting(
        None, help="Width of the inner border that the boundary IoU compares, in the unit of --spacing.  [default: 2 % "
        "of the image's diagonal]", panel="Scores", minimum=0.0, parse=parse_distance, metavar="DISTANCE",
    )  # fmt: skip
    isbi: bool = setting(
        False, help="Also compute the Rand and information scores of the ISBI 2012 challenge, for cells with membranes "
        "between them: foreground is cell, background membrane.", panel="Scores",
    )  # fmt: skip


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
