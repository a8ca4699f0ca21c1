"""The log of a run: log.csv, curves.png, TensorBoard, and pictures of a few validation images during training."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from PIL import Image

from unet_cli.config.model import IGNORED
from unet_cli.data.colours import Colours
from unet_cli.data.pictures import stretched, to_rgb, visible, with_legend
from unet_cli.data.samples.cutting import Whole
from unet_cli.data.writing import write_png
from unet_cli.errors import UserError, explain
from unet_cli.system.files import whole_file
from unet_cli.training.progress import EpochResult
from unet_cli.training.run import Run
from unet_cli.training.validation import PredictedSample, predict_samples

PANEL = 256  # side of a panel in pixels
GAP = 4  # pixels between panels
PICTURED = 4  # samples in a picture

Samples = Callable[[], Sequence[PredictedSample]]


class Journal:
    """Writer of the log files of a run. Each is rewritten as a whole after each epoch. Raises UserError where writing
    fails.

    colours: colours of the classes in pictures. tensorboard: whether to log for TensorBoard too, see
    `tensorboard_writer`.
    """

    def __init__(self, folder: Path, colours: Colours, tensorboard: bool = False) -> None:
        self.folder, self.colours = folder, colours
        self._tensorboard = tensorboard_writer()(str(folder / "tensorboard")) if tensorboard else None

    def add(self, rows: Sequence[EpochResult], samples: Samples) -> None:
        """Write log.csv, and a picture after validations 1 to 10, 20, 30, ... 100, 200, ... samples: function that
        returns the samples of the picture with the network's current predictions."""
        self._write_log(rows)
        if _is_pictured(rows):
            self.draw_pictures(rows[-1].epoch, samples())
        if self._tensorboard is not None:
            self._write_tensorboard(self._tensorboard, rows[-1])

    def finish(self, rows: Sequence[EpochResult], samples: Samples) -> None:
        """Draw curves.png, and the picture of the last epoch."""
        self._write_log(rows)
        self.draw_curves(rows)
        if not _is_pictured(rows):
            self.draw_pictures(rows[-1].epoch, samples())
        if self._tensorboard is not None:
            self._tensorboard.close()

    def draw_pictures(self, epoch: int, samples: Sequence[PredictedSample]) -> None:
        """Write pictures/epoch_0001.png: image, mask and prediction of each sample in a row."""
        folder = self.folder / "pictures"
        try:
            folder.mkdir(exist_ok=True)  # without parents: the run's folder may be on a disk that was unmounted
        except OSError as error:
            raise explain(error, folder) from error
        write_png(folder / f"epoch_{epoch:04d}.png", _side_by_side(samples, self.colours))

    def draw_curves(self, rows: Sequence[EpochResult]) -> None:
        """Write curves.png: losses and validation Dice, set Dice and IoU over epochs."""
        # Figure without pyplot, which would choose a window system and keep the figure alive.
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        epochs = [row.epoch for row in rows]
        figure = Figure(figsize=(10, 4))
        margins = {"left": 0.06, "right": 0.985, "bottom": 0.13, "top": 0.97, "wspace": 0.14}
        losses, scores = figure.subplots(1, 2, gridspec_kw=margins)
        marker = "o" if len(epochs) < 20 else None
        losses.plot(epochs, [row.train_loss for row in rows], marker=marker, label="training loss")
        validated = [row for row in rows if row.val_loss is not None]
        if validated:
            marker = "o" if len(validated) < 20 else None
            for axes, name, label in (
                (losses, "val_loss", "validation loss"),
                (scores, "val_dice", "validation Dice"),
                (scores, "val_set_dice", "validation set Dice"),
                (scores, "val_iou", "validation IoU"),
            ):
                values = [_number(getattr(row, name)) for row in validated]
                axes.plot([row.epoch for row in validated], values, marker=marker, label=label)
            scores.set_ylim(0, 1)
            scores.legend()
        losses.set_ylim(bottom=0)
        losses.legend()
        for axes in (losses, scores):
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(alpha=0.3)
        with whole_file(self.folder / "curves.png") as file:
            figure.savefig(file, format="png", dpi=110)

    def _write_tensorboard(self, writer: Any, row: EpochResult) -> None:
        try:
            for name, value in row.plain().items():
                if isinstance(value, float):
                    writer.add_scalar(name, value, row.step)
            writer.flush()
        except OSError as error:
            raise explain(error, self.folder / "tensorboard") from error

    def _write_log(self, results: Sequence[EpochResult]) -> None:
        with whole_file(self.folder / "log.csv") as file:
            text = TextIOWrapper(file, encoding="utf-8", newline="")
            rows = [row.plain() for row in results]
            # The union of the rows' columns: an epoch without validation has no scores of the classes.
            writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
            writer.writeheader()
            for row in rows:
                writer.writerow({key: _rounded(value) for key, value in row.items()})
            text.detach()  # flushes, and leaves the file open for whole_file to rename


def tensorboard_writer() -> Any:
    """TensorBoard's SummaryWriter class. Raises UserError where it isn't installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "--tensorboard needs a package that isn't installed: pip install 'unet-cli[tensorboard]'"
        ) from error
    return SummaryWriter


def pictured_samples(run: Run) -> list[PredictedSample]:
    """Predicted samples for the run's pictures, from the validation part, or without one from the training part."""
    data = run.val_data
    if not len(data):
        data = run.loader.data
        # Whole images rather than the crops of training, so that every picture of the run shows the same pixels.
        data = data.cut_apart(Whole()) if data.preprocessing.mode == "resize" else data
    return predict_samples(run.learner, data, PICTURED)


def not_written(error: UserError | OSError, what_then: str = "") -> str:
    """A console line for a file that couldn't be written. what_then: end of the sentence."""
    return f"Not written: {explain(error) if isinstance(error, OSError) else error}{what_then}"


def _is_pictured(rows: Sequence[EpochResult]) -> bool:
    """Whether the last epoch was validated and its validation is due for a picture."""
    return rows[-1].averaged and is_round(sum(row.averaged for row in rows))


def is_round(number: int) -> bool:
    """Whether the number is one of 1 to 10, 20, 30, ... 100, 200, ..., so that pictures are a few dozen at most."""
    return number % 10 ** (len(str(number)) - 1) == 0 or number == 10


def _side_by_side(samples: Sequence[PredictedSample], colours: Colours) -> Image.Image:
    """A picture with image, mask and prediction of each sample in a row, and a legend below."""
    if any((sample.mask == IGNORED).any() for sample in samples):
        colours = replace(colours, ignored=True)
    palette = colours.area_palette()
    sheet = Image.new("RGB", (3 * (PANEL + GAP) - GAP, len(samples) * (PANEL + GAP) - GAP), "white")
    for y, sample in enumerate(samples):
        shown = to_rgb(stretched(visible(sample.image), cut=1))
        for x, pixels in enumerate((shown, palette[sample.mask], palette[sample.pred])):
            height, width = (max(1, round(PANEL * side / max(sample.mask.shape))) for side in sample.mask.shape)
            panel = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
            sheet.paste(panel, (x * (PANEL + GAP), y * (PANEL + GAP)))
    return with_legend(sheet, colours.area_legend())


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _rounded(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
