"""The scores of each image or volume and class as a CSV table."""

from __future__ import annotations

import csv
import math
from io import TextIOWrapper
from pathlib import Path

import numpy as np

from unet_cli.evaluation.evaluate import Evaluation
from unet_cli.evaluation.scores import EMPTY, by_image, mean_of_classes
from unet_cli.evaluation.tally import tally
from unet_cli.metrics.overlap import dice, present_classes
from unet_cli.system.files import make_folder, whole_file


def write_csv(path: Path, found: Evaluation) -> None:
    """Write a row for each image and foreground class: the metrics, pixel counts, and numbers of objects, see
    tally.Tally. Raises UserError."""
    table = by_image(found)
    make_folder(path.parent)
    with whole_file(path) as file:
        text = TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        writer = csv.writer(text)
        sides = ["depth", "height", "width"][-len(found.images[0].size) :]
        columns = ["objects", "predicted", "found", "false", "splits", "merges"]
        writer.writerow(["image", "class", *sides, "tp", "fp", "fn", *columns, *table])
        for row, image in enumerate(found.images):
            for column, name in enumerate(found.labels.scored_names):
                counts = found.counts[row, found.labels.scored[column], :3].tolist()
                objects = tally([image.matches[column]])
                writer.writerow([
                    image.name, name, *image.size, *counts, objects.true, objects.predicted, objects.found,
                    objects.false, objects.splits, objects.merges,
                    *(_spelled(values[row, column]) for values in table.values()),
                ])  # fmt: skip
        text.detach()


def worst(found: Evaluation, count: int) -> list[tuple[str, float]]:
    """Names and scores of the lowest-scoring images, the worst first; see `image_scores`."""
    values = image_scores(found)
    order = np.argsort(values, kind="stable")[:count]  # NaN comes last
    return [(found.images[row].name, float(values[row])) for row in order if not math.isnan(values[row])]


def image_scores(found: Evaluation) -> np.ndarray:
    """(images) what ranks them: the F1 of their objects where scores of objects come first, else the Dice; the mean
    over the foreground classes in any mask of the set. A class that is in neither mask of an image scores as --empty
    says."""
    present = present_classes(found.foreground)
    if found.is_of_objects:
        return mean_of_classes(by_image(found)["object_f1"][:, present])
    return mean_of_classes(dice(found.foreground[:, present], EMPTY[found.scoring.empty]))


def _spelled(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
