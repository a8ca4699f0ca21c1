"""`unet report`: one HTML page about a run."""

from __future__ import annotations

from dataclasses import asdict

from unet_cli.cli import app
from unet_cli.cli.options import DONE, command
from unet_cli.config.base import Output
from unet_cli.config.evaluation import ReportConfig
from unet_cli.system.console import Console, counted


@command(app, "report", ReportConfig, example="unet report checkpoints/data-1 --suspects")
def report_cli(config: ReportConfig, output: Output) -> int:
    """Write one HTML page about a run: its scores, curves, calibration, and the images that came out worst.

    `unet train` does so at its end; this command looks again, with --suspects also at the training masks.
    """
    from unet_cli.checkpoint import find_checkpoints
    from unet_cli.evaluation.scores import summary
    from unet_cli.report.runs import REPORT, report_run
    from unet_cli.system.files import writable_folder

    console = Console(output.json, output.quiet)
    run = config.run.parent if config.run.is_file() else config.run
    path = config.output or run / REPORT
    find_checkpoints([run])  # raises for a wrong path before a folder is created
    writable_folder(path.parent)
    found, suspects = report_run(run, path, config, console, config.data, config.suspects)
    console.document({
        "report": str(path),
        "scores": summary(found) if found else {},
        "objects": found.tally.plain() if found and found.is_of_objects else None,
        "suspects": None if suspects is None else [
            {key: value for key, value in asdict(one).items() if key != "panels"} for one in suspects
        ],
    })  # fmt: skip
    if found is not None and found.is_of_objects:
        console.result(found.tally.sentence)
    if suspects is not None:
        console.result(f"{counted(len(suspects), 'training mask')} to review" + ":" * bool(suspects))
        for one in suspects:
            where = f"{one.given} in the mask, {one.seen} for the network"
            console.result(f"  {one.name}: {one.pixels:,} pixels ({one.share:.1%}) are {where}")
    console.result(f"Report: {path} (open it in a browser)")
    return DONE
