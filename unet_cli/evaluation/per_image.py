"""The scores of each image and class as a table for people and programs."""

from __future__ import annotations

import csv
import math
from io import TextIOWrapper
from pathlib import Path

import numpy as np

from unet_cli.evaluation.evaluate import Evaluation
from unet_cli.evaluation.scores import EMPTY, by_image, mean_of_classes
from unet_cli.metrics.overlap import dice, present_classes
from unet_cli.system.files import make_folder, whole_file


def write_csv(path: Path, found: Evaluation) -> None:
    """A row for each image and foreground class: the metrics of an image that a class has, pixels, and objects found at
    IoU 0.5. Raises UserError."""
    table = by_image(found)
    make_folder(path.parent)
    with whole_file(path) as file:
        text = TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        writer = csv.writer(text)
        writer.writerow(["image", "class", "height", "width", "tp", "fp", "fn", "objects", "found", "false", *table])
        for row, image in enumerate(found.images):
            for column, name in enumerate(found.labels.scored_names):
                counts = found.counts[row, found.labels.scored[column]].tolist()
                true, false, missed = (int(part) for part in image.matches[column].counts[0])
                writer.writerow([
                    image.name, name, *image.size, *counts, true + missed, true, false,
                    *(_spelled(values[row, column]) for values in table.values()),
                ])  # fmt: skip
        text.detach()


def worst(found: Evaluation, count: int) -> list[tuple[str, float]]:
    """Name and mean Dice over the foreground classes of the images that came out worst, the worst first."""
    by_dice = image_dice(found)
    order = np.argsort(by_dice, kind="stable")[:count]  # NaN comes last
    return [(found.images[row].name, float(by_dice[row])) for row in order if not math.isnan(by_dice[row])]


def image_dice(found: Evaluation) -> np.ndarray:
    """(images) mean Dice over the foreground classes that some mask of the set holds; where a class is in neither mask
    of the image, as --empty says."""
    held = present_classes(found.foreground)
    return mean_of_classes(dice(found.foreground[:, held], EMPTY[found.scoring.empty]))


def _spelled(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
