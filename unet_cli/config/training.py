"""Settings of a training run, and of a comparison of several."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unet_cli.config.base import flag_of, setting
from unet_cli.config.data import MAX_SLICES, DataConfig
from unet_cli.config.hardware import Batches
from unet_cli.config.losses import LOSSES, check_loss, spelled_now
from unet_cli.config.model import DEFAULT_SIZE, MAX_SIZE, MIN_SIZE, MODEL_SETTINGS
from unet_cli.config.spacing import Spaced, parse_resample
from unet_cli.errors import UserError

MAX_PASSES = 300  # over the training images, in a run that is told no end
LRS = {"adam": 2e-3, "adamw": 2e-3, "sgd": 5e-2}  # of each optimizer unless given
WEIGHT_DECAYS = {"adam": 0.0, "adamw": 1e-2, "sgd": 1e-4}
METRICS = "metrics.json"  # in the folder of a run that has come to its end
RUN_SETTINGS = "config.toml"  # in a run's folder: its settings, with all that was found for 'auto'

UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def parse_duration(text: str | float) -> float:
    """'2h30m', '90s', '1.5h' -> seconds; a number is one of seconds. Raises UserError."""
    if isinstance(text, (int, float)):
        text = spell_duration(text)
    part = re.compile(r"(\d+(?:\.\d+)?)\s*([hms])")
    seconds = sum(float(number) * UNITS[unit] for number, unit in part.findall(str(text)))
    leftover = part.sub("", str(text)).strip()
    if leftover or seconds <= 0:
        raise UserError(f"'{text}' is not a time: write 90s, 3m or 2h30m")
    return seconds


def spell_duration(seconds: float) -> str:
    """Seconds as parse_duration reads them."""
    return f"{seconds:.12g}s"


def parse_fold(text: str) -> int | Literal["all"]:
    """'2' -> 2; 'all' as it is. Raises UserError."""
    if str(text) == "all":
        return "all"
    if not re.fullmatch(r"0*[1-9]\d{0,8}", str(text)):
        raise UserError(f"'{text}' is no fold: write which one, from 1, or all")
    return int(text)


def parse_minutes(text: str) -> tuple[float, ...]:
    """'3,10' -> (3.0, 10.0), each number once. Raises UserError."""
    try:
        minutes = tuple(float(part) for part in str(text).split(","))
    except ValueError:
        minutes = ()
    if not minutes or not all(0 < 60 * number < math.inf for number in minutes):
        raise UserError(f"'{text}' are no minutes: write positive numbers, separated by commas, such as 3,10")
    return tuple(dict.fromkeys(minutes))


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DataConfig, Batches, Spaced):
    """Everything that `unet train` can be told."""

    size: int = setting(
        DEFAULT_SIZE, help="Side in pixels of the network's input: images are stretched to it, or crops of it are cut.",
        panel="Data", lasting="run", minimum=MIN_SIZE, maximum=MAX_SIZE,
    )  # fmt: skip
    mode: Literal["resize", "tile", "auto"] = setting(
        "auto", help="resize: stretch each image to SIZE x SIZE. tile: train on random crops of that size at the "
        "images' own resolution, and predict in tiles. auto: resize, unless masks show that thin structures would be "
        "lost.",
        panel="Data", lasting="run",
    )  # fmt: skip
    resample: str = setting(
        "median", help="Spacing of voxels, slices,rows,columns in mm, such as 1,1,1, to which volumes are resampled "
        "for the network; median: the median of the training volumes; native: every volume stays as it is.",
        panel="Data", lasting="run", parse=parse_resample, metavar="SIZE",
    )  # fmt: skip
    foreground_crops: float = setting(
        0.33, help="Share of the random crops that are laid on foreground, on rare classes as often as common ones.",
        panel="Data", minimum=0.0, maximum=1.0,
    )  # fmt: skip
    slices: int | None = setting(
        None, help="Number of neighbouring slices that a network for images sees as channels, to segment the one in "
        "the middle; for the pages of TIFF stacks and .npy files, and for NIfTI: --data stacks/ --slices 3.  [default: "
        "each slice on its own]", panel="Data", lasting="folds", minimum=1, maximum=MAX_SLICES, metavar="ODD",
    )  # fmt: skip
    val_fraction: float = setting(
        0.15, help="Share of the pairs that is held out for validation, if there is no val folder.", panel="Split",
        lasting="run", minimum=0.0, maximum=0.9,
    )  # fmt: skip
    group_by: str | None = setting(
        None, help="Regular expression that finds the patient, slide or movie in an image's name, such as '^(P\\d+)': "
        "images of one group are never split between training and validation.",
        panel="Split", lasting="run", metavar="REGEX",
    )  # fmt: skip
    folds: int | None = setting(
        None, help="Number of folds of a cross-validation, of which --fold is for validation.",
        panel="Split", lasting="run", minimum=2,
    )  # fmt: skip
    fold: int | Literal["all"] | None = setting(
        None, help="Fold to validate on, counted from 1; all: train a network for each fold, one after the other.",
        panel="Split",
        lasting="run", parse=parse_fold, metavar="NUMBER",
    )  # fmt: skip
    split: Path | None = setting(
        None,
        help="Take the split of another run: its split.json, or its folder.",
        panel="Split",
        lasting="run",
        is_path=True,
        metavar="FILE",
    )
    normalize: Literal["auto", "dataset", "image", "percentile", "range"] = setting(
        "auto", help="Intensity normalization. dataset: by mean and standard deviation of the training part. image: by "
        "those of each image. percentile: the same without its darkest and brightest 1 %. range: to 0 to 1 over the "
        "range of the file type. auto: image if images differ in brightness more than their pixels do, else dataset.",
        panel="Data", lasting="run",
    )  # fmt: skip
    target: Literal["auto", "objects", "classes"] = setting(
        "auto", help="What is learned. objects: each by itself, so that touching ones are told apart, and predict "
        "numbers them. classes: foreground and background. auto: objects where the masks tell them apart.",
        panel="Data", lasting="run",
    )  # fmt: skip
    max_time: float | None = setting(
        None, help="Time for the whole command, such as 45s, 3m or 2h30m; the run is planned to fit it.",
        panel="Training", parse=parse_duration, spell=spell_duration, metavar="TIME",
    )  # fmt: skip
    epochs: int | None = setting(
        None, help="Number of passes over the training images.  [default: until the validation score has stopped "
        f"improving, at most {MAX_PASSES}; with --max-time as many as fit]", panel="Training", minimum=1,
    )  # fmt: skip
    patience: int | None = setting(
        None, help="Early stopping: end the run after this many epochs without a better validation score.  [default: "
        "never]",
        panel="Training", minimum=1, metavar="EPOCHS",
    )  # fmt: skip
    loss: str = setting(
        "bce+dice", help="Loss: a name or a sum of names, with factors where wanted, such as 0.5*bce+dice. Names are "
        + ", ".join(LOSSES) + "; see README.md.", panel="Training", metavar="LOSS", parse=spelled_now,
    )  # fmt: skip
    class_weights: str = setting(
        "none", help="Class weights of the losses bce, ce, focal, top-k and paper. none: all equal. auto: higher for "
        "rare classes. Or numbers, background first, such as 1,5,2.", panel="Training", metavar="NUMBERS",
    )  # fmt: skip
    optimizer: Literal["adam", "adamw", "sgd"] = setting("adam", help="Optimizer.", panel="Training", lasting="run")
    lr: float | None = setting(
        None, help="Maximum learning rate.  [default: " + ", ".join(f"{lr:g} with {name}" for name, lr in LRS.items())
        + ", times a factor of the network, which is mostly 1]", panel="Training", minimum=1e-8, maximum=10.0,
    )  # fmt: skip
    weight_decay: float | None = setting(
        None, help="Weight decay, as the optimizer defines it.  [default: "
        + ", ".join(f"{decay:g} with {name}" for name, decay in WEIGHT_DECAYS.items()) + "]",
        panel="Training", minimum=0.0, maximum=1.0,
    )  # fmt: skip
    schedule: Literal["cosine", "poly", "plateau", "constant", "cooldown"] | None = setting(
        None, help="Learning rate schedule, after a warm-up over the first 5 %. cosine, poly: falls to zero over the "
        "whole run. cooldown: constant, then to zero over the last 30 %. plateau: halved when the validation score has "
        "not improved for 10 epochs. constant: stays.  [default: cosine; without --max-time and --epochs cooldown, "
        "which begins when the score has stopped improving]", panel="Training",
    )  # fmt: skip
    clip_grad: float = setting(
        1.0, help="Gradient clipping: largest norm of the gradient.", panel="Training", minimum=1e-6
    )
    augment: Literal["none", "light", "full", "paper"] = setting(
        "full", help="Augmentation. light: flips, quarter turns, brightness and contrast. full: also zoom, rotation, "
        "shear, elastic deformation, gamma, noise and blur. paper: light, and the elastic deformation of the U-Net "
        "paper.", panel="Training",
    )  # fmt: skip
    orientation: Literal["auto", "upright", "any"] = setting(
        "auto", help="Whether images have a way up, as streets, X-rays and faces do. upright: no vertical flips and no "
        "quarter turns in augmentation and in predict --flips. any: all of them. auto: upright if the training pairs "
        "can be told from upside-down and turned copies of themselves.", panel="Training",
    )  # fmt: skip
    seed: int = setting(
        0,
        help="Random seed of split, order, initial weights and augmentation. On a CPU without --max-time, the same "
        "seed gives the same weights.",
        panel="Training",
        minimum=0,
        maximum=2**63 - 1,
    )
    deterministic: bool = setting(
        False, help="Get the same weights from the same seed on a GPU too, at some cost of speed; not with --max-time.",
        panel="Training",
    )  # fmt: skip
    init: Path | None = setting(
        None,
        help="Checkpoint with whose weights training starts. Other classes and channels are fine: what fits is kept.",
        panel="Training",
        lasting="run",
        is_path=True,
        metavar="FILE",
    )
    resume: Path | None = setting(
        None, help="Resume this run with its own settings from its last save; flags given beside it win.",
        panel="Training", once=True, metavar="RUN", settings_file=RUN_SETTINGS,
    )  # fmt: skip
    model: str = setting(
        "auto",
        help="Network: a name from the table that `unet models` prints. auto: unet3d for NIfTI volumes, else unet.",
        panel="Network",
        lasting="folds",
        metavar="NAME",
    )
    width: int | None = setting(
        None, help="Channels of the first level.  [default: the network's usual number on a GPU, half of it on a CPU, "
        "64 and 32 for unet; with --max-time on a CPU what fits the time]", panel="Network", lasting="folds", minimum=1,
    )  # fmt: skip
    depth: int | None = setting(
        None, help="Number of downsamplings.  [default: as is usual for the network, 4 for unet]",
        panel="Network", lasting="folds", minimum=1, maximum=8,
    )  # fmt: skip
    upsampling: Literal["transposed", "bilinear"] | None = setting(
        None,
        help="Upsampling: learned, by transposed convolutions, or bilinear, with fewer weights.  [default: transposed]",
        panel="Network",
        lasting="folds",
    )
    norm: Literal["batch", "group", "instance", "none"] | None = setting(
        None, help="Normalization layers; group or instance norm suits batches of one or two images.  [default: as is "
        "usual for the network, batch for unet]", panel="Network", lasting="folds",
    )  # fmt: skip
    dropout: float | None = setting(
        None, help="Dropout rate.  [default: as is usual for the network, 0 for unet]",
        panel="Network", lasting="folds", minimum=0.0, maximum=0.9,
    )  # fmt: skip
    deep_supervision: bool | None = setting(
        None, help="Deep supervision: also compute the loss at coarser heads, of a network that has them.  [default: "
        "yes, if it has them]",
        panel="Network", lasting="folds",
    )  # fmt: skip
    encoder_weights: str | None = setting(
        None, help="Initial weights of a torchvision encoder: a file, or imagenet, which is downloaded.",
        panel="Network", lasting="run", is_path=True, metavar="FILE",
    )  # fmt: skip
    freeze: Literal["encoder"] | None = setting(
        None, help="encoder: train only the rest; the encoder's weights and batch norm statistics stay those of --init "
        "or --encoder-weights.  [default: train all]", panel="Network", lasting="run",
    )  # fmt: skip
    gradient_checkpointing: bool = setting(
        False, help="Save memory for more time: activations are recomputed for the gradient.", panel="Network"
    )
    output: Path = setting(
        Path("checkpoints"), help="Folder that holds all runs.", panel="Output", is_path=True, metavar="DIR"
    )
    name: str | None = setting(
        None,
        help="Name of the run's folder inside --output.  [default: the data folder's name and a number]",
        panel="Output",
        once=True,
    )
    save_every: float = setting(
        30.0, help="Least time between two saves of the checkpoints, at the ends of epochs; within a long epoch they "
        "are saved after ten times this time.",
        panel="Output", parse=parse_duration, spell=spell_duration, metavar="TIME",
    )  # fmt: skip
    show_augmented: int | None = setting(
        None, help="Draw this many augmented samples into augmented.png in the run's folder, before training.",
        panel="Output", once=True, minimum=1, maximum=256, metavar="N",
    )  # fmt: skip
    tensorboard: bool = setting(
        False, help="Also write a log for TensorBoard, which the extra 'tensorboard' installs.", panel="Output"
    )

    @property
    def network_settings(self) -> dict[str, Any]:
        """Those of MODEL_SETTINGS, by their names there; None where nothing is said."""
        return {name: getattr(self, flag) for name, flag in MODEL_SETTINGS.items()}

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.folds is None) != (self.fold is None):
            raise UserError(
                "--folds and --fold belong together: --folds 5 --fold all trains five networks, each of which is "
                "validated on another fifth; --folds 5 --fold 1 only the first of them"
            )
        if self.fold is not None:
            parse_fold(str(self.fold))
        if self.split is not None and (self.folds is not None or self.group_by is not None):
            raise UserError("--split already says which pairs are for what: leave out --folds, --fold and --group-by")
        if self.slices is not None and not self.slices % 2:
            raise UserError(f"--slices is {self.slices}: give an odd number, as many slices before as after the middle")
        if self.deterministic and self.max_time is not None:
            raise UserError(
                "--deterministic: with --max-time the clock decides how far a run comes, and no two are the same: "
                "give --epochs instead"
            )
        if self.compile and self.gradient_checkpointing:
            raise UserError("--compile can't compile what --gradient-checkpointing computes again: leave one out")
        if self.resume is not None and self.name is not None:
            raise UserError("--resume goes on in the run's own folder: leave out --name")
        check_loss(self.loss, self.class_weights)
        parse_resample(self.resample)
        if self.encoder_weights is not None and self.init is not None:
            raise UserError("--init has weights for the encoder too: leave out --encoder-weights")
        if self.freeze is not None and not (self.init or self.encoder_weights or self.resume):
            raise UserError(
                f"--freeze {self.freeze} keeps trained weights as they are, and here they would be random: give some "
                "with --init FILE or --encoder-weights imagenet, or leave it out"
            )
        if self.name is not None and (self.name in ("", ".", "..") or Path(self.name).name != self.name):
            raise UserError(f"--name is '{self.name}': it has to be a folder name; put the place into --output")


@dataclass(frozen=True, kw_only=True)
class CompareConfig(TrainConfig):
    """Everything that `unet compare` can be told."""

    models: str = setting(
        "all", help="Networks to compare, separated by commas: names of `unet models`, all, or -NAME to leave one out, "
        "such as all,-transunet.", panel="Files",
        metavar="NAMES",
    )  # fmt: skip
    test: Path | None = setting(
        None, help="Folder with the images and masks on which the networks are scored.  [default: a test folder in the "
        "data, else the validation part]", panel="Files", metavar="DIR",
    )  # fmt: skip
    minutes: tuple[float, ...] | None = setting(
        None, help="Train each network once for each of these times, in minutes, such as 3,10; each is the --max-time "
        "of one training.", panel="Training", parse=parse_minutes, metavar="NUMBERS",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.minutes is not None:
            parse_minutes(",".join(map(str, self.minutes)))
            for name in ("max_time", "epochs", "deterministic"):
                if getattr(self, name):
                    raise UserError(f"--minutes says how long each network is trained: leave out {flag_of(name)}")
        if self.resume or self.init or self.model != "auto":
            flag = "--resume" if self.resume else "--init" if self.init else "--model"
            raise UserError(f"{flag} is of one network: leave it out, and name several with --models")
        if self.fold == "all":
            raise UserError("--fold all: compare trains each network once: give one fold, such as --fold 1")
