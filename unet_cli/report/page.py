"""Render the report, a self-contained HTML file, from the results of an evaluation."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unet_cli.evaluation.object_panels import FATE_COLOURS
from unet_cli.evaluation.scores import Score
from unet_cli.evaluation.tally import Tally
from unet_cli.metrics.calibration import Reliability, calibration_error
from unet_cli.metrics.names import METRIC_NAMES, MetricName, metric_name
from unet_cli.report import figures
from unet_cli.report.contents import Curve, Entry, Page
from unet_cli.system.files import whole_file

if TYPE_CHECKING:
    from jinja2 import Template

NONE = "–"  # stands for a missing number
MAX_COLUMNS = 7  # of a table of scores; further classes get a table of their own below


@dataclass(frozen=True)
class ScoreRow:
    """A metric in a table: its display name and unit; value and interval of each column, '' where missing."""

    name: MetricName
    unit: str
    cells: list[tuple[str, str]]


@dataclass(frozen=True)
class ScoreTable:
    """The metrics of one group. columns: 'all', and each class if there are several."""

    title: str
    columns: list[str]
    rows: list[ScoreRow]


@dataclass(frozen=True)
class Drawing:
    """A figure and its caption."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Calibration:
    """The calibration of one class: its line style in the figures, and its expected calibration error before and after
    temperature scaling."""

    name: str
    colour: str
    marker: str
    before: str
    after: str


def write_report(path: Path, page: Page) -> None:
    """Write the report, which opens in any browser without network access. Raises UserError where the file can't be
    written."""
    text = render(page)
    with whole_file(path) as file:
        file.write(text.encode(errors="backslashreplace"))  # a file name may be invalid Unicode


def render(page: Page) -> str:
    """The report as HTML. The template escapes all text."""
    return template().render(
        page=page,
        headline=headline(page),
        tables=score_tables(page),
        entries=worst_first(page.entries),
        curves=curve_drawings(page.curves),
        sizes=size_drawings(page),
        reliability=reliability_drawings(page),
        calibration=calibration_rows(page),
        confusion=None if page.confusion is None else confusion_shares(page.confusion),
    )


