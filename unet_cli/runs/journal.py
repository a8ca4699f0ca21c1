"""What a run leaves for people: log.csv, curves.png and pictures of the same few validation images as it learns."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from unet_cli.config.model import IGNORED
from unet_cli.data.colours import colours_of
from unet_cli.data.objects import CLASSES
from unet_cli.data.pictures import stretched, to_rgb, visible, with_legend
from unet_cli.data.samples.cutting import Whole
from unet_cli.data.samples.dataset import SegmentationDataset
from unet_cli.data.samples.warp import middle
from unet_cli.data.writing import write_png
from unet_cli.errors import UserError, explain
from unet_cli.models.classes import to_classes
from unet_cli.system.files import whole_file
from unet_cli.training.loop import Trainer
from unet_cli.training.progress import EpochResult

PICTURED = 4  # validation images
PANEL = 256  # pixels a side
GAP = 4


class Journal:
    """The files of a run that people read. Each is written whole, after each epoch. Raises UserError where the disk
    refuses.

    tensorboard: whether the log is written for TensorBoard too; see `tensorboard_writer`.
    """

    def __init__(self, folder: Path, tensorboard: bool = False) -> None:
        self.folder = folder
        self._tensorboard = tensorboard_writer()(str(folder / "tensorboard")) if tensorboard else None

    def add(self, trainer: Trainer) -> None:
        """Write log.csv, and a picture after the validations 1 to 10, 20, 30, ... 100, 200, ..."""
        rows = trainer.progress.rows
        self._write_log(rows)
        if _is_pictured(rows):
            self.draw_pictures(rows[-1].epoch, trainer)
        if self._tensorboard is not None:
            self._write_tensorboard(self._tensorboard, rows[-1])

    def finish(self, trainer: Trainer) -> None:
        """Draw curves.png, and the pictures of the last epoch."""
        rows = trainer.progress.rows
        self._write_log(rows)
        self.draw_curves(rows)
        if not _is_pictured(rows):
            self.draw_pictures(rows[-1].epoch, trainer)
        if self._tensorboard is not None:
            self._tensorboard.close()

    def draw_pictures(self, epoch: int, trainer: Trainer) -> None:
        """pictures/epoch_0001.png: a row for each of a few validation images: image, mask, prediction."""
        dataset = trainer.val_data
        if not len(dataset):
            dataset = trainer.train_data
            if dataset.preprocessing.mode == "resize":
                dataset = dataset.cut_apart(Whole())
        folder = self.folder / "pictures"
        try:
            folder.mkdir(exist_ok=True)  # but not the run's, which may be on a disk that has gone
        except OSError as error:
            raise explain(error, folder) from error
        write_png(folder / f"epoch_{epoch:04d}.png", side_by_side(dataset, trainer))

    def draw_curves(self, rows: Sequence[EpochResult]) -> None:
        """curves.png: losses, and validation Dice, set Dice and IoU, over epochs."""
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
            # All columns that any row has: an epoch that was stopped has no scores of the classes.
            writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
            writer.writeheader()
            for row in rows:
                writer.writerow({key: _rounded(value) for key, value in row.items()})
            text.detach()


def tensorboard_writer() -> Any:
    """The class that writes for TensorBoard. Raises UserError where that isn't installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "--tensorboard needs a package that isn't installed: pip install 'unet-cli[tensorboard]'"
        ) from error
    return SummaryWriter


def _is_pictured(rows: Sequence[EpochResult]) -> bool:
    """Whether the last epoch's weights were judged, and it is their turn."""
    return rows[-1].averaged and is_round(sum(row.averaged for row in rows))


def is_round(number: int) -> bool:
    """1 to 10, 20, 30, ... 100, 200, ...: a picture each, and never more than a few dozen."""
    return number % 10 ** (len(str(number)) - 1) == 0 or number == 10


@torch.inference_mode()
def side_by_side(dataset: SegmentationDataset, trainer: Trainer) -> Image.Image:
    """Image, mask and the averaged weights' prediction of a few samples, a row each, and a legend below: of the
    first of each image, and where there are few images of the next ones.

    A row's panels show the same pixels: those that the network answers for, without the context that it needs beside
    them.
    """
    rows = []
    learner, side, colours = trainer.learner, dataset.side, colours_of(dataset.labels)
    palette = colours.area_palette()
    _, firsts = np.unique(dataset.image_numbers, return_index=True)
    of_images = dict.fromkeys(firsts.tolist())
    order = [*of_images, *(index for index in range(len(dataset)) if index not in of_images)]
    for index in order[:PICTURED]:
        (batch,) = dataset.batches([index], 1, workers=1)
        image, mask = trainer.to_device(batch)
        with learner.average.swapped_in(learner.model):
            pred = to_classes(learner.logits(middle(image, side + 2 * learner.context)))[0].cpu()
        shown = middle(batch.image[0], side)
        target = middle(mask[0], side).cpu().numpy().astype(np.int32) % CLASSES  # it may number its objects
        if (target == IGNORED).any():
            colours = replace(colours, ignored=True)
        panels = [
            Image.fromarray(to_rgb(stretched(visible(shown.numpy()), cut=1))),
            Image.fromarray(palette[target]),
            Image.fromarray(palette[pred.numpy()]),
        ]
        rows.append([panel.resize((PANEL, PANEL), Image.Resampling.BILINEAR) for panel in panels])
    sheet = Image.new("RGB", (3 * (PANEL + GAP) - GAP, len(rows) * (PANEL + GAP) - GAP), "white")
    for y, row in enumerate(rows):
        for x, panel in enumerate(row):
            sheet.paste(panel, (x * (PANEL + GAP), y * (PANEL + GAP)))
    return with_legend(sheet, colours.area_legend())


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _rounded(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
