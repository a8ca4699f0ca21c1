"""`unet evaluate`: how good masks are, with intervals."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from unet_cli.cli import app
from unet_cli.cli.options import DONE, command
from unet_cli.config import EvaluateConfig, Output
from unet_cli.console import Console, counted
from unet_cli.evaluation.metric_names import metric_name

if TYPE_CHECKING:
    from pathlib import Path

    from unet_cli.data.card import Card
    from unet_cli.data.labels import LabelMap
    from unet_cli.evaluation.findings import Score
    from unet_cli.evaluation.subjects import Subject

MOST_CLASSES = 8  # that have a column of their own
WORST = 5  # images that are named
FEW_IMAGES = 10  # of fewer, a bootstrap says little


@command(app, "evaluate", EvaluateConfig, example="unet evaluate --weights checkpoints/data-1/best.pth --data test/")
def evaluate_cli(config: EvaluateConfig, output: Output) -> int:
    """Compare predictions with true masks: every usual score, with 95 % intervals, over the images and over all pixels.

    Images that the weights were trained on are left out. --pred evaluates masks that any tool made, --compare tests two
    networks against each other on the same images.
    """
    return evaluate(config, Console(output.json, output.quiet))


def evaluate(config: EvaluateConfig, console: Console) -> int:
    """Evaluate as told; returns the exit code. Raises UserError before anything is computed, and at a bad file."""
    from unet_cli.data.layout import find_layout

    layout = find_layout(config.data, config.images, config.masks, config.pair)  # before torch is imported

    from unet_cli.checkpoint import describe_unfinished, find_checkpoints, load_checkpoint
    from unet_cli.evaluation.evaluate import Evaluation, evaluate
    from unet_cli.evaluation.per_image import worst, write_csv
    from unet_cli.evaluation.scores import differences, is_sure, scores
    from unet_cli.evaluation.subjects import examined
    from unet_cli.files import writable_folder

    if config.csv is not None:
        writable_folder(config.csv.parent)
    paths = find_checkpoints(config.weights)
    card, labels = examined(layout, config, load_checkpoint(paths[0]).labels if paths else None, console)
    subject = _subject(paths or config.pred, card, labels, config)
    other = None if config.compare is None else _other(config.compare, card, labels, config)
    pairs = subject.pairs if other is None else [pair for pair in subject.pairs if pair in set(other.pairs)]
    notes = [*describe_unfinished(config.weights), *subject.notes, *(other.notes if other else ())]
    console.say(*card.describe(), *(f"  note     {note}" for note in dict.fromkeys(notes)))

    def measured(one: Subject) -> Evaluation:
        names = [pair.name for pair in pairs]
        return evaluate(one.answers(pairs, labels, console), labels, names, config, config.workers)

    found = measured(subject)
    rows, lowest = scores(found, config), worst(found, WORST)
    document: dict[str, Any] = {
        "data": str(layout.root),
        "images": len(pairs),
        "notes": notes,
        "classes": list(labels.names),
        "unit": config.unit,
        "scores": [_plain(row) for row in rows],
        "worst": [{"image": name, "dice": value} for name, value in lowest],
    }
    console.result(f"{counted(len(pairs), 'image')}; beside each score its 95 % interval (bootstrap over images)", "")
    console.result(*_table(rows, labels, config))
    if other is not None:
        theirs = measured(other)
        gaps = differences(found, theirs, config)
        document["compared_with"] = str(config.compare)
        document["differences"] = [_plain(gap) | {"more_than_luck": is_sure(gap)} for gap in gaps]
        verdicts = [is_sure(gap) for gap in gaps]
        console.result("", *_comparison(rows, scores(theirs, config), gaps, verdicts, config))
    console.result("", "Worst by Dice:", *(f"  {value:.4f}  {name}" for name, value in lowest))
    if len(pairs) < FEW_IMAGES:
        console.result("", f"Of {counted(len(pairs), 'image')} alone, intervals are a rough guess.")
    if config.csv is not None:
        write_csv(config.csv, found, config)
        document["csv"] = str(config.csv)
    console.document(document)
    console.result("", f"Scores of each image: {config.csv or 'add --csv FILE'}")
    return DONE


def _subject(subject: list[Path] | Path | None, card: Card, labels: LabelMap, config: EvaluateConfig) -> Subject:
    """Networks, or the masks in a folder."""
    from unet_cli.checkpoint import load_checkpoint
    from unet_cli.evaluation.subjects import masks, networks

    if isinstance(subject, list):
        return networks(subject, [load_checkpoint(path) for path in subject], card, config, config)
    assert subject is not None
    return masks(subject, card, labels, config)


def _other(path: Path, card: Card, labels: LabelMap, config: EvaluateConfig) -> Subject:
    """What --compare names: a folder without checkpoints is one of masks. Raises UserError."""
    from unet_cli.checkpoint import find_checkpoints
    from unet_cli.errors import UserError

    is_masks = path.is_dir() and not any((*path.glob("best.pth"), *path.glob("*/best.pth")))
    try:
        return _subject(path if is_masks else find_checkpoints([path]), card, labels, config)
    except UserError as error:
        raise UserError(f"--compare: {error}") from error


def _table(rows: list[Score], labels: LabelMap, config: EvaluateConfig) -> list[str]:
    """A line a metric, grouped: over all classes with the interval, then each class."""
    names = labels.names[1:] if labels.num_classes > 2 else ()
    shown = names[:MOST_CLASSES]
    columns = "".join(f"  {_short(name):>10}" for name in shown)
    lines, group = [], ""
    for metric, by_class in _by_metric(rows).items():
        words = metric_name(metric)
        if words.group != group:
            group = words.group
            lines += ["", f"{group:<32}{'mean' if shown else '':>8}{'':20}{columns}".rstrip()]
        values = [_number(by_class[name].value, metric) if name in by_class else "" for name in shown]
        cells = "".join(f"  {value:>10}" for value in values)
        overall = by_class["all"]
        line = f"  {_label(metric, config):<30}{_number(overall.value, metric):>8}  {_interval(overall):<18}{cells}"
        lines.append(line.rstrip())
    if len(names) > len(shown):
        lines += ["", f"The other {len(names) - len(shown)} classes: see --json and --csv"]
    return lines[1:]


def _comparison(
    ours: list[Score], theirs: list[Score], gaps: list[Score], verdicts: list[bool], config: EvaluateConfig
) -> list[str]:
    """A line a metric, over all classes, and whether the difference is more than luck."""
    lines = [
        f"Compared with {config.compare}, on the same images (paired bootstrap):",
        "",
        f"{'':32}{'this':>8}{'other':>9}{'difference':>12}  95 % interval",
    ]
    first, second = _by_metric(ours), _by_metric(theirs)
    for gap, is_sure in zip(gaps, verdicts, strict=True):
        if gap.name == "all":
            metric = gap.metric
            values = [_number(rows[metric]["all"].value, metric) for rows in (first, second)]
            cells = f"{values[0]:>8} {values[1]:>8} {_number(gap.value, metric):>11}"
            verdict = _verdict(gap) if is_sure else "may be luck"
            lines.append(f"  {_label(metric, config):<30}{cells}  {_interval(gap):<20} {verdict}")
    return lines


def _verdict(gap: Score) -> str:
    is_better = (gap.value > 0) == (metric_name(gap.metric).higher is not False)
    return "this one is better" if is_better else "the other is better"


def _by_metric(rows: list[Score]) -> dict[str, dict[str, Score]]:
    found: dict[str, dict[str, Score]] = {}
    for row in rows:
        found.setdefault(row.metric, {})[row.name] = row
    return found


def _label(metric: str, config: EvaluateConfig) -> str:
    words = metric_name(metric)
    return f"{words.label}, {config.unit}" if words.is_length else words.label


def _number(value: float, metric: str) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.2f}" if metric_name(metric).is_length else f"{value:.4f}"


def _interval(row: Score) -> str:
    return "" if math.isnan(row.low) else f"{_number(row.low, row.metric)} to {_number(row.high, row.metric)}"


def _short(name: str) -> str:
    return name if len(name) <= 10 else f"{name[:9]}…"


def _plain(row: Score) -> dict[str, Any]:
    """JSON has no NaN."""
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value for key, value in asdict(row).items()
    }
