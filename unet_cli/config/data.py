"""Settings of a data set and of how its images are prepared for a network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unet_cli.config.base import Checked, setting, within
from unet_cli.config.spacing import describe_spacing
from unet_cli.errors import UserError

FLOAT_RESOLUTION = 1e-5  # of a floating-point image, as a share of its mean

MAX_SLICES = 15  # neighbouring slices that a network sees at once

Dtype = Literal["uint8", "uint16", "float32"]  # that images are read as
Orientation = Literal["upright", "any"]  # of images that have a way up, and of others


@dataclass(frozen=True, kw_only=True)
class Reading(Checked):
    """How files are read. The same in every command that reads many."""

    workers: int | None = setting(
        None,
        help="Number of threads that read and write files.  [default: one per processor, at most 8]",
        panel="Hardware",
        minimum=1,
    )


@dataclass(frozen=True, kw_only=True)
class DataConfig(Reading):
    """Which images and masks there are, and what their values mean. The same in check and training."""

    data: Path | None = setting(
        None, help="Folder with the images and masks.", panel="Data", is_path=True, metavar="DIR"
    )
    images: str | None = setting(
        None, help="Folder of the images, if it isn't found by itself; or its name inside each of train, val and test.",
        panel="Data", is_path=True, metavar="DIR",
    )  # fmt: skip
    masks: str | None = setting(
        None, help="Folder of the masks, or its name inside each of train, val and test.",
        panel="Data", is_path=True, metavar="DIR",
    )  # fmt: skip
    pair: str | None = setting(
        None, help="Rule that pairs images with masks, such as 'images/{id}_image.png=masks/{id}_annotation.png'.  "
        "[default: inferred from the file names]", panel="Data", metavar="RULE",
    )  # fmt: skip
    volume_folders: bool = setting(
        False, help="Each folder of images holds the slices of one volume, such as a DICOM series.", panel="Data"
    )
    missing_masks: Literal["stop", "background"] = setting(
        "stop", help="For images without a mask: stop and list them, or take them as all background.", panel="Data"
    )
    skip_bad: bool = setting(
        False, help="Leave out files that can't be used, and list them, instead of stopping.", panel="Data"
    )
    classes: str | None = setting(
        None, help="Names of the classes, such as background,weed,crop; names with mask values, such as "
        "background=0,weed=128 or soil=#000000,weed=#00ff00; or a TOML file of names and mask values.",
        panel="Data", lasting="folds", is_path=True, metavar="NAMES",
    )  # fmt: skip
    ignore_index: int | None = setting(
        None, help="Mask value that loss and scores leave out; -1: this value if masks hold it, else none.  [default: "
        "-1, and 255 beside small whole numbers]",
        panel="Data", lasting="folds", minimum=-1,
    )  # fmt: skip
    background: Literal["auto", "first", "none"] = setting(
        "auto", help="Whether the first of three or more classes is background, which losses and scores leave out. "
        "auto: yes if its name says so (background, void, unlabelled, other, ...), if a mask value is ignored, or if "
        "it has no name and is the largest class.",
        panel="Data", lasting="run",
    )  # fmt: skip
    keep_alpha: bool = setting(
        False, help="Use the alpha channel as an input channel instead of dropping it.", panel="Data", lasting="folds"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data is None and (self.images is None or self.masks is None):
            raise UserError("say where the images and masks are: --data DIR, or both --images DIR and --masks DIR")


@dataclass(frozen=True, kw_only=True)
class CheckConfig(DataConfig):
    """Everything that `unet check` can be told."""

    pictures: Path | None = setting(
        None, help="Write a contact sheet into this folder: images with the outlines of their masks.", panel="Output",
        metavar="DIR",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Checked):
    """What `unet sample` can be told."""

    folder: Path = setting(
        help="Folder to write images/ and masks/ into.", panel="Data", metavar="DIR", positional=True
    )
    count: int = setting(32, help="Number of images, each with its mask.", panel="Data", minimum=1, maximum=100_000)
    volumes: Literal["nii.gz", "tif"] | None = setting(
        None,
        help="Draw volumes in files of this format, CT with thick slices of an organ and its lesions, instead of "
        "images of cells.",
        panel="Data",
        metavar="nii.gz|tif",
    )
    seed: int = setting(
        0, help="Random seed: another seed draws other images.", panel="Data", minimum=0, maximum=2**63 - 1
    )


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Checked):
    """How an image becomes network input, in training and in prediction alike.

    mode: whether images are stretched to size x size, or cut into tiles of that size. scale: of networks of another
    tool, which see images resized by this factor instead. patch: (D, H, W) of the tiles of volumes, empty for images.
    spacing: of a voxel of these tiles, in mm along (D, H, W), to which volumes of another spacing are resampled; empty
    where files don't tell, or all stay as they are. dtype: of the files'
    values; all that is signed, floating or has more than 16 bits is read as float32. intensity: what is subtracted and
    divided by: 'dataset', mean and std of each channel; 'image', the mean and standard deviation over all pixels and
    channels of the image itself; 'percentile', the same within the image's 1st and 99th percentile, to which it is
    clipped. mean and std are in units of the files' values, so that bit depth makes no difference: 16-bit images that
    fill a thousandth of their range train as well as 8-bit ones. keep_alpha: whether an alpha channel is one of the
    in_channels. files: how many files hold the channels of an image. pages: whether each page of a file is an image, or
    all its pages are the channels of one, or the slices of a volume. orientation: 'upright' where images have a way up,
    so that the network knows none that are upside down or turned. mirrors: whether it knows mirror images, which it
    doesn't where classes are named left and right. clip: lowest and highest value that are told apart, with 'dataset';
    empty: all. slices: number of neighbouring pages of a file that are seen together, as channels, to segment the one
    in the middle. statistics: whether those of 'image' and 'percentile' are of each image, or of the whole volume that
    it is a slice of.
    """

    size: int = within(1, 2**16)
    in_channels: int = within(1, 4096)
    dtype: Dtype
    intensity: Literal["dataset", "image", "percentile"] = "dataset"
    mean: tuple[float, ...]
    std: tuple[float, ...]
    keep_alpha: bool = False
    files: int = within(1, 4096, 1)
    pages: Literal["images", "channels", "slices"] = "images"
    mode: Literal["resize", "tile"] = "resize"
    scale: float | None = within(1e-3, 1e3, None)
    patch: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    mirrors: bool = True
    clip: tuple[float, ...] = ()
    orientation: Orientation = "any"
    slices: int = within(1, MAX_SLICES, 1)
    statistics: Literal["image", "volume"] = "image"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.mean) != len(self.std) or not all(map(math.isfinite, self.mean)):
            raise UserError(f"mean is {self.mean}: there has to be a finite number for each channel, as of std")
        if not all(math.isfinite(std) and std > 0 for std in self.std):
            raise UserError(f"std is {self.std}: what is divided by has to be above 0")
        if len(self.patch) not in (0, 3) or not all(0 < side <= 2**16 for side in self.patch):
            raise UserError(f"patch is {self.patch}: it has to be three sides in voxels, or none")
        if len(self.spacing) not in (0, 3) or not all(math.isfinite(step) and step > 0 for step in self.spacing):
            raise UserError(f"spacing is {self.spacing}: it has to be three numbers above 0, or none")
        if len(self.clip) not in (0, 2) or not all(map(math.isfinite, self.clip)) or sorted(self.clip) != [*self.clip]:
            raise UserError(f"clip is {self.clip}: it has to be a lowest and a highest value, or none")

        if not self.slices % 2 or self.in_channels % self.slices or (self.slices > 1 and self.pages != "images"):
            raise UserError(f"slices is {self.slices}: it has to be an odd number of pages that share the in_channels")

    @property
    def is_volumetric(self) -> bool:
        """Whether images are volumes, (C, D, H, W)."""
        return self.pages == "slices"

    @property
    def sides(self) -> tuple[int, ...]:
        """Of the network's input without the margin, in pixels or voxels: one for each spatial axis."""
        return self.patch or (self.size, self.size)

    def describe_size(self) -> str:
        """Of what the network sees."""
        if self.scale is not None and self.mode == "resize":
            return f"{self.scale:g} times the image's size"
        sides = "x".join(str(side) for side in reversed(self.sides))
        return f"{sides} voxels of {describe_spacing(self.spacing)}" if self.spacing else sides

    def describe_slices(self) -> str:
        """What is seen together, after a comma; '' where each image stands on its own."""
        return f", {self.slices} neighbouring slices as channels" if self.slices > 1 else ""

    def describe_orientation(self) -> str:
        return ("upright" if self.orientation == "upright" else "any way up") + ", not mirrored" * (not self.mirrors)

    def describe_intensity(self) -> str:
        if self.intensity != "dataset":
            between = " between its 1st and 99th percentile" if self.intensity == "percentile" else ""
            own = "its own" if self.statistics == "image" else "its volume's"
            return f"each normalised by {own} mean and deviation{between}"
        numbers = ", ".join(f"{mean:.4g} ± {std:.4g}" for mean, std in zip(self.mean, self.std, strict=True))
        clipped = " after clipping to {:.4g} to {:.4g}".format(*self.clip) if self.clip else ""
        return f"normalised by {numbers}{clipped}"


def least_std(dtype: str, mean: float) -> float:
    """What is divided by at least, so that a constant image is all zero, not infinite: one grey level, or for floating
    point the share of the mean that can still be told from rounding."""
    return max(FLOAT_RESOLUTION * abs(mean), 1e-12) if dtype == "float32" else 1.0
