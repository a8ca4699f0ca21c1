"""Settings: frozen dataclasses, each field declared once with its type, default, help, unit and range.

The command line is built from these fields (cli/options.py); a checkpoint stores them as plain values. A value out
of its range raises UserError, whether it comes from a flag, a TOML file or Python.
"""

from __future__ import annotations

import math
import re
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from unet_cli.config.losses import LOSS_NAMES, check_loss
from unet_cli.errors import UserError

MAX_PASSES = 300  # over the training images, in a run that is told no end
LRS = {"adam": 2e-3, "adamw": 2e-3, "sgd": 5e-2}  # of each optimizer unless given
WEIGHT_DECAYS = {"adam": 0.0, "adamw": 1e-2, "sgd": 1e-4}
MAX_CLASSES = 255  # an index of 8 bits, of which the last is for ignored pixels
DEFAULT_SIZE, LEAST_SIZE, MOST_SIZE = 512, 32, 8192  # of what a network sees, pixels
CPU_WIDTH_SHARE = 2  # a processor has no time for more than one part in so many of a network's usual width
CPU_TRAIN_BATCH, CPU_PREDICT_BATCH, GPU_PREDICT_BATCH = 4, 1, 8  # images
METRICS = "metrics.json"  # in the folder of a run that has come to its end
RUN_SETTINGS = "config.toml"  # in a run's folder: its settings, with all that was found for 'auto'

FLOAT_RESOLUTION = 1e-5  # of a floating-point image, as a share of its mean

Dtype = Literal["uint8", "uint16", "float32"]  # that images are read as
Precision = Literal["float32", "bf16", "float16"]  # that networks compute in
Orientation = Literal["upright", "any"]  # of images that have a way up, and of others

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


def parse_batch_size(text: str) -> int | None:
    """'8' -> 8; 'auto' -> None. Raises UserError."""
    if str(text) == "auto":
        return None
    if not re.fullmatch(r"\d{1,9}", str(text)):
        raise UserError(f"'{text}' is no batch size: write a whole number, or auto")
    return int(text)


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


def setting(
    default: Any = MISSING,
    *,
    help: str,
    panel: str = "Options",
    minimum: float | None = None,
    maximum: float | None = None,
    parse: Any = None,
    spell: Any = None,
    metavar: str | None = None,
    positional: bool = False,
    settings_file: str | None = None,
) -> Any:
    """A dataclass field and its plain metadata. `minimum` and `maximum` belong to the range.

    parse: turns what the user wrote into the value; spell: the other way round, for a file. settings_file: the option
    names a folder, and this TOML file in it holds settings that flags given beside it win over.
    """
    metadata = {
        "help": help,
        "panel": panel,
        "minimum": minimum,
        "maximum": maximum,
        "parse": parse,
        "spell": spell,
        "metavar": metavar,
        "positional": positional,
        "settings_file": settings_file,
    }
    return field(default=default, metadata=metadata)


def within(minimum: float, maximum: float, default: Any = MISSING) -> Any:
    """A field that is no flag, and its range."""
    return field(default=default, metadata={"minimum": minimum, "maximum": maximum})


def check_extension(flag: str, path: Path | None, extension: str) -> None:
    """So that no image or mask is written over by a slip. Raises UserError."""
    if path is not None and (path.suffix.lower() != extension or path.is_dir()):
        raise UserError(f"{flag} is '{path}': give the name of a file that ends in {extension}")


def flag_of(name: str) -> str:
    """The flag that sets a field: its name with dashes."""
    return "--" + name.replace("_", "-")


@cache
def types_of(settings: type) -> dict[str, Any]:
    """Of all fields at once: evaluating the annotations takes as long for one."""
    return get_type_hints(settings)


