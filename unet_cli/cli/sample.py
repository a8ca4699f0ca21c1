"""`unet sample`: a small data set to try things on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unet_cli.cli import app
from unet_cli.cli.options import DONE, command
from unet_cli.config import Checked, Output, setting
from unet_cli.console import Console, counted


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Checked):
    """What `unet sample` can be told."""

    folder: Path = setting(
        help="Folder to write images/ and masks/ into.", panel="Data", metavar="DIR", positional=True
    )
    count: int = setting(32, help="Number of pairs.", panel="Data", minimum=1, maximum=100_000)
    seed: int = setting(0, help="Another seed draws other cells.", panel="Data", minimum=0)


@command(app, "sample", SampleConfig, example="unet sample cells/")
def sample_cli(config: SampleConfig, output: Output) -> int:
    """Draw a data set of stained cells, with masks, to try things on."""
    from unet_cli.data.sample import write_sample

    console = Console(output.json, output.quiet)
    write_sample(config.folder, config.count, config.seed)
    console.document({"folder": str(config.folder), "pairs": config.count})
    console.result(
        f"{counted(config.count, 'pair')} written to {config.folder / 'images'} and {config.folder / 'masks'}",
        "Next, train on them:",
        f"  unet train --data {config.folder} --max-time 3m",
    )
    return DONE
