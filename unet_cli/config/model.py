"""Settings of a network, and of commands about weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unet_cli.config.base import Checked, setting, within
from unet_cli.errors import UserError

IGNORED = 255  # class index of mask pixels that no loss and no score counts: the last of 8 bits
MAX_CLASSES = IGNORED
MAX_OVERLAPPING = 7  # classes that may overlap: an index of 8 bits is a set of them
CORE = 128  # added to the class index of pixels in the core of an object, see data/cores.py
DEFAULT_SIZE, MIN_SIZE, MAX_SIZE = 512, 32, 8192  # of what a network sees, pixels
MAX_DEPTH = 12
CPU_WIDTH_SHARE = 2  # a processor has no time for more than one part in so many of a network's usual width


@dataclass(frozen=True, kw_only=True)
class InfoConfig(Checked):
    """What `unet info` can be told."""

    weights: Path = setting(
        help="Checkpoint that `unet train` wrote, the folder of a run (its best.pth), or an exported network (.onnx or "
        ".xml).", panel="Files", metavar="FILE", positional=True,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ImportConfig(Checked):
    """What `unet import` can be told."""

    file: Path = setting(
        help="State dict of milesial/Pytorch-UNet, or of Unet of segmentation_models_pytorch with a ResNet-18, -34 or "
        "-50 encoder.",
        panel="Files", metavar="FILE", positional=True,
    )  # fmt: skip
    output: Path = setting(help="Checkpoint to write, such as ours.pth.", panel="Files", metavar="FILE")
    scale: float | None = setting(
        None, help="Factor by which images were resized in training, which the file doesn't say.  [default: 0.5 for "
        "Pytorch-UNet, as its own --scale, and 1 for segmentation_models_pytorch]", panel="Files", minimum=0.01,
        maximum=10.0,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Checked):
    """A network: enough to build it again.

    num_classes counts the background. Two classes are one logit and a sigmoid; more are a softmax, or, overlapping, a
    sigmoid each but the background. The others are None where the network doesn't take them; while it is not resolved,
    also for what is usual. deep_supervision: losses at several heads. flat: of a network for volumes, the number of its
    uppermost levels that leave each axis (D, H, W) as it is, with kernels of 1 and without pooling, because its voxels
    are longer there. cores: whether the cores of objects have a sigmoid after those of the classes.
    """

    name: str = "unet"
    in_channels: int = within(1, 4096, 3)
    num_classes: int = within(2, MAX_CLASSES, 2)
    base_channels: int | None = within(1, 4096, None)
    depth: int | None = within(1, MAX_DEPTH, None)
    upsampling: Literal["transposed", "bilinear"] | None = None
    norm: Literal["batch", "group", "instance", "none"] | None = None
    dropout: float | None = within(0, 1, None)
    deep_supervision: bool | None = None
    flat: tuple[int, ...] | None = None
    overlapping: bool = False
    cores: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        deepest = self.depth or MAX_DEPTH
        if self.flat is not None and (len(self.flat) != 3 or min(self.flat) != 0 or max(self.flat) > deepest):
            raise UserError(
                f"flat is {self.flat}: it has to be three numbers of levels, 0 to {deepest}, and 0 along one axis at "
                "least"
            )

    @property
    def out_channels(self) -> int:
        return outputs_for(self.num_classes, self.overlapping) + self.cores

    def describe(self) -> str:
        """In words, as far as it is known."""
        spelled = {
            "base_channels": f"width {self.base_channels}",
            "depth": f"depth {self.depth}",
            "upsampling": f"{self.upsampling} upsampling",
            "norm": f"{'no' if self.norm == 'none' else self.norm} norm",
            "dropout": f"dropout {self.dropout}" if self.dropout else "",
            "deep_supervision": "deep supervision" if self.deep_supervision else "",
            "flat": ", ".join(
                f"{levels} flat level{'s' * (levels > 1)} along {axis}"
                for axis, levels in zip("DHW", self.flat or (), strict=False)
                if levels
            ),
        }
        said = [text for name, text in spelled.items() if text and getattr(self, name) is not None]
        return ", ".join([self.name, *said])


def outputs_for(num_classes: int, overlapping: bool) -> int:
    """The number of logits of each pixel: one for each class but the background with sigmoids, else one for each."""
    return num_classes - 1 if overlapping or num_classes == 2 else num_classes


def pixels_of(indices: Any, number: int, overlapping: bool) -> Any:
    """Where a class is: an array or tensor of class indices -> bool of the same shape.

    Where classes overlap, an index is a set of them: bit k - 1 stands for class k, and 0, the empty set, is background.
    Ignored pixels are of no class.
    """
    if not overlapping or number == 0:
        return indices == number
    return ((indices >> (number - 1)) & 1 > 0) & (indices != IGNORED)


MODEL_SETTINGS = {  # of a network that has them, and their names as settings of a run
    "base_channels": "width",
    "depth": "depth",
    "upsampling": "upsampling",
    "norm": "norm",
    "dropout": "dropout",
    "deep_supervision": "deep_supervision",
}
DATA_SETTINGS = ("flat",)  # of a network that has them, which follow from the data and are no settings of a run