class Checked:
    """Settings that check their own ranges and choices."""

    def __post_init__(self) -> None:
        kind: type = type(self)
        types = types_of(kind)
        for spec in fields(self):  # type: ignore[arg-type]
            value, flag = getattr(self, spec.name), flag_of(spec.name) if "help" in spec.metadata else spec.name
            low, high = spec.metadata.get("minimum"), spec.metadata.get("maximum")
            if value is None:
                continue
            # Written so that a NaN, which no comparison is true of, is refused too.
            if not (low is None or value >= low) or not (high is None or value <= high):
                bounds = f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
                raise UserError(f"{flag} is {value:g}: it has to be {bounds}")
            kinds = (types[spec.name], *get_args(types[spec.name]))
            choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
            if choices and value not in choices and type(value) not in kinds:
                raise UserError(f"{flag} is '{value}': choose one of {', '.join(choices)}")


@dataclass(frozen=True, kw_only=True)
class Output(Checked):
    """How a command speaks. The same in every command."""

    json: bool = setting(False, help="Print results as JSON on stdout.", panel="Messages")
    quiet: bool = setting(False, help="Print nothing but errors.", panel="Messages")
    debug: bool = setting(False, help="Show tracebacks.", panel="Messages")


@dataclass(frozen=True, kw_only=True)
class Reading(Checked):
    """How files are read. The same in every command that reads many."""

    workers: int | None = setting(
        None,
        help="Threads that read and write files.  [default: one a processor, 8 at most]",
        panel="Hardware",
        minimum=1,
    )


@dataclass(frozen=True, kw_only=True)
class DataConfig(Reading):
    """Which images and masks there are, and what their values mean. The same in check and training."""

    data: Path | None = setting(None, help="Folder with the images and masks.", panel="Data", metavar="DIR")
    images: str | None = setting(
        None, help="Folder of the images, where it isn't found; or its name in each of train, val and test.",
        panel="Data", metavar="DIR",
    )  # fmt: skip
    masks: str | None = setting(
        None, help="Folder of the masks, likewise.", panel="Data", metavar="DIR",
    )  # fmt: skip
    pair: str | None = setting(
        None, help="Which mask belongs to which image: 'images/{id}_image.png=masks/{id}_annotation.png'.  "
        "[default: found from the names]", panel="Data", metavar="RULE",
    )  # fmt: skip
    missing_masks: Literal["stop", "background"] = setting(
        "stop", help="Images without a mask: stop and list them, or take them as background.", panel="Data"
    )
    skip_bad: bool = setting(
        False, help="Leave out files that can't be used, and name them, instead of stopping.", panel="Data"
    )
    classes: str | None = setting(
        None, help="Names of the classes, such as background,weed,crop, or with their values, such as "
        "background=0,weed=128 or soil=#000000,weed=#00ff00; or a TOML file of names and mask values.",
        panel="Data", metavar="NAMES",
    )  # fmt: skip
    ignore_index: int | None = setting(
        None, help="Mask value that counts nowhere; -1: this value where masks hold it, else none.  [default: -1; 255 "
        "beside small whole numbers]",
        panel="Data", minimum=-1,
    )  # fmt: skip
    background: Literal["auto", "first", "none"] = setting(
        "auto", help="Whether the first of three or more classes is background, which losses and scores leave out. "
        "auto: where it is called so, where a value is ignored, and without a name where it is the largest.",
        panel="Data",
    )  # fmt: skip
    keep_alpha: bool = setting(False, help="Train on the alpha channel too, instead of dropping it.", panel="Data")

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
class Hardware(Reading):
    """What computes, and how. The same in every command that runs a network."""

    device: Literal["auto", "cpu", "cuda", "mps"] = setting(
        "auto", help="What computes; auto takes a GPU where there is one.", panel="Hardware"
    )
    precision: Literal["auto", "float32", "bf16", "float16"] = setting(
        "auto", help="Number format; auto takes bf16 where the hardware is fast at it.", panel="Hardware"
    )


