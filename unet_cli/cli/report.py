"""`unet report`: a run as one page to open, print and pass on."""

from __future__ import annotations

from dataclasses import asdict

from unet_cli.cli import app
from unet_cli.cli.options import DONE, command
from unet_cli.config import Output, ReportConfig
from unet_cli.console import Console, counted


@command(app, "report", ReportConfig, example="unet report checkpoints/data-1 --suspects")
def report_cli(config: ReportConfig, output: Output) -> int:
    """Write one HTML file about a run: its scores, curves, calibration, and the images that came out worst.

    `unet train` does so at its end; this command looks again, with --suspects also at the training masks.
    """
    from unet_cli.evaluation.runs import REPORT, report_run
    from unet_cli.files import writable_folder

    console = Console(output.json, output.quiet)
    path = config.output or config.run / REPORT
    writable_folder(path.parent)
    found, suspects = report_run(config.run, path, config, console, config.data, config.suspects)
    console.document({
        "report": str(path),
        "scores": found.scores if found else {},
        "suspects": None if suspects is None else [
            {key: value for key, value in asdict(one).items() if key != "panels"} for one in suspects
        ],
    })  # fmt: skip
    if suspects is not None:
        console.result(f"{counted(len(suspects), 'training mask')} to look at again" + ":" * bool(suspects))
        for one in suspects:
            console.result(f"  {one.name}: {one.pixels:,} pixels are {one.given}, and {one.seen} for the network")
    console.result(f"Report: {path} (open it in a browser)")
    return DONE
