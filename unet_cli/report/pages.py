"""Collect the contents of a report from run folders, checkpoints and an evaluation."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from unet_cli.checkpoint import Checkpoint
from unet_cli.data.colours import colours_of
from unet_cli.data.source import spread
from unet_cli.errors import UserError, explain
from unet_cli.evaluation.evaluate import Evaluation
from unet_cli.evaluation.measure import Measured
from unet_cli.evaluation.per_image import image_scores
from unet_cli.evaluation.scores import FEW_IMAGES, Score, reliabilities, sampled, scores
from unet_cli.evaluation.subjects import SCORED_BY_THEMSELVES
from unet_cli.evaluation.suspects import suspicious
from unet_cli.evaluation.tally import tally
from unet_cli.report.contents import Curve, Entry, Page, Sizes, Suspect
from unet_cli.run_folder import calls_of
from unet_cli.system.console import counted, duration
from unet_cli.system.schema import json_of, parsed

COLUMNS = ("epoch", "seconds", "train_loss", "val_loss", "val_dice")  # of log.csv
CALL_FIELDS = ("command", "device", "unet", "torch")  # of run.json
FINAL_SCORES = {"final_object_f1": "F1 of objects", "final_dice": "Dice"}
TRAINING_FIELDS = ("loss", "optimizer", "lr", "batch_size", "augment")  # of a checkpoint
MAX_EPOCH = 10**9
MAX_ENTRIES = 100  # in the gallery: half of them the worst, the others evenly spread over the rest
ORDINALS, MEDIAN = ("", "2nd ", "3rd "), "median"
MAX_IN_STRIP = len(ORDINALS)  # worst images, and as many median ones
NOT_VALIDATED = "There is no validation part, so there are no scores: unet evaluate --weights RUN --data TEST."
VALIDATED = f"These images are the validation part: {SCORED_BY_THEMSELVES}: unet evaluate --weights RUN --data TEST."
OUT_OF_FOLD = "Every image was predicted by the network that was not trained on it."
FEW = "There are few {}: the confidence intervals are unreliable."


def page_of_run(
    run: Path,
    runs: Sequence[Path],
    checkpoints: Sequence[Checkpoint],
    found: Evaluation | None,
    suspects: list[Suspect] | None = None,
    notes: Sequence[str] = (),
) -> Page:
    """The report of a run, or of the folds in `run`. runs: the folder of each checkpoint. found: None without
    validation. notes: remarks for the reader. Raises UserError where one of their files can't be read."""
    logs = [_log(folder) for folder in runs]
    page = Page(
        title=run.name,
        facts=_facts(runs, checkpoints, logs),
        command=_calls(runs[0])[0]["command"],
        curves=[_curve(folder.name, log) for folder, log in zip(runs, logs, strict=True)],
        colours=colours_of(checkpoints[0].labels),
        temperatures=tuple(one.temperature for one in checkpoints),
        suspects=suspects,
        notes=[*notes, NOT_VALIDATED],
    )
    if found is None:
        return page
    of = (f"validation {found.noun}", VALIDATED) if len(runs) == 1 else (found.noun, OUT_OF_FOLD)
    return _with_findings(page, found, scores(sampled(found), found), *of, *notes)


def page_of_evaluation(
    title: str,
    facts: list[tuple[str, str]],
    command: str,
    found: Evaluation,
    rows: list[Score],
    notes: Sequence[str],
) -> Page:
    """The report of an evaluation. rows: its scores."""
    temperatures = tuple({one.temperature for one in found.images})
    page = Page(title, facts, command, colours_of(found.labels), temperatures=temperatures)
    return _with_findings(page, found, rows, found.noun, *notes)


def _with_findings(page: Page, found: Evaluation, rows: list[Score], kind: str, *notes: str) -> Page:
    before, after = reliabilities(found) or (None, None)
    entry = cache(partial(_entry, found, image_scores(found)))
    strip, entries = _strip(found, entry), _gallery(found, entry)
    few = FEW.format(found.noun) if len(found.images) < FEW_IMAGES else ""
    return replace(
        page,
        scores=rows,
        units=found.ruler.unit,
        images=len(found.images),
        kind=kind,
        noun=found.noun,
        strip=strip,
        entries=entries,
        tally=found.tally if found.is_of_objects else None,
        sizes=sizes_of(found.images),
        before=before,
        after=after if any(temperature != 1 for temperature in page.temperatures) else None,
        confusion=None if found.labels.overlapping else np.sum([one.confusion for one in found.images], axis=0),
        notes=[*notes, *filter(None, [found.ruler.note, few])],
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
    runs: Sequence[Path], checkpoints: Sequence[Checkpoint], logs: Sequence[list[dict[str, float]]]
) -> list[tuple[str, str]]:
    """Facts about the training: network, data, split, preprocessing, optimizer, time, device."""
    first, call = checkpoints[0], _calls(runs[0])[-1]
    training, preprocessing = first.training, first.preprocessing
    for run, one in zip(runs, checkpoints, strict=True):
        if "epoch" not in one.metrics or any(one.training.get(name) is None for name in TRAINING_FIELDS):
            raise UserError(f"{run} holds weights that unet train did not write: give the folder of a run")
    seconds = sum(log[-1]["seconds"] for log in logs)
    trained = [
        f"{run.name}: " * (len(runs) > 1)
        + f"{counted(len(log), 'epoch')}, the best {one.metrics['epoch']:.0f}"
        + "".join(f", {label} {one.metrics[key]:.3f}" for key, label in FINAL_SCORES.items() if key in one.metrics)
        for run, log, one in zip(runs, logs, checkpoints, strict=True)
    ]
    return [
        ("Network", first.model.describe()),
        *(_labelled(line) for line in first.data),
        ("Split", "; ".join(_split(run) for run in runs)),
        ("Seen at", f"{preprocessing.describe_size()}, {preprocessing.describe_orientation()}, "
         f"{preprocessing.describe_intensity()}"),
        ("Learning", f"{training['loss']}; {training['optimizer']} at {training['lr']:g}, batches of "
         f"{training['batch_size']}, augmentation {training['augment']}"),
        ("Trained", f"{'; '.join(trained)}; in {duration(seconds)}"),
        ("On", f"{call['device']}; unet {call['unet']}, torch {call['torch']}"),
    ]  # fmt: skip


