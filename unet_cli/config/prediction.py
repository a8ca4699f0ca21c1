"""Settings of prediction: what the network sees, the decision, and what is done to the masks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unet_cli.config.base import Checked, check_extension, setting
from unet_cli.config.hardware import Batches
from unet_cli.config.model import MAX_SIZE, MIN_SIZE
from unet_cli.config.spacing import Spaced
from unet_cli.errors import UserError


def parse_threshold(text: str) -> float | Literal["auto"]:
    """'0.4' -> 0.4; 'auto' as it is. Raises UserError."""
    if text == "auto":
        return "auto"
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not 0 <= number <= 1:
        raise UserError(f"'{text}' is no threshold: write a number from 0 to 1, or auto")
    return number


def parse_shard(text: str) -> tuple[int, int]:
    """'3/16' -> (3, 16). Raises UserError."""
    found = re.fullmatch(r"(\d+)/(\d+)", str(text))
    number, count = (int(part) for part in found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise UserError(f"'{text}' is no shard: write which part of how many, from 1/16 to 16/16")
    return number, count


@dataclass(frozen=True, kw_only=True)
class Cleaning(Checked):
    """What is done to a mask after the network, wherever it goes. Objects are connected pixels of one class, corners
    included."""

    fill_holes: bool = setting(False, help="Fill the holes of objects.", panel="Masks")
    remove_smaller: int = setting(
        0, help="Remove objects of fewer than this many pixels or voxels.", panel="Masks", minimum=0, metavar="PIXELS"
    )
    keep_largest: bool = setting(False, help="Keep only the largest object of each class.", panel="Masks")
    split_touching: bool = setting(
        False, help="Separate touching objects at their necks (watershed of the distance map), and number them apart; "
        "in predict this implies --instances.", panel="Masks",
    )  # fmt: skip

    @property
    def changes_masks(self) -> bool:
        return self.fill_holes or self.keep_largest or self.remove_smaller > 1


@dataclass(frozen=True, kw_only=True)
class Inference(Batches, Spaced):
    """How images become probabilities. The same in the command and in Python."""

    size: int | None = setting(
        None, help="Side in pixels of the network's input: images are stretched to it, or cut into tiles of it.  "
        "[default: as in training]", panel="Network", minimum=MIN_SIZE, maximum=MAX_SIZE,
    )  # fmt: skip
    mode: Literal["resize", "tile"] | None = setting(
        None, help="resize: stretch each image to the network's size. tile: predict it in overlapping tiles at its own "
        "resolution.  [default: as in training]", panel="Network",
    )  # fmt: skip
    overlap: float = setting(
        0.25, help="Overlap of neighbouring tiles, as a share of a tile's side.", panel="Network", minimum=0.0,
        maximum=0.75,
    )  # fmt: skip
    prune: int | None = setting(
        None, help="Use this head of a unet++ alone, and compute only what it needs: 1 is the fastest.",
        panel="Network", minimum=1, metavar="HEAD",
    )  # fmt: skip
    flips: bool = setting(
        False, help="Test-time augmentation: average over the image, its flips and quarter turns (8 times the time), "
        "or for upright images over the image and its mirror image (twice the time); of volumes 8 or 16 times.",
        panel="Network",
    )  # fmt: skip
    attention_maps: bool = setting(
        False, help="Also write how much each gate of an attention U-Net lets through, as 16-bit maps "
        "NAME_attention_1 (the finest), NAME_attention_2, ...", panel="Masks",
    )  # fmt: skip
    threshold: float | str | None = setting(
        None, help="Probability from which a pixel is foreground, where that is one class; auto: the threshold that "
        "was best on the validation part.  [default: 0.5]", panel="Masks", parse=parse_threshold, metavar="NUMBER",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold is not None:
            parse_threshold(str(self.threshold))


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Inference, Cleaning):
    """Everything that `unet predict` can be told."""

    weights: tuple[Path, ...] = setting(
        help="Checkpoint that `unet train` wrote, the folder of a run (its best.pth), weights that `unet import` "
        "reads, or a network that was exported for ONNX Runtime (.onnx) or OpenVINO (.xml). Several, or a folder of "
        "runs, are an ensemble: their probabilities are averaged.",
        panel="Files", metavar="FILE",
    )  # fmt: skip
    input: str = setting(
        help="Images to predict: a file, a folder (with its sub-folders), a quoted glob, or - for a list on stdin.",
        panel="Files", metavar="PATH",
    )  # fmt: skip
    output: Path | None = setting(
        None,
        help="Folder for the masks.  [default: FOLDER_masks beside the folder of the images]",
        panel="Files",
        metavar="DIR",
    )
    format: Literal["png", "tif"] | None = setting(
        None, help="File type of the masks; tif keeps a TIFF's resolution and GeoTIFF tags, and a stack's pages in one "
        "file.  [default: png; tif for a GeoTIFF, and for any TIFF that is predicted in tiles; volumes: tif, or NIfTI "
        "as the volume]",
        panel="Files",
    )  # fmt: skip
    skip_existing: bool = setting(
        False,
        help="Skip images that already have a mask, whatever made it: continues a stopped job.",
        panel="Files",
    )
    shard: tuple[int, int] | None = setting(
        None, help="Part of the images that this call predicts, such as 3/16: 16 calls share a job; on one machine "
        "with OMP_NUM_THREADS=1 and the same --precision.", panel="Files",
        parse=parse_shard, metavar="N/COUNT",
    )  # fmt: skip
    overlay: bool = setting(
        False,
        help="Also write NAME_overlay.png: the image with the mask's outline; of a volume, three planes.",
        panel="Masks",
    )
    probabilities: bool = setting(
        False, help="Also write the calibrated probability as a 16-bit NAME_probability, in which 65535 is 1; of "
        "several classes NAME_probability_CLASS for each.", panel="Masks",
    )  # fmt: skip
    instances: bool = setting(
        False, help="Also write NAME_instances, 16-bit, in which objects are numbered from 1.", panel="Masks"
    )
    class_mask: bool = setting(
        False, help="With weights that predict numbered objects: also write NAME_classes, the mask without numbers.",
        panel="Masks",
    )  # fmt: skip
    polygons: Literal["geojson", "coco", "yolo", "labelme", "roi"] | None = setting(
        None, help="Also write the outline of each object, with its class, score and area, as QuPath (geojson), COCO "
        "tools, Ultralytics (yolo), labelme or ImageJ (roi) open it: beside each mask; coco: one instances.json. "
        "geojson of a GeoTIFF is in its coordinate system, for QGIS.",
        panel="Masks",
    )  # fmt: skip
    simplify: float = setting(
        0.5, help="Leave out corners of polygons that are no farther than this many pixels from the rest; 0 keeps all, "
        "and the polygons draw exactly the mask.", panel="Masks", minimum=0.0, maximum=100.0, metavar="PIXELS",
    )  # fmt: skip
    table: Path | None = setting(
        None, help="Also write a table with a row for each object: class, score, size, shape, place and mean intensity "
        "in each channel; in the unit that the file states or --spacing gives, else in pixels.",
        panel="Files", metavar="FILE.csv",
    )  # fmt: skip

    @property
    def numbers_objects(self) -> bool:
        return self.instances or self.split_touching

    @property
    def describes_objects(self) -> bool:
        """Whether polygons or rows of a table are made of the objects."""
        return self.polygons is not None or self.table is not None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_extension("--table", self.table, ".csv")
