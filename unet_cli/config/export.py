"""Settings of `unet export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unet_cli.config.base import setting
from unet_cli.config.data import Dtype, Reading
from unet_cli.config.model import MAX_SIZE, MIN_SIZE
from unet_cli.errors import UserError

Runtime = Literal["onnx", "openvino", "torch"]
EXTENSIONS: dict[str, str] = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Reading):
    """Everything that `unet export` can be told."""

    weights: Path = setting(
        help="Checkpoint that `unet train` wrote, or the folder of a run (its best.pth).", panel="Files",
        metavar="FILE",
    )  # fmt: skip
    to: Runtime = setting(
        help="What to write: onnx, for ONNX Runtime and most others; openvino, for processors of Intel (.xml and "
        ".bin); torch, a program of torch.export (.pt2).",
        panel="Output",
    )
    output: Path | None = setting(
        None, help="File to write.  [default: beside the checkpoint, best.onnx, best.xml or best.pt2]",
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

    @property
    def extension(self) -> str:
        return EXTENSIONS[self.to]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output is not None and self.output.suffix.lower() != self.extension:
            raise UserError(
                f"--output is '{self.output}': for --to {self.to} give a file that ends in {self.extension}"
            )
