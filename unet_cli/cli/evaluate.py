"""`unet evaluate`: scores of predicted masks, with confidence intervals."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from unet_cli.cli import app
from unet_cli.cli.options import DONE, command
from unet_cli.config.base import Output
from unet_cli.config.evaluation import EvaluateConfig
from unet_cli.metrics.names import OBJECTS, metric_name
from unet_cli.system.console import Console, counted

if TYPE_CHECKING:
    from pathlib import Path

    from unet_cli.data.labels import LabelMap
    from unet_cli.evaluation.case import Case
    from unet_cli.evaluation.evaluate import Evaluation
    from unet_cli.evaluation.ruler import Ruler
    from unet_cli.evaluation.scores import Sampled, Score
    from unet_cli.evaluation.subjects import Subject

MAX_CLASSES = 8  # with a column of their own
WORST = 5  # images listed at the end


@command(app, "evaluate", EvaluateConfig, example="unet evaluate --weights checkpoints/data-1/best.pth --data test/")
def evaluate_cli(config: EvaluateConfig, output: Output) -> int:
    """Score predictions against true masks: every usual score, with its 95 % confidence interval.

    Scores are over the images, and over all pixels together. Images that the weights were trained on are left out.
    --pred evaluates masks that any tool made, --compare tests two networks against each other on the same images.
    """
    return evaluate(config, Console(output.json, output.quiet))


def evaluate(config: EvaluateConfig, console: Console) -> int:
    """Run the evaluation; returns the exit code. Raises UserError before anything is computed, and at a bad file."""
    from unet_cli.evaluation.case import case_of
    from unet_cli.evaluation.per_image import worst
    from unet_cli.evaluation.scores import sampled, scores
    from unet_cli.system.files import writable_folder

    # An unwritable folder is reported before the evaluation, not after hours of it.
    for path in filter(None, (config.csv, config.report)):
        writable_folder(path.parent)
    case = case_of(config, console)
    console.say(*case.card.describe(), *(f"  note     {note}" for note in case.notes))
    found = _measured(case.subject, case, config, console)
    table = sampled(found)
    rows, lowest = scores(table, found), worst(found, WORST)
    first = found.is_of_objects
    console.result(*([*_on_objects(found), ""] if first else []))
    console.result(_headline(found), "", *_table(rows, case.labels, found.ruler, first))
    remarks = _remarks(found)
    console.result(*(["", *remarks] if remarks else []))
    compared: dict[str, Any] = {}
    if case.other is not None:
        compared = _compare(table, rows, found, _measured(case.other, case, config, console), config, console)
    ranked_by = "F1 of objects" if first else "Dice"
    console.result("", f"Worst by {ranked_by}:", *(f"  {value:.4f}  {name}" for name, value in lowest))
    _write_files(found, rows, case, config)
    console.document(
        {
            "data": str(case.card.layout.root),
            "images": len(case.pairs),
            "notes": case.notes,
            "classes": list(case.labels.names),
            "unit": found.ruler.unit,
            "scores": [_plain(row) for row in rows],
            "objects": _counts(found),
            "worst": [{"image": name, "object_f1" if first else "dice": value} for name, value in lowest],
            "csv": config.csv,
            "report": config.report,
            **compared,
        }
    )
    console.result("", f"Scores of each {found.noun[:-1]}: {config.csv or 'add --csv FILE.csv'}")
    console.result(f"Pictures of the worst: {config.report or 'add --report FILE.html'}")
    return DONE


def _headline(found: Evaluation) -> str:
    """The number of images, their pixel size, and what the intervals are."""
    from unet_cli.evaluation.scores import FEW_IMAGES

    kind, ruler = found.noun[:-1], found.ruler
    count = counted(len(found.images), kind)
    size = f", {ruler.described}" if ruler.described else ""
    if len(found.images) == 1:
        return f"{count}{size}: a single {kind} has no confidence intervals"
    rough = "" if len(found.images) >= FEW_IMAGES else f"; unreliable for so few {kind}s"
    return f"{count}{size}; each score with its 95 % confidence interval (bootstrap over {kind}s){rough}"


def _write_files(found: Evaluation, rows: list[Score], case: Case, config: EvaluateConfig) -> None:
    """Write the files that were requested. Raises UserError."""
    from unet_cli.evaluation.per_image import write_csv
    from unet_cli.report.page import write_report
    from unet_cli.report.pages import page_of_evaluation

    if config.csv is not None:
        write_csv(config.csv, found)
    if config.report is not None:
        root = case.card.layout.root
        facts = [("Of", _named(config.weights or [config.pred])), ("Data", str(root))]
        command = shlex.join(["unet", *sys.argv[1:]])
        write_report(config.report, page_of_evaluation(root.name, facts, command, found, rows, case.notes))


def _on_objects(found: Evaluation) -> list[str]:
    """How many objects were found, split and merged, and what that means."""
    what = "as the masks number them" if found.numbered else "connected components of the masks"
    return [
        found.tally.sentence,
        found.tally.counted,
        f"(Objects: {what}. Found: IoU over 0.5. Split: two or more predicted objects share a true one. Merged: a "
        "predicted object covers two or more true ones)",
    ]


def _counts(found: Evaluation) -> dict[str, Any]:
    """The numbers of objects of the set, of each of several classes, and of each image."""
    from unet_cli.evaluation.tally import tally

    several = found.labels.num_classes > 2
    return {
        **found.tally.plain(),
        **({"by_class": {name: one.plain() for name, one in found.tallies().items()}} if several else {}),
        "by_image": {one.name: tally(one.matches).plain() for one in found.images},
    }


def _remarks(found: Evaluation) -> list[str]:
    """Remarks below the table of scores."""
    lines = [found.ruler.note] if found.ruler.note else []
    if not found.is_of_objects:
        lines += _on_objects(found)
    true, false, missed = (found.foreground[..., place] for place in range(3))
    alone = int((((true + missed) > 0) != ((true + false) > 0)).sum())
    if alone:
        lines.append(
            f"In {counted(alone, 'case')} of {true.size:,}, a class is in only one of mask and prediction: there, "
            f"distances are the {found.noun[:-1]}'s diagonal"
        )
    return lines


def _named(paths: Sequence[Path | None]) -> str:
    return ", ".join(map(str, paths))


def _measured(subject: Subject, case: Case, config: EvaluateConfig, console: Console) -> Evaluation:
    from unet_cli.evaluation.evaluate import evaluate

    answers = subject.answers(case.pairs, case.labels, console)
    panels = config.report is not None and subject is case.subject
    keep_alpha = case.card.keep_alpha
    return evaluate(answers, case.labels, case.pairs, config, config.workers, panels, keep_alpha)


def _compare(
    table: Sampled, ours: list[Score], found: Evaluation, other: Evaluation, config: EvaluateConfig, console: Console
) -> dict[str, Any]:
    """Print the comparison with the other masks on the same images; returns it as JSON values."""
    from unet_cli.evaluation.scores import differences, is_significant, sampled, scores

    their_table = sampled(other)
    gaps = differences(table, their_table, found)
    verdicts = [is_significant(gap) for gap in gaps]
    console.result("", *_comparison(ours, scores(their_table, other), gaps, verdicts, config, found.ruler))
    return {
        "compared_with": str(config.compare),
        "differences": [_plain(gap) | {"significant": one} for gap, one in zip(gaps, verdicts, strict=True)],
    }


def _table(rows: list[Score], labels: LabelMap, ruler: Ruler, objects_first: bool) -> list[str]:
    """A line for each metric, by group: over all classes with the interval, then each class."""
    names = labels.scored_names if labels.num_classes > 2 else ()
    shown = names[:MAX_CLASSES]
    columns = "".join(f"  {_short(name):>10}" for name in shown)
    lines, group = [], ""
    by_metric = list(_by_metric(rows).items())
    if objects_first:
        by_metric.sort(key=lambda item: metric_name(item[0]).group != OBJECTS)
    for metric, by_class in by_metric:
        words = metric_name(metric)
        if words.group != group:
            group = words.group
            lines += ["", f"{group:<32}{'mean' if shown else '':>8}{'':20}{columns}".rstrip()]
        values = [_number(by_class[name].value, metric) if name in by_class else "" for name in shown]
        cells = "".join(f"  {value:>10}" for value in values)
        overall = by_class["all"]
        line = f"  {_label(metric, ruler):<30}{_number(overall.value, metric):>8}  {_interval(overall):<18}{cells}"
        lines.append(line.rstrip())
    if len(names) > len(shown):
        lines += ["", f"The other {len(names) - len(shown)} classes: see --json and --csv"]
    return lines[1:]


def _comparison(
    ours: list[Score],
    theirs: list[Score],
    gaps: list[Score],
    verdicts: list[bool],
    config: EvaluateConfig,
    ruler: Ruler,
) -> list[str]:
    """A line for each metric, over all classes, with the difference and whether it is statistically significant."""
    lines = [
        "On the same images (paired bootstrap):",
        f"  this   {_named(config.weights or [config.pred])}",
        f"  other  {config.compare}",
        "",
        f"{'':32}{'this':>8}{'other':>9}{'difference':>12}  95 % interval",
    ]
    first, second = _by_metric(ours), _by_metric(theirs)
    for gap, significant in zip(gaps, verdicts, strict=True):
        if gap.name == "all":
            metric = gap.metric
            values = [_number(rows[metric]["all"].value, metric) for rows in (first, second)]
            cells = f"{values[0]:>8} {values[1]:>8} {_number(gap.value, metric):>11}"
            lines.append(f"  {_label(metric, ruler):<30}{cells}  {_interval(gap):<20} {_verdict(gap, significant)}")
    return [*lines, "", "One score in twenty is significant by chance: choose the metric that counts beforehand."]


def _verdict(gap: Score, significant: bool) -> str:
    if math.isnan(gap.low):
        return "too few images"
    if gap.low == gap.high == 0:
        return "the same"
    if not significant:
        return "not significant"
    higher = metric_name(gap.metric).higher
    if higher is None:
        return "this one is higher" if gap.value > 0 else "the other is higher"
    # For distances, errors and the like, lower is better.
    is_better = (gap.value > 0) == higher
    return "this one is better" if is_better else "the other is better"


def _by_metric(rows: list[Score]) -> dict[str, dict[str, Score]]:
    found: dict[str, dict[str, Score]] = {}
    for row in rows:
        found.setdefault(row.metric, {})[row.name] = row
    return found


def _label(metric: str, ruler: Ruler) -> str:
    words = metric_name(metric)
    if metric == "surface_dice":
        return f"{words.label} at {ruler.tolerance:g} {ruler.unit}"
    return f"{words.label}, {ruler.unit}" if words.is_length else words.label


def _number(value: float, metric: str) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.2f}" if metric_name(metric).is_number else f"{value:.4f}"


def _interval(row: Score) -> str:
    return "" if math.isnan(row.low) else f"{_number(row.low, row.metric)} to {_number(row.high, row.metric)}"


def _short(name: str) -> str:
    return name if len(name) <= 10 else f"{name[:9]}…"


def _plain(row: Score) -> dict[str, Any]:
    """The fields, with NaN as null: JSON has no NaN."""
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value for key, value in asdict(row).items()
    }
