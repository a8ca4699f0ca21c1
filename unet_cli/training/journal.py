"""What a run leaves for people: log.csv, curves.png and pictures of the same few validation images as it learns."""

from __future__ import annotations

import csv
from io import TextIOWrapper
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unet_cli.data.dataset import SegmentationDataset
from unet_cli.data.imagefile import stretched, to_rgb, write_png
from unet_cli.data.labels import CLASS_COLOURS, IGNORED
from unet_cli.data.pictures import visible
from unet_cli.data.preprocess import normalize
from unet_cli.errors import UserError, explain
from unet_cli.files import whole_file, writable_folder
from unet_cli.training.loop import EpochResult, Trainer, to_classes

PICTURED = 4  # validation images
PANEL = 256  # pixels a side
GAP = 4


def new_run_folder(output: Path, name: str | None, data: Path) -> Path:
    """Create OUTPUT/<name>, or OUTPUT/<data folder>-1, -2, ...: never a folder that is there already.

    Raises UserError where the name is taken or the folder can't be written.
    """
    writable_folder(output)
    stem = data.resolve().name or "run"
    candidates = [name] if name else (f"{stem}-{number}" for number in range(1, 1_000_000))
    for candidate in candidates:
        try:
            (output / candidate).mkdir()
            return output / candidate
        except FileExistsError:
            continue
        except OSError as error:
            raise explain(error, output / candidate) from error
    raise UserError(f"{output / str(name)} exists: choose another --name, or leave it out to get a number")


class Journal:
    """The files of a run that people read. Each is written whole, after each epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[EpochResult] = []

    def add(self, result: EpochResult, trainer: Trainer) -> None:
        """Add a row to log.csv, and a picture at epochs 1 to 10, 20, 30, ... 100, 200, ..."""
        self.rows.append(result)
        self._write_log()
        if is_round(result.epoch):
            self.draw_pictures(result.epoch, trainer)

    def finish(self, trainer: Trainer) -> None:
        """Draw curves.png, and the pictures of the last epoch."""
        self.draw_curves()
        if not is_round(self.rows[-1].epoch):
            self.draw_pictures(self.rows[-1].epoch, trainer)

    def draw_pictures(self, epoch: int, trainer: Trainer) -> None:
        """pictures/epoch_0001.png: a row for each of a few validation images: image, mask, prediction."""
        dataset = trainer.val_data if len(trainer.val_data) else trainer.train_data
        folder = writable_folder(self.folder / "pictures")
        write_png(folder / f"epoch_{epoch:04d}.png", side_by_side(dataset, trainer))

    def draw_curves(self) -> None:
        """curves.png: losses, and validation Dice and IoU, over epochs."""
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        epochs = [row.epoch for row in self.rows]
        figure = Figure(figsize=(10, 4), layout="constrained")
        losses, scores = figure.subplots(1, 2)
        marker = "o" if len(epochs) < 20 else None
        losses.plot(epochs, [row.train_loss for row in self.rows], marker=marker, label="training loss")
        if self.rows[0].val_loss is not None:
            losses.plot(epochs, [_number(row.val_loss) for row in self.rows], marker=marker, label="validation loss")
            scores.plot(epochs, [_number(row.val_dice) for row in self.rows], marker=marker, label="validation Dice")
            scores.plot(epochs, [_number(row.val_iou) for row in self.rows], marker=marker, label="validation IoU")
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

    def _write_log(self) -> None:
        with whole_file(self.folder / "log.csv") as file:
            text = TextIOWrapper(file, encoding="utf-8", newline="")
            rows = [row.plain() for row in self.rows]
            # All columns that any row has: an epoch that was stopped has no scores of the classes.
            writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
            writer.writeheader()
            for row in rows:
                writer.writerow({key: _rounded(value) for key, value in row.items()})
            text.detach()


def is_round(epoch: int) -> bool:
    """1 to 10, 20, 30, ... 100, 200, ...: a picture each, and never more than a few dozen."""
    return epoch % 10 ** (len(str(epoch)) - 1) == 0 or epoch == 10


@torch.inference_mode()
def side_by_side(dataset: SegmentationDataset, trainer: Trainer) -> Image.Image:
    """Image, mask and prediction of the first few samples, a row each."""
    trainer.model.eval()
    rows = []
    for index in range(min(PICTURED, len(dataset))):
        image, mask = dataset[index]
        network_input = normalize(image[None].to(trainer.compute.device), dataset.preprocessing)
        pred = to_classes(trainer.logits(network_input))[0].cpu()
        panels = [
            Image.fromarray(to_rgb(stretched(visible(image.numpy()), cut=1))),
            _coloured(mask.numpy(), dataset.labels.num_classes),
            _coloured(pred.numpy(), dataset.labels.num_classes),
        ]
        rows.append([panel.resize((PANEL, PANEL), Image.Resampling.BILINEAR) for panel in panels])
    sheet = Image.new("RGB", (3 * (PANEL + GAP) - GAP, len(rows) * (PANEL + GAP) - GAP), "white")
    for y, row in enumerate(rows):
        for x, panel in enumerate(row):
            sheet.paste(panel, (x * (PANEL + GAP), y * (PANEL + GAP)))
    return sheet


def _coloured(mask: np.ndarray, num_classes: int) -> Image.Image:
    """(H, W) class indices -> RGB; white on black for one foreground class, gray where ignored."""
    colours = np.resize(np.array(CLASS_COLOURS, dtype=np.uint8), (256, 3))
    if num_classes == 2:
        colours[1] = 255
    colours[IGNORED] = 128
    return Image.fromarray(colours[mask])


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _rounded(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
