"""`unet compare`: several networks on the same data."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from unet_cli.cli import app
from unet_cli.cli.options import DONE, SOME_FAILED, command
from unet_cli.config import CompareConfig, Output
from unet_cli.console import Console

if TYPE_CHECKING:
    from unet_cli.compare import Result

COLUMNS = ("network", "width", "parameters", "epochs", "Dice", "IoU", "ms/image")


@command(
    app, "compare", CompareConfig, example="unet compare --data data/ --models unet,attention,unet++ --max-time 3m"
)
def compare_cli(config: CompareConfig, output: Output) -> int:
    """Train several networks on the same data for the same time, and say which is best there.

    All options of `unet train` apply to each of them. Where --width is not given, it is chosen so that a training step
    of each takes about the same time.
    """
    from unet_cli.compare import compare

    console = Console(output.json, output.quiet)
    rows: list[Result] = []
    try:
        for row in compare(config, console):
            console.document(asdict(row))
            rows.append(row)
    finally:  # of a comparison that is stopped, what there is
        _print(rows, console)
    return SOME_FAILED if any(row.error for row in rows) else DONE


def _print(rows: list[Result], console: Console) -> None:
    """The table, the best network first, and what failed."""
    if not rows:
        return
    ranked = sorted((row for row in rows if row.error is None), key=lambda row: -(row.dice or 0.0))
    cells = [COLUMNS, *(_cells(row) for row in ranked)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        " | ".join(f"{cell:<{width}}" if not place else f"{cell:>{width}}" for place, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in cells)
    ]
    rule = "|".join("-" * (width + 1 + bool(place)) for place, width in enumerate(widths))
    console.result("", lines[0], rule, *lines[1:], *(f"{row.network} failed: {row.error}" for row in rows if row.error))
    if ranked:
        console.result(
            "",
            f"Next, predict with the best of them: unet predict --weights {ranked[0].run}/best.pth --input DIR",
        )


def _cells(row: Result) -> tuple[str, ...]:
    milliseconds = "" if row.seconds is None else f"{1000 * row.seconds:.0f}"
    dice, iou = ("" if score is None else f"{score:.4f}" for score in (row.dice, row.iou))
    width = "" if row.width is None else str(row.width)
    return (
        row.network, width, f"{row.parameters / 1e6:.2f} M", str(row.epochs), dice, iou, milliseconds,
    )  # fmt: skip
