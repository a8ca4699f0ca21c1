"""`unet compare`: several networks on the same data."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from unet_cli.cli import app
from unet_cli.cli.options import DONE, SOME_FAILED, command
from unet_cli.config.base import Output
from unet_cli.config.training import CompareConfig
from unet_cli.system.console import Console

if TYPE_CHECKING:
    from unet_cli.runs.compare import Result


@command(
    app,
    "compare",
    CompareConfig,
    example="unet compare --data data/ --test test/ --models unet,attention,unet++ --minutes 3,10",
)
def compare_cli(config: CompareConfig, output: Output) -> int:
    """Train several networks on the same data for the same time, and say which is best.

    All options of `unet train` apply to each of them; --minutes 3,10 trains each twice, for 3 and for 10 minutes. Where
    several networks are compared and --width is not given, it is chosen so that a training step of each takes about the
    same time.
    """
    from unet_cli.runs.compare import compare

    console = Console(output.json, output.quiet)
    rows: list[Result] = []
    try:
        for row in compare(config, console):
            console.document(asdict(row))
            rows.append(row)
    finally:  # an interrupted comparison prints the rows that it has
        _print(rows, console)
    return SOME_FAILED if any(row.error for row in rows) else DONE


def _print(rows: list[Result], console: Console) -> None:
    """The table, by time and set Dice, the best first; then the failures and the next command."""
    if not rows:
        return
    ranked = sorted(
        (row for row in rows if row.error is None), key=lambda row: (row.minutes or 0, -(row.set_dice or 0))
    )
    if ranked:
        console.result("", *_table([_cells(row) for row in ranked]))
    if any(row.dice_interval for row in ranked):
        console.result("", "Dice with its 95 % confidence interval (bootstrap over images)")
    failed = [f"{_called(row)} failed: {row.error}" for row in rows if row.error]
    if failed:
        console.result("", *failed)
    if ranked:
        best = max(ranked, key=lambda row: row.set_dice or 0)
        console.result(
            "", f"Next, predict with the best of them: unet predict --weights {best.run}/best.pth --input DIR"
        )


def _table(rows: list[dict[str, str]]) -> list[str]:
    """Lines of a table with the keys as header; the first column is left-aligned text, the others are right-aligned
    numbers."""
    cells = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        " | ".join(f"{cell:<{width}}" if not place else f"{cell:>{width}}" for place, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in cells)
    ]
    # GitHub's Markdown reads these lines as a table.
    rule = "|".join("-" * (width + 1 + bool(place)) for place, width in enumerate(widths))
    return [lines[0], rule, *lines[1:]]


def _cells(row: Result) -> dict[str, str]:
    """The columns of a row."""
    return {
        "network": row.network,
        **({} if row.minutes is None else {"minutes": f"{row.minutes:g}"}),
        "width": "" if row.width is None else str(row.width),
        "parameters": f"{row.parameters / 1e6:.2f} M",
        "epochs": str(row.epochs),
        f"{row.part} Dice".strip(): _dice(row),
        "set Dice": "" if row.set_dice is None else f"{row.set_dice:.3f}",
        "IoU": "" if row.iou is None else f"{row.iou:.3f}",
        "ms/image": "" if row.seconds is None else f"{1000 * row.seconds:.0f}",
    }


def _dice(row: Result) -> str:
    """'0.912 (0.894 to 0.927)', as far as available."""
    score = "" if row.dice is None else f"{row.dice:.3f}"
    return score if row.dice_interval is None else "{} ({:.3f} to {:.3f})".format(score, *row.dice_interval)


def _called(row: Result) -> str:
    return row.network if row.minutes is None else f"{row.network} for {row.minutes:g} min"
