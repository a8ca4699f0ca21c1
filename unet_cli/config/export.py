"""Settings of `unet export`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unet_cli.config.base import setting
from unet_cli.config.data import Dtype, Reading
from unet_cli.config.model import MAX_SIZE, MIN_SIZE
from unet_cli.errors import UserError

Runtime = Literal["onnx", "openvino", "torch", "bioimage"]
EXTENSIONS: dict[str, str] = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2", "bioimage": ".zip"}


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Reading):
    """Everything that `unet export` can be told."""

    weights: Path = setting(
        help="Checkpoint that `unet train` wrote, or the folder of a run (its best.pth).", panel="Files",
        metavar="FILE",
    )  # fmt: skip
    to: Runtime = setting(
        help="What to write: onnx, for ONNX Runtime and most others; openvino, for processors of Intel (.xml and "
        ".bin); torch, a program of torch.export (.pt2); bioimage, a model of bioimage.io, for Fiji, ilastik and "
        "QuPath (.zip), which also holds one of your images as an example.",
        panel="Output",
    )
    output: Path | None = setting(
        None, help="File to write.  [default: beside the checkpoint, best.onnx, best.xml, best.pt2 or best.zip]",
        panel="Output", metavar="FILE",
    )  # fmt: skip
    input_type: Dtype | None = setting(
        None, help="Type of the numbers of the image that the file takes; their range is that of the training images.  "
        "[default: that of the training images]",
        panel="Network",
    )  # fmt: skip
    size: int | None = setting(
        None, help="Side in pixels of the network's input, for weights that see images at a fixed scale.  [default: as "
        "in training]", panel="Network", minimum=MIN_SIZE, maximum=MAX_SIZE,
    )  # fmt: skip
    check: Path | None = setting(
        None, help="Folder of images, with or without masks, on which the file's predictions are compared with ours.  "
        "[default: images of the run's validation part]", panel="Data", is_path=True, metavar="DIR",
    )  # fmt: skip
    max_difference: float = setting(
        0.01, help="Largest difference of any probability from ours; beyond it no file is written.", panel="Data",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip

    int8: bool = setting(
        False, help="Compute in whole numbers of 8 bits, for speed and a quarter of the size: calibrated on training "
        "images, and written only if the Dice on validation images stays within --max-loss.", panel="8 bits",
    )  # fmt: skip
    calibrate: int = setting(
        32, help="With --int8, number of training images to measure the range of values on.", panel="8 bits",
        minimum=1, maximum=10_000,
    )  # fmt: skip
    max_loss: float = setting(
        0.005, help="With --int8, the most that the mean Dice on validation images may fall.", panel="8 bits",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    data: Path | None = setting(
        None, help="Folder with the run's images and masks, if they have moved.", panel="Data", is_path=True,
        metavar="DIR",
    )  # fmt: skip
    name: str | None = setting(
        None,
        help="With --to bioimage, the model's name.  [default: after the run's folder]",
        panel="bioimage.io",
    )
    authors: tuple[str, ...] = setting(
        (), help="With --to bioimage, an author of the model; give it again for each. They are published with it.",
        panel="bioimage.io", metavar="NAME",
    )  # fmt: skip
    licence: str | None = setting(
        None, help="With --to bioimage, the licence of your weights, as in the list of SPDX, such as CC-BY-4.0.",
        panel="bioimage.io", metavar="SPDX",
    )  # fmt: skip

    @property
    def extension(self) -> str:
        return EXTENSIONS[self.to]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.int8 and self.to not in ("onnx", "openvino"):
            raise UserError(f"--int8 is for --to onnx and openvino, and not for {self.to}: leave it out")
        if self.name is not None and not re.fullmatch(r"[A-Za-z0-9_+\-() ]{5,64}", self.name):
            raise UserError(
                f"--name is '{self.name}': bioimage.io takes 5 to 64 letters of English, digits, spaces, and _ + - ( )"
            )
        if self.to == "bioimage" and self.licence is None:
            raise UserError(
                "--to bioimage writes what others may use, so it has to say how they may: give --licence, such as "
                "CC-BY-4.0 or MIT"
            )
        if self.licence is not None and not re.fullmatch(r"[A-Za-z0-9.+\-]{2,64}", self.licence):
            raise UserError(f"--licence is '{self.licence}': give an identifier of https://spdx.org/licenses")
        if not all(name.strip() and name.isprintable() for name in self.authors):
            raise UserError("--authors holds an empty name: leave it out")
        if self.output is not None and self.output.suffix.lower() != self.extension:
            raise UserError(
                f"--output is '{self.output}': for --to {self.to} give a file that ends in {self.extension}"
            )
