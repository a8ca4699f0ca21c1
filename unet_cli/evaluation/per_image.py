"""The scores of each image or volume and class as a CSV table."""

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
    """Write a row for each image and foreground class: the metrics, pixel counts, and objects found at IoU 0.5. Raises
    UserError."""
    table = by_image(found)
    make_folder(path.parent)
    with whole_file(path) as file:
        text = TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        writer = csv.writer(text)
        sides = ["depth", "height", "width"][-len(found.images[0].size) :]
        writer.writerow(["image", "class", *sides, "tp", "fp", "fn", "objects", "found", "false", *table])
        for row, image in enumerate(found.images):
            for column, name in enumerate(found.labels.scored_names):
                counts = found.counts[row, found.labels.scored[column], :3].tolist()
                true, false, missed = (int(part) for part in image.matches[column].counts[0])
                writer.writerow([
                    image.name, name, *image.size, *counts, true + missed, true, false,
                    *(_spelled(values[row, column]) for values in table.values()),
                ])  # fmt: skip
        text.detach()


def worst(found: Evaluation, count: int) -> list[tuple[str, float]]:
    """Names and mean Dice over the foreground classes of the lowest-scoring images, the worst first."""
    by_dice = image_dice(found)
    order = np.argsort(by_dice, kind="stable")[:count]  # NaN comes last
    return [(found.images[row].name, float(by_dice[row])) for row in order if not math.isnan(by_dice[row])]


def image_dice(found: Evaluation) -> np.ndarray:
    """(images) mean Dice over the foreground classes in any mask of the set; a class that is in neither mask of an
    image scores as --empty says."""
    present = present_classes(found.foreground)
    return mean_of_classes(dice(found.foreground[:, present], EMPTY[found.scoring.empty]))


def _spelled(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
