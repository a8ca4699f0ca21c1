"""What a run's page shows: what its folder and its checkpoints say, and what an evaluation found."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unet_cli.checkpoint import Checkpoint
from unet_cli.config import Scoring
from unet_cli.console import counted, duration
from unet_cli.errors import explain
from unet_cli.evaluation.evaluate import Evaluation
from unet_cli.evaluation.findings import Curve, Entry, Page, Sizes, Suspect
from unet_cli.evaluation.measure import Measured
from unet_cli.evaluation.per_image import image_dice
from unet_cli.evaluation.scores import reliabilities, scores
from unet_cli.evaluation.suspects import suspicious
from unet_cli.training.record import calls_of

MOST_ENTRIES = 100  # in the gallery: half of them the worst, the others evenly spread over the rest
SCORED_BY_THEMSELVES = (
    "These images were not trained on, but they chose the best epoch and the temperature: on images that played no "
    "part, scores may be a little lower. unet evaluate --weights RUN --data TEST tells."
)
NOT_VALIDATED = "No images were kept for validation, so there are no scores: unet evaluate --weights RUN --data TEST."
OUT_OF_FOLD = "Every image was predicted by the network that did not see it in training."


def page_of(
    run: Path,
    runs: Sequence[Path],
    checkpoints: Sequence[Checkpoint],
    found: Evaluation | None,
    suspects: list[Suspect] | None = None,
) -> Page:
    """The page of a run, or of the folds in `run`. runs: the folder of each checkpoint. found: None where nothing was
    validated. Raises UserError where a file of theirs can't be read."""
    logs = [_log(folder) for folder in runs]
    images = found.images if found else []
    classes = checkpoints[0].labels.names
    before, after = (found and reliabilities(found)) or (None, None)
    temperature = math.exp(float(np.mean([math.log(one.temperature) for one in checkpoints])))
    return Page(
        title=run.name,
        facts=_facts(runs, checkpoints, logs),
        command=calls_of(runs[0])[0]["command"],
        curves=[_curve(folder.name, log) for folder, log in zip(runs, logs, strict=True)],
        scores=scores(found, Scoring()) if found else [],
        units="px",
        images=len(images),
        entries=_gallery(found) if found else [],
        sizes=_sizes(images),
        before=before,
        after=None if temperature == 1 else after,
        temperature=temperature,
        confusion=sum((one.confusion for one in images), np.zeros((len(classes), len(classes)), np.int64)),
        classes=classes,
        notes=[NOT_VALIDATED if not images else OUT_OF_FOLD if len(runs) > 1 else SCORED_BY_THEMSELVES],
        suspects=suspects,
    )


def suspects_of(found: Evaluation) -> list[Suspect]:
    """The training images whose masks look wrong, the worst first."""
    doubts = [one.doubt for one in found.images if one.doubt is not None]
    names = found.labels.names
    suspects = []
    for row in suspicious(doubts):
        image, why = found.images[row], doubts[row]
        assert image.panels is not None
        suspects.append(Suspect(image.name, why.share, why.pixels, names[why.given], names[why.seen], image.panels))
    return suspects


def _facts(
    runs: Sequence[Path], checkpoints: Sequence[Checkpoint], logs: Sequence[list[dict[str, str]]]
) -> list[tuple[str, str]]:
    """What was trained on what."""
    first, call = checkpoints[0], calls_of(runs[0])[-1]
    training, preprocessing = first.training, first.preprocessing
    seconds = sum(float(log[-1]["seconds"]) for log in logs)
    trained = [
        f"{counted(len(log), 'epoch')}, the best {one.metrics['epoch']:.0f}"
        for log, one in zip(logs, checkpoints, strict=True)
    ]
    return [
        ("Network", first.model.describe()),
        *(_labelled(line) for line in first.data),
        ("Split", "; ".join(_split(run) for run in runs)),
        ("Seen at", f"{preprocessing.describe_size()}, {preprocessing.describe_intensity()}"),
        ("Learning", f"{training['loss']}; {training['optimizer']} at {training['lr']:g}, batches of "
         f"{training['batch_size']}, augmentation {training['augment']}"),
        ("Trained", f"{'; '.join(trained)}; {duration(seconds)}"),
        ("On", f"{call['device']}; unet {call['unet']}, torch {call['torch']}"),
    ]  # fmt: skip


def _labelled(line: str) -> tuple[str, str]:
    """A line of the data set card: '  images   32 sizes' -> ('Images', '32 sizes'); the first has no label."""
    if not line.startswith(" "):
        return "Data", line
    label, _, text = line.strip().partition(" ")
    return label.capitalize(), text.strip()


def _split(run: Path) -> str:
    parts = json.loads(_bytes(run / "split.json"))
    return f"{len(parts['train']):,} for training, {len(parts['val']):,} for validation ({parts['how']})"


def _curve(name: str, log: list[dict[str, str]]) -> Curve:
    def column(key: str) -> list[float]:
        return [float(row[key] or "nan") for row in log]

    return Curve(name, [int(row["epoch"]) for row in log], column("train_loss"), column("val_loss"), column("val_dice"))


def _log(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(_bytes(run / "log.csv").decode().splitlines()))


def _bytes(path: Path) -> bytes:
    """Raises UserError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise explain(error, path) from error


def _gallery(found: Evaluation) -> list[Entry]:
    """The worst images and some of the others, the worst first."""
    by_dice = image_dice(found)
    order = np.argsort(by_dice, kind="stable").tolist()
    worst, rest = order[: MOST_ENTRIES // 2], order[MOST_ENTRIES // 2 :]
    room = MOST_ENTRIES - len(worst)
    rest = [rest[place * len(rest) // room] for place in range(room)] if len(rest) > room else rest
    return [_entry(found.images[row], float(by_dice[row])) for row in worst + rest]


def _entry(one: Measured, score: float) -> Entry:
    assert one.panels is not None
    matrix = one.confusion / max(1, one.confusion.sum())
    missed, false = float(matrix[1:, 0].sum()), float(matrix[0, 1:].sum())
    wrong = float(matrix[1:, 1:].sum() - np.trace(matrix[1:, 1:]))
    return Entry(one.name, score, missed, false, wrong, one.panels)


def _sizes(images: Sequence[Measured]) -> Sizes:
    matches = [match for one in images for match in one.matches]
    none = np.zeros(0, np.int64)
    return Sizes(
        np.concatenate([none, *(match.found for match in matches)]),
        np.concatenate([none, *(match.missed for match in matches)]),
        np.concatenate([none, *(match.false for match in matches)]),
    )