@cache
def template() -> Template:
    """The empty report."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("unet_cli", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"base64": lambda data: b64encode(data).decode(), "percent": percent, "drawing": Markup}
    environment.globals |= {"number": number, "is_nan": math.isnan, "fates": FATE_COLOURS}
    return environment.get_template("report.html")


def headline(page: Page) -> list[tuple[str, str, str]]:
    """The headline scores: label, number and the line below it. Of objects first how many were found."""
    overall = {score.metric: score for score in page.scores if score.name == "all"}
    metrics = ("dice", "set_dice", "iou", "mean_iou") if page.tally is None else ("object_f1", "bowl_score", "dice")
    shown = [overall[metric] for metric in metrics if metric in overall]
    scores = [(metric_name(score.metric).label, *_texts(score)) for score in shown]
    if page.tally is not None:
        scores = [*_of_objects(page.tally), *scores]
    return [*scores, (page.kind, f"{page.images:,}", "evaluated at original size")] if page.images else scores


def score_tables(page: Page) -> list[ScoreTable]:
    """The scores by group and metric, in the order of METRIC_NAMES, unknown ones last. Many classes are split over
    several tables with the same title."""
    several = len(page.classes) > 2  # with one foreground class, its scores equal those of all
    cells = {(score.metric, score.name): _texts(score) for score in page.scores if several or score.name == "all"}
    # A dict keeps the order of the first occurrence, unlike a set.
    columns = list(dict.fromkeys(["all", *page.classes[page.first :], *(name for _, name in cells)]))
    known = [metric for metric in METRIC_NAMES if any(metric == key for key, _ in cells)]
    metrics = list(dict.fromkeys([*known, *(metric for metric, _ in cells)]))
    tables = []
    for group, members in groupby(metrics, key=lambda metric: metric_name(metric).group):
        rows = list(members)
        used = [name for name in columns if any((metric, name) in cells for metric in rows)]
        for start in range(0, len(used), MAX_COLUMNS):
            part = used[start : start + MAX_COLUMNS]
            tables.append(ScoreTable(group, part, [_score_row(metric, part, cells, page.units) for metric in rows]))
    return tables


def worst_first(entries: Sequence[Entry]) -> list[Entry]:
    """Sorted by score, NaN last."""
    return sorted(entries, key=lambda entry: (math.isnan(entry.score), entry.score))


def curve_drawings(curves: Sequence[Curve]) -> list[Drawing]:
    """Loss and validation Dice over epochs, where available."""
    folds = f"; a thin line for each of {len(curves)} runs" if len(curves) > 1 else ""
    drawings = []
    if any(np.isfinite(curve.train_loss).any() for curve in curves):
        drawings.append(Drawing(figures.draw_losses(curves), f"Loss in training and validation{folds}"))
    if any(np.isfinite(curve.val_dice).any() for curve in curves):
        drawings.append(Drawing(figures.draw_dice(curves), f"Validation Dice at the network's size{folds}"))
    return drawings


def size_drawings(page: Page) -> list[Drawing]:
    """Histogram of found, missed and false objects by area."""
    sizes = page.sizes
    if not (sizes.found.size or sizes.missed.size or sizes.false.size):
        return []
    extent = "area" if page.noun == "images" else "volume"
    found = f"{sizes.found.size:,} objects found, {sizes.missed.size:,} missed, {sizes.false.size:,} false, by {extent}"
    return [Drawing(figures.draw_sizes(sizes, page.colours.errors, f"{extent} in {page.pixels}"), found)]


def reliability_drawings(page: Page) -> list[Drawing]:
    """Reliability diagrams before and after temperature scaling."""
    drawings = []
    if page.before is not None:
        drawings.append(
            Drawing(figures.draw_reliability("before", page.before), "Before: probabilities as the network gives them")
        )
    if page.after is not None:
        several = len(page.temperatures) > 1
        each = "each network's own temperature" if several else f"a temperature of {page.temperatures[0]:.2f}"
        caption = f"After: with {each}"
        drawings.append(Drawing(figures.draw_reliability("after", page.after), caption))
    return drawings


def calibration_rows(page: Page) -> list[Calibration]:
    """Each class with its marker in the figures and its calibration errors."""
    if page.before is None:
        return []
    before, after = _errors(page.before), [NONE] * len(page.classes) if page.after is None else _errors(page.after)
    rows = []
    for index, (name, *errors) in enumerate(zip(page.classes[page.first :], before, after, strict=False)):
        colour, marker = figures.line_style(index)
        rows.append(Calibration(name, colour, figures.MARKERS[marker], *errors))
    return rows


def confusion_shares(confusion: np.ndarray) -> np.ndarray:
    """(classes, classes) confusion matrix, [target, pred] -> rows normalized to 1; NaN for classes without pixels."""
    pixels = confusion.sum(axis=1, keepdims=True)
    return np.where(pixels > 0, confusion / np.maximum(pixels, 1), np.nan)


def number(value: float, digits: int = 3) -> str:
    """The number with so many decimals; a dash for NaN."""
    return NONE if math.isnan(value) else f"{value:.{digits}f}"


def percent(share: float) -> str:
    """A fraction as a percentage with one decimal; '< 0.1 %' below that; a dash for NaN."""
    if math.isnan(share):
        return NONE
    return f"{100 * share:.1f} %" if share == 0 or share >= 0.0005 else "< 0.1 %"


def _of_objects(found: Tally) -> list[tuple[str, str, str]]:
    errors = f"{found.missed:,} missed, {found.false:,} false; {found.splits:,} split, {found.merges:,} merged"
    return [
        ("objects found", f"{found.found:,} of {found.true:,}", errors),
        ("objects predicted", f"{found.predicted:,}", found.surplus),
    ]


def _score_row(metric: str, columns: list[str], cells: dict[tuple[str, str], tuple[str, str]], units: str) -> ScoreRow:
    name = metric_name(metric)
    return ScoreRow(
        name, units if name.is_length else "", [cells.get((metric, column), ("", "")) for column in columns]
    )


def _texts(score: Score) -> tuple[str, str]:
    """The value and its interval; '' without one."""
    digits = 3
    if metric_name(score.metric).is_number:  # 1.23, 12.3, 123
        digits = 2 if abs(score.value) < 10 else 1 if abs(score.value) < 100 else 0
    value, low, high = (number(value, digits) for value in (score.value, score.low, score.high))
    return value, "" if NONE in (low, high) else f"{low} to {high}"


def _errors(found: Reliability) -> list[str]:
    return [number(error) for error in calibration_error(found)]
