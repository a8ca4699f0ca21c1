"""The command line: one file a command. Nothing here imports torch or numpy on the way to --help."""

from __future__ import annotations

import os
import signal
import time
from importlib import import_module
from typing import Annotated

import typer

from unet_cli.signals import ENDING

WAITING = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}  # what tells OpenMP how threads wait
STARTED = time.monotonic()  # of the whole command: --max-time counts from here

app = typer.Typer(
    name="unet",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="Turn a folder of images and masks into a segmentation network, and a folder of images into masks.\n\n"
    "Start with: unet train --data DIR",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from unet_cli import __version__

        print(f"unet {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


def main() -> None:
    """The `unet` script. Signals during interpreter shutdown are ignored: the work is done."""
    let_threads_sleep()
    try:
        app()
    finally:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)


def let_threads_sleep() -> None:
    """Let OpenMP's threads sleep at a barrier instead of spinning, unless the user has said otherwise.

    Has to come before torch is loaded. A spinning thread takes the processor from whoever it waits for: beside other
    work on the same cores, a small training step takes two to three times as long.
    """
    if not WAITING & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "passive"


COMMANDS = (
    "bench", "check", "compare", "evaluate", "import_", "info", "models", "predict", "report", "sample", "train",
)  # fmt: skip
for _command in COMMANDS:
    import_module(f"unet_cli.cli.{_command}")  # which registers it