@dataclass(frozen=True, kw_only=True)
class Batches(Hardware):
    """How many images the network sees at once. The same in training and prediction."""

    batch_size: int | None = setting(
        None, help="Images the network sees at once, in each process; auto: in training "
        f"{CPU_TRAIN_BATCH} on a CPU if they fit, on a GPU the fastest that a trial finds; in prediction "
        f"{CPU_PREDICT_BATCH} and {GPU_PREDICT_BATCH}.  [default: auto]",
        panel="Hardware", minimum=1, parse=parse_batch_size, metavar="NUMBER",
    )  # fmt: skip
    compile: bool = setting(
        False, help="Compile the network first (a minute or more): pays for thousands of images.", panel="Hardware"
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig(DataConfig, Batches):
    """Everything that `unet train` can be told."""

    size: int = setting(
        DEFAULT_SIZE, help="Side of what the network sees: images are stretched to it, or crops of it are cut out.",
        panel="Data", minimum=LEAST_SIZE, maximum=MOST_SIZE,
    )  # fmt: skip
    mode: Literal["resize", "tile", "auto"] = setting(
        "auto", help="Stretch each image to SIZE x SIZE, or train on random crops of that size at the images' own "
        "resolution and predict in tiles; auto stretches unless the masks show that thin structures would be lost.",
        panel="Data",
    )  # fmt: skip
    foreground_crops: float = setting(
        0.33, help="With crops: share of them that is laid on foreground, rare classes as often as common ones.",
        panel="Data", minimum=0.0, maximum=1.0,
    )  # fmt: skip
    val_fraction: float = setting(
        0.15, help="Share of the pairs that is kept for validation where there is no val folder.", panel="Split",
        minimum=0.0, maximum=0.9,
    )  # fmt: skip
    group_by: str | None = setting(
        None, help="Regular expression that finds the patient, slide or movie in a name, such as '^(P\\d+)': "
        "images of one group stay on one side.", panel="Split", metavar="REGEX",
    )  # fmt: skip
    folds: int | None = setting(
        None, help="Cross-validation: cut the pairs into this many parts, of which --fold is for validation.",
        panel="Split", minimum=2,
    )  # fmt: skip
    fold: int | Literal["all"] | None = setting(
        None, help="Which of the folds, from 1; all: a network for each, one after the other.", panel="Split",
        parse=parse_fold, metavar="NUMBER",
    )  # fmt: skip
    split: Path | None = setting(
        None,
        help="Read the split from this file: the split.json of another run (or that run's folder).",
        panel="Split",
        metavar="FILE",
    )
    normalize: Literal["auto", "dataset", "image", "percentile", "range"] = setting(
        "auto", help="Intensities become: deviations from the mean of the training part (dataset) or of the image "
        "itself (image, percentile: without its darkest and brightest 1 %), or 0 to 1 over the range of the file type "
        "(range); auto chooses dataset or image.", panel="Data",
    )  # fmt: skip
    max_time: float | None = setting(
        None, help="Time of the whole command, such as 45s, 3m or 2h30m; the learning rate fits it.",
        panel="Training", parse=parse_duration, spell=spell_duration, metavar="TIME",
    )  # fmt: skip
    epochs: int | None = setting(
        None, help="Passes over the training images.  [default: until the validation score has stopped improving, "
        f"{MAX_PASSES} at most; with --max-time as many as fit]", panel="Training", minimum=1,
    )  # fmt: skip
    patience: int | None = setting(
        None, help="End the run when the validation score hasn't improved for this many epochs.  [default: never]",
        panel="Training", minimum=1, metavar="EPOCHS",
    )  # fmt: skip
    loss: str = setting(
        "bce+dice", help="What is minimised: names joined by +, with factors where wanted, such as 0.5*bce+dice. There "
        "are " + ", ".join(LOSS_NAMES) + "; see README.md.", panel="Training", metavar="LOSS",
    )  # fmt: skip
    class_weights: str = setting(
        "none", help="How much pixels of each class count in bce, ce, focal, top-k, paper: none, all the same; auto, "
        "rare classes more; or numbers, background first, such as 1,5,2.", panel="Training", metavar="NUMBERS",
    )  # fmt: skip
    optimizer: Literal["adam", "adamw", "sgd"] = setting("adam", help="What follows the gradient.", panel="Training")
    lr: float | None = setting(
        None, help="Highest learning rate.  [default: the network's own factor, mostly 1, times "
        + ", ".join(f"{lr:g} with {name}" for name, lr in LRS.items())
        + "]", panel="Training", minimum=1e-8, maximum=10.0,
    )  # fmt: skip
    weight_decay: float | None = setting(
        None, help="How strongly weights are drawn to zero, as the optimizer defines it.  [default: "
        + ", ".join(f"{decay:g} with {name}" for name, decay in WEIGHT_DECAYS.items()) + "]",
        panel="Training", minimum=0.0, maximum=1.0,
    )  # fmt: skip
    schedule: Literal["cosine", "poly", "plateau", "constant", "cooldown"] | None = setting(
        None, help="How the learning rate falls: to zero at the end (cosine, poly), over the last 30 % (cooldown), by "
        "half where the validation score no longer improves (plateau), or not at all.  [default: cosine; without "
        "--max-time and --epochs cooldown, once the score has stopped improving]", panel="Training",
    )  # fmt: skip
    clip_grad: float = setting(1.0, help="Largest norm of the gradient.", panel="Training", minimum=1e-6)
    augment: Literal["none", "light", "full", "paper"] = setting(
        "full", help="light: flips, quarter turns, brightness, contrast; full adds scale, rotation, elastic, gamma, "
        "noise and blur; paper: light and the elastic deformation of the U-Net paper.", panel="Training",
    )  # fmt: skip
    orientation: Literal["auto", "upright", "any"] = setting(
        "auto", help="Whether images have a way up, as streets, X-rays and faces do: upright leaves vertical flips and "
        "quarter turns out of --augment, and of --flips in prediction; auto: where the training pairs can be told from "
        "upside-down and turned copies of themselves.", panel="Training",
    )  # fmt: skip
    seed: int = setting(
        0,
        help="Decides split, order, initial weights and augmentation.",
        panel="Training",
        minimum=0,
        maximum=2**63 - 1,
    )
    deterministic: bool = setting(
        False, help="The same weights from the same seed on a GPU too, for some of its speed; needs --epochs.",
        panel="Training",
    )  # fmt: skip
    init: Path | None = setting(
        None, help="Start from the weights of this checkpoint.", panel="Training", metavar="FILE"
    )
    resume: Path | None = setting(
        None, help="Go on with this run, as it was told to, from where it was last saved; flags given here win.",
        panel="Training", metavar="RUN", settings_file=RUN_SETTINGS,
    )  # fmt: skip
    model: str = setting(
        "unet", help="Network, by its name in the table that `unet models` prints.", panel="Network", metavar="NAME"
    )
    width: int | None = setting(
        None, help="Channels of the first level.  [default: the network's usual ones on a GPU, half of them on a CPU: "
        "64 and 32 for unet]", panel="Network", minimum=1,
    )  # fmt: skip
    depth: int | None = setting(
        None, help="Number of halvings of the resolution.  [default: as is usual for the network, 4 for unet]",
        panel="Network", minimum=1, maximum=8,
    )  # fmt: skip
    upsampling: Literal["transposed", "bilinear"] | None = setting(
        None, help="Learned or bilinear upsampling; bilinear has fewer weights.  [default: transposed]", panel="Network"
    )
    norm: Literal["batch", "group", "instance", "none"] | None = setting(
        None, help="What keeps activations in range: batch norm; group or instance norm where a batch is one or two "
        "images; or nothing.  [default: as is usual for the network, batch for unet]", panel="Network",
    )  # fmt: skip
    dropout: float | None = setting(
        None, help="Share of values that are dropped in training.  [default: as is usual for the network, 0 for unet]",
        panel="Network", minimum=0.0, maximum=0.9,
    )  # fmt: skip
    deep_supervision: bool | None = setting(
        None, help="Losses at several depths of a network that has heads there.  [default: yes, if it has]",
        panel="Network",
    )  # fmt: skip
    encoder_weights: str | None = setting(
        None, help="Begin with the weights of a torchvision encoder: a file of them, or imagenet, which is downloaded.",
        panel="Network", metavar="FILE",
    )  # fmt: skip
    gradient_checkpointing: bool = setting(
        False, help="Use less memory and more time: activations are computed again for the gradient.", panel="Network"
    )
    output: Path = setting(Path("checkpoints"), help="Folder of all runs.", panel="Output", metavar="DIR")
    name: str | None = setting(
        None, help="Name of the run's own folder in it.  [default: the data folder's name and a number]", panel="Output"
    )
    save_every: float = setting(
        30.0, help="Checkpoints are written at the ends of epochs, at most this often, and within an epoch that lasts "
        "ten times as long.", panel="Output", parse=parse_duration, spell=spell_duration, metavar="TIME",
    )  # fmt: skip
    show_augmented: int | None = setting(
        None, help="Draw this many augmented samples into the run's folder, augmented.png, before training.",
        panel="Output", minimum=1, maximum=256, metavar="N",
    )  # fmt: skip
    tensorboard: bool = setting(
        False, help="Also write the log for TensorBoard, which the extra 'tensorboard' installs.", panel="Output"
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
        if self.encoder_weights is not None and self.init is not None:
            raise UserError("--init has weights for the encoder too: leave out --encoder-weights")
        if self.name is not None and (self.name in ("", ".", "..") or Path(self.name).name != self.name):
            raise UserError(f"--name is '{self.name}': it has to be a folder name; put the place into --output")


@dataclass(frozen=True, kw_only=True)
class CompareConfig(TrainConfig):
    """Everything that `unet compare` can be told."""

    models: str = setting(
        "all", help="Networks, separated by commas; all: the whole table; -NAME: without this one.", panel="Files",
        metavar="NAMES",
    )  # fmt: skip
    test: Path | None = setting(
        None, help="Folder with the images and masks that the networks are scored on.  [default: a test folder in the "
        "data, or the validation part]", panel="Files", metavar="DIR",
    )  # fmt: skip
    minutes: tuple[float, ...] | None = setting(
        None, help="Train each network once for each of these times, in minutes, such as 3,10: each is the --max-time "
        "of a training of its own.", panel="Training", parse=parse_minutes, metavar="NUMBERS",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.minutes is not None:
            parse_minutes(",".join(map(str, self.minutes)))
            for name in ("max_time", "epochs", "deterministic"):
                if getattr(self, name):
                    raise UserError(f"--minutes says how long each network is trained: leave out {flag_of(name)}")
        if self.resume or self.init or self.model != "unet":
            flag = "--resume" if self.resume else "--init" if self.init else "--model"
            raise UserError(f"{flag} is of one network: leave it out, and name several with --models")
        if self.fold == "all":
            raise UserError("--fold all: compare trains each network once: give one fold, such as --fold 1")


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

    fill_holes: bool = setting(False, help="Fill the background that an object encloses.", panel="Masks")
    remove_smaller: int = setting(
        0, help="Remove objects of fewer than this many pixels.", panel="Masks", minimum=0, metavar="PIXELS"
    )
    keep_largest: bool = setting(False, help="Keep the largest object of each class only.", panel="Masks")
    split_touching: bool = setting(
        False, help="Number objects that touch apart, separated at their necks (watershed of the distance map); in "
        "predict, --instances comes with it.", panel="Masks",
    )  # fmt: skip

    @property
    def changes_masks(self) -> bool:
        return self.fill_holes or self.keep_largest or self.remove_smaller > 1


@dataclass(frozen=True, kw_only=True)
class Inference(Batches):
    """How images become probabilities. The same in the command and in Python."""

    size: int | None = setting(
        None, help="Side of what the network sees: images are stretched to it, or cut into tiles of it.  "
        "[default: as in training]", panel="Network", minimum=LEAST_SIZE, maximum=MOST_SIZE,
    )  # fmt: skip
    mode: Literal["resize", "tile"] | None = setting(
        None, help="Stretch each image to the network's size, or predict it in overlapping tiles at its own.  "
        "[default: as in training]", panel="Network",
    )  # fmt: skip
    overlap: float = setting(
        0.25, help="Share of a tile's side that it has in common with the next one.", panel="Network", minimum=0.0,
        maximum=0.75,
    )  # fmt: skip
    prune: int | None = setting(
        None, help="Of a unet++, use this one of its heads alone, and compute only what it needs: 1 is the fastest.",
        panel="Network", minimum=1, metavar="HEAD",
    )  # fmt: skip
    flips: bool = setting(
        False, help="Average over the image, its flips and quarter turns, 8 times the time; of upright images over the "
        "mirror image alone, twice the time.", panel="Network",
    )  # fmt: skip
    attention_maps: bool = setting(
        False, help="Also write NAME_attention_1 (finest) and so on, 16-bit: how much each gate of an attention U-Net "
        "lets through.", panel="Masks",
    )  # fmt: skip
    threshold: float | str | None = setting(
        None, help="Probability from which a pixel is foreground, with one class of it; auto: the one that was best on "
        "the validation part.  [default: 0.5]", panel="Masks", parse=parse_threshold, metavar="NUMBER",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold is not None:
            parse_threshold(str(self.threshold))


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Inference, Cleaning):
    """Everything that `unet predict` can be told."""

    weights: tuple[Path, ...] = setting(
        help="Checkpoint that `unet train` wrote, or a run's folder (its best.pth); or weights that `unet import` "
        "knows. Several, or a folder of runs: their probabilities are averaged.", panel="Files", metavar="FILE",
    )  # fmt: skip
    input: str = setting(
        help="An image, a folder (with its sub-folders), a quoted glob, or - for a list of paths on stdin.",
        panel="Files", metavar="PATH",
    )  # fmt: skip
    output: Path | None = setting(
        None,
        help="Folder for the masks.  [default: FOLDER_masks beside the folder of the input]",
        panel="Files",
        metavar="DIR",
    )
    format: Literal["png", "tif"] | None = setting(
        None, help="File type of the masks; tif keeps a TIFF's resolution and place on earth, and a stack's pages in "
        "one file.  [default: png, tif for a TIFF in tiles]", panel="Files",
    )  # fmt: skip
    skip_existing: bool = setting(
        False,
        help="Leave out images that have their mask already, whatever made it: continues a stopped job.",
        panel="Files",
    )
    shard: tuple[int, int] | None = setting(
        None, help="Which part of the images is this call's, such as 3/16: 16 calls share a job.", panel="Files",
        parse=parse_shard, metavar="N/COUNT",
    )  # fmt: skip
    overlay: bool = setting(False, help="Also write NAME_overlay.png: the outline over the image.", panel="Masks")
    probabilities: bool = setting(
        False, help="Also write NAME_probability, 16-bit: 0 is 0 and 65535 is 1; of several classes "
        "NAME_probability_CLASS for each.", panel="Masks",
    )  # fmt: skip
    instances: bool = setting(
        False, help="Also write NAME_instances, 16-bit: the objects are numbered from 1.", panel="Masks"
    )

    @property
    def numbers_objects(self) -> bool:
        return self.instances or self.split_touching


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
        "perfect", help="What an image counts for a class that is neither in its mask nor in the prediction: as a "
        "perfect score, not at all (skip), or as the worst one.", panel="Scores",
    )  # fmt: skip
    spacing: Spacing | None = setting(
        None, help="Size of a pixel, such as 0.5um, or of rows,columns, such as 4.6,2.3nm: distances are then in this "
        "unit.  [default: pixels]", panel="Scores", parse=parse_spacing, metavar="SIZE",
    )  # fmt: skip
    tolerance: float | None = setting(
        None, help="How far borders may lie apart for the surface Dice, in the unit of the spacing.  [default: 2 "
        "pixels]", panel="Scores", minimum=0.0, parse=parse_distance, metavar="DISTANCE",
    )  # fmt: skip
    band: float | None = setting(
        None, help="Width of the inner border that the boundary IoU compares, likewise.  [default: 2 % of the image's "
        "diagonal]", panel="Scores", minimum=0.0, parse=parse_distance, metavar="DISTANCE",
    )  # fmt: skip
    isbi: bool = setting(
        False, help="Also the Rand and information scores of the ISBI 2012 challenge, for cells with membranes between "
        "them: foreground is cell, background membrane.", panel="Scores",
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
        (), help="Checkpoint that `unet train` wrote, or a run's folder. Of several, or of the folds of a run, those "
        "that did not learn from an image are averaged.", panel="Files", metavar="FILE",
    )  # fmt: skip
    pred: Path | None = setting(
        None, help="Instead of weights: a folder of masks that any tool predicted.", panel="Files", metavar="DIR"
    )
    compare: Path | None = setting(
        None, help="Another checkpoint, run or folder of masks: is the difference on these images more than luck?",
        panel="Files", metavar="FILE",
    )  # fmt: skip
    csv: Path | None = setting(
        None, help="Write the scores of each image and class into this file.", panel="Output", metavar="FILE"
    )
    report: Path | None = setting(
        None, help="Write a page with pictures of the images that came out worst into this HTML file.", panel="Output",
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
        None, help="File to write.  [default: report.html in the run's folder]", panel="Output", metavar="FILE"
    )
    data: Path | None = setting(
        None, help="Folder with the images and masks, where they have moved.", panel="Data", metavar="DIR"
    )
    suspects: bool = setting(
        False, help="Also look for training masks that seem wrong: the network is sure of something else.",
        panel="Output",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        check_extension("--output", self.output, ".html")


@dataclass(frozen=True, kw_only=True)
class InfoConfig(Checked):
    """What `unet info` can be told."""

    weights: Path = setting(
        help="Checkpoint that `unet train` wrote, or a run's folder (its best.pth).", panel="Files", metavar="FILE",
        positional=True,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ImportConfig(Checked):
    """What `unet import` can be told."""

    file: Path = setting(
        help="Weights of milesial/Pytorch-UNet, or of Unet of segmentation_models_pytorch with a ResNet encoder.",
        panel="Files", metavar="FILE", positional=True,
    )  # fmt: skip
    output: Path = setting(help="Checkpoint to write, such as ours.pth.", panel="Files", metavar="FILE")
    scale: float | None = setting(
        None, help="What the sides of images were multiplied by in training.  [default: 0.5 for Pytorch-UNet, as its "
        "own --scale, and 1 for segmentation_models_pytorch]", panel="Files", minimum=0.01, maximum=10.0,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Checked):
    """What `unet sample` can be told."""

    folder: Path = setting(
        help="Folder to write images/ and masks/ into.", panel="Data", metavar="DIR", positional=True
    )
    count: int = setting(32, help="Number of pairs.", panel="Data", minimum=1, maximum=100_000)
    seed: int = setting(0, help="Another seed draws other cells.", panel="Data", minimum=0, maximum=2**63 - 1)


@dataclass(frozen=True, kw_only=True)
class BenchConfig(Hardware):
    """What `unet bench` can be told."""

    rounds: int = setting(5, help="How often each is timed, in turn.", panel="Benchmark", minimum=1)
    width: int = setting(64, help="Channels of the first level.", panel="Benchmark", minimum=1)
    images: int = setting(8, help="How many are predicted from disk to disk.", panel="Benchmark", minimum=1)
    masks: int = setting(16, help="How many are evaluated.", panel="Benchmark", minimum=1)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Checked):
    """A network: enough to build it again.

    num_classes counts the background. Two classes are one logit and a sigmoid; more are a softmax. The others are None
    where the network doesn't take them; while it is not resolved, also for what is usual. deep_supervision: losses at
    several heads.
    """

    name: str = "unet"
    in_channels: int = within(1, 4096, 3)
    num_classes: int = within(2, MAX_CLASSES, 2)
    base_channels: int | None = within(1, 4096, None)
    depth: int | None = within(1, 12, None)
    upsampling: Literal["transposed", "bilinear"] | None = None
    norm: Literal["batch", "group", "instance", "none"] | None = None
    dropout: float | None = within(0, 1, None)
    deep_supervision: bool | None = None

    @property
    def out_channels(self) -> int:
        return 1 if self.num_classes == 2 else self.num_classes

    def describe(self) -> str:
        """In words, as far as it is known."""
        spelled = {
            "base_channels": f"width {self.base_channels}",
            "depth": f"depth {self.depth}",
            "upsampling": f"{self.upsampling} upsampling",
            "norm": f"{'no' if self.norm == 'none' else self.norm} norm",
            "dropout": f"dropout {self.dropout}" if self.dropout else "",
            "deep_supervision": "deep supervision" if self.deep_supervision else "",
        }
        said = [text for name, text in spelled.items() if text and getattr(self, name) is not None]
        return ", ".join([self.name, *said])


MODEL_SETTINGS = {  # of a network that has them, and their names as settings of a run
    "base_channels": "width",
    "depth": "depth",
    "upsampling": "upsampling",
    "norm": "norm",
    "dropout": "dropout",
    "deep_supervision": "deep_supervision",
}


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Checked):
    """How an image becomes network input, in training and in prediction alike.

    mode: whether images are stretched to size x size, or cut into tiles of that size. scale: of networks of another
    tool, which see images resized by this factor instead. dtype: of the files' values; all
    that is signed, floating or has more than 16 bits is read as float32. intensity: what is subtracted and divided by:
    'dataset', mean and std of each channel; 'image', the mean and standard deviation over all pixels and channels of
    the image itself; 'percentile', the same within the image's 1st and 99th percentile, to which it is clipped. mean
    and std are in units of the files' values. keep_alpha: whether an alpha channel is one of the in_channels. files:
    how many files hold the channels of an image. pages: whether each page of a file is an image, or all its pages are
    the channels of one. orientation: 'upright' where images have a way up, so that the network knows none that are
    upside down or turned.
    """

    size: int = within(1, 2**16)
    in_channels: int = within(1, 4096)
    dtype: Dtype
    intensity: Literal["dataset", "image", "percentile"] = "dataset"
    mean: tuple[float, ...]
    std: tuple[float, ...]
    keep_alpha: bool = False
    files: int = within(1, 4096, 1)
    pages: Literal["images", "channels"] = "images"
    mode: Literal["resize", "tile"] = "resize"
    scale: float | None = within(1e-3, 1e3, None)
    orientation: Orientation = "any"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.mean) != len(self.std) or not all(map(math.isfinite, self.mean)):
            raise UserError(f"mean is {self.mean}: there has to be a finite number for each channel, as of std")
        if not all(math.isfinite(std) and std > 0 for std in self.std):
            raise UserError(f"std is {self.std}: what is divided by has to be above 0")

    def describe_size(self) -> str:
        """Of what the network sees."""
        if self.scale is not None and self.mode == "resize":
            return f"{self.scale:g} times the image's size"
        return f"{self.size}x{self.size}"

    def describe_orientation(self) -> str:
        return "upright" if self.orientation == "upright" else "any way up"

    def describe_intensity(self) -> str:
        if self.intensity == "image":
            return "each normalised by its own mean and deviation"
        if self.intensity == "percentile":
            return "each normalised by its own mean and deviation between its 1st and 99th percentile"
        numbers = ", ".join(f"{mean:.4g} ± {std:.4g}" for mean, std in zip(self.mean, self.std, strict=True))
        return f"normalised by {numbers}"


def least_std(dtype: str, mean: float) -> float:
    """What is divided by at least, so that a constant image is all zero, not infinite: one grey level, or for floating
    point the share of the mean that can still be told from rounding."""
    return max(FLOAT_RESOLUTION * abs(mean), 1e-12) if dtype == "float32" else 1.0


def plain(settings: Any) -> dict[str, Any]:
    """A settings dataclass as plain values that a checkpoint, JSON or TOML can hold."""
    return {
        key: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for key, value in asdict(settings).items()
    }
