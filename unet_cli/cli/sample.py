"""`unet sample`: a small data set to try things on."""

from __future__ import annotations

import shlex

from unet_cli.cli import app
from unet_cli.cli.options import DONE, command
from unet_cli.config.base import Output
from unet_cli.config.data import SampleConfig
from unet_cli.system.console import Console, counted


@command(app, "sample", SampleConfig, example="unet sample cells/")
def sample_cli(config: SampleConfig, output: Output) -> int:
    """Draw a sample data set with masks, to try things on: stained cells, or volumes."""
    console = Console(output.json, output.quiet)
    if config.volumes:
        from unet_cli.data.synthetic_volumes import write_volumes

        write_volumes(config.folder, config.count, config.seed, config.volumes)
    else:
        from unet_cli.data.synthetic import write_sample

        write_sample(config.folder, config.count, config.seed)
    network = " --model unet3d" if config.volumes == "tif" else ""  # pages of a TIFF are images otherwise
    console.document({"folder": str(config.folder), "pairs": config.count})
    console.result(
        f"{counted(config.count, 'pair')} written to {config.folder / 'images'} and {config.folder / 'masks'}",
        "Next, train on them:",
        f"  unet train --data {shlex.quote(str(config.folder))}{network} --max-time 3m",
    )
    return DONE