def _calls(run: Path) -> list[dict[str, Any]]:
    """The calls of unet train that wrote the run. Raises UserError."""
    calls = calls_of(run)
    is_complete = all(isinstance(call.get(name), str) for call in calls for name in CALL_FIELDS)
    if not calls or not is_complete:
        raise UserError(f"{run / 'run.json'} is missing, or not what unet train wrote: restore it")
    return calls


def _labelled(line: str) -> tuple[str, str]:
    """A line of the data set card: '  images   32 sizes' -> ('Images', '32 sizes'); the first line has no label."""
    if not line.startswith(" "):
        return "Data", line
    label, _, text = line.strip().partition(" ")
    return label.capitalize(), text.strip()


def _split(run: Path) -> str:
    path = run / "split.json"
    try:
        parts = parsed(dict[str, Any], json_of(_bytes(path)), "it")
        train, val = (parsed(list[str], parts.get(name), name) for name in ("train", "val"))
        how = parsed(str, parts.get("how"), "how")
    except ValueError as error:
        raise UserError(f"{path} is not what unet train wrote ({error}): restore it") from error
    return f"{len(train):,} for training, {len(val):,} for validation ({how})"


def _curve(name: str, log: list[dict[str, float]]) -> Curve:
    columns = ([row[key] for row in log] for key in ("train_loss", "val_loss", "val_dice"))
    return Curve(name, [int(row["epoch"]) for row in log], *columns)


def _log(run: Path) -> list[dict[str, float]]:
    path = run / "log.csv"
    try:
        rows = list(csv.DictReader(_bytes(path).decode().splitlines()))
        numbers = [{name: float(row[name] or "nan") for name in COLUMNS} for row in rows]
    except (csv.Error, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not what unet train wrote ({error}): restore it") from error
    if not numbers or not all(0 <= row["epoch"] < MAX_EPOCH and 0 <= row["seconds"] < math.inf for row in numbers):
        raise UserError(f"{path} holds no epoch as unet train writes them: restore it")
    return numbers


def _bytes(path: Path) -> bytes:
    """The file's content. Raises UserError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise explain(error, path) from error


def strip_rows(scores: np.ndarray) -> list[tuple[str, int]]:
    """The images at the top of the page, by index, with their rank: the worst, and of three or more images those around
    the median, each at most a third of all. Images without a score only if there are no others."""
    order = np.argsort(scores, kind="stable")
    # argsort puts NaN last, so the finite scores are a prefix.
    order = order[: np.isfinite(scores).sum() or len(order)]
    count = min(MAX_IN_STRIP, max(1, len(order) // 3))
    first = max(count, (len(order) - count) // 2)
    worst = [
        (f"{place}worst of {len(order):,}", row) for place, row in zip(ORDINALS, order[:count].tolist(), strict=False)
    ]
    median = order[first : first + count].tolist() if len(order) > 2 else []
    return [*worst, *((MEDIAN, row) for row in median)]


def _strip(found: Evaluation, entry: Callable[[int], Entry]) -> list[tuple[str, Entry]]:
    """The images at the top of the page; pictures of objects are large, so that of those in the middle there is one."""
    rows = strip_rows(image_scores(found))
    if found.is_of_objects:
        rows = rows[: 1 + sum(what != MEDIAN for what, _ in rows)]
    return [(what, entry(row)) for what, row in rows]


def _gallery(found: Evaluation, entry: Callable[[int], Entry]) -> list[Entry]:
    """The worst images and a sample of the others, the worst first."""
    order = np.argsort(image_scores(found), kind="stable").tolist()
    worst, rest = order[: MAX_ENTRIES // 2], order[MAX_ENTRIES // 2 :]
    return [entry(row) for row in worst + spread(rest, MAX_ENTRIES - len(worst))]


def _entry(found: Evaluation, scores: np.ndarray, row: int) -> Entry:
    one, first = found.images[row], found.labels.scored.start
    assert one.panels is not None
    matrix = one.confusion / max(1, one.confusion.sum())
    missed, false = float(matrix[first:, :first].sum()), float(matrix[:first, first:].sum())
    wrong = float(matrix[first:, first:].sum() - np.trace(matrix[first:, first:]))
    objects = one.pictured.draw() if one.pictured is not None else None
    counts = tally(one.matches) if found.is_of_objects else None
    return Entry(one.name, float(scores[row]), missed, false, wrong, one.panels, objects, counts)


def sizes_of(images: Sequence[Measured]) -> Sizes:
    """Areas of the objects of all classes, matched at IoU 0.5."""
    matches = [match for one in images for match in one.matches]
    none = np.zeros(0, np.int64)
    return Sizes(
        np.concatenate([none, *(match.found for match in matches)]),
        np.concatenate([none, *(match.missed for match in matches)]),
        np.concatenate([none, *(match.false for match in matches)]),
    )
