"""The command line: one file a command. Nothing here imports torch or numpy on the way to --help."""

from __future__ import annotations

import os
import signal
import sys
import time
from importlib import import_module
from typing import Annotated, NoReturn

import typer

from unet_cli.system.signals import ENDING

WAITING = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}  # settings of how OpenMP threads wait
STARTED = time.monotonic()  # --max-time counts from the start of the command

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


# The first line of each command's help, so that the list of commands needs no command to be built.
COMMANDS = {
    "bench": "Time training, augmentation, prediction and evaluation, each against a plain implementation.",
    "check": "Describe a folder of images and masks, and list every problem.",
    "compare": "Train several networks on the same data for the same time, and say which is best.",
    "convert": "Write a data set in another form: masks, COCO, YOLO or labelme.",
    "evaluate": "Score predictions against true masks: every usual score, with its 95 % confidence interval.",
    "export": "Write a trained network for other runtimes, pixels to mask in one file, and check what it predicts.",
    "import": "Convert weights of Pytorch-UNet or segmentation_models_pytorch into a checkpoint.",
    "info": "Describe a checkpoint: network, classes, preprocessing, training data, scores, version.",
    "models": "List all networks: parameters, multiply-adds, smallest input, source.",
    "predict": "Predict a mask for every image of a folder.",
    "report": "Write one HTML page about a run: its scores, curves, calibration, and the images that came out worst.",
    "sample": "Draw a sample data set with masks, to try things on: stained cells, or volumes.",
    "train": "Train a network on a folder of images and a folder of masks.",
}


def main() -> None:
    """Entry point of the `unet` script. Signals during interpreter shutdown are ignored: the work is done."""
    let_threads_sleep()
    register(asked_for())
    try:
        if sys.argv[2:] in (["--help"], ["-h"]) and sys.argv[1] in COMMANDS:
            show_help(sys.argv[1])
        else:
            app()
    finally:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)


def show_help(name: str) -> NoReturn:
    """Show the help of a command without parsing: typer imports pydantic to parse --help, which takes as long as the
    rest."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    parent = typer.Context(group, info_name="unet", **group.context_settings)
    context = typer.Context(group.commands[name], info_name=name, parent=parent)
    if text := context.get_help():  # with rich it has been printed
        print(text)
    sys.exit()


def let_threads_sleep() -> None:
    """Let OpenMP threads sleep at a barrier instead of spinning, unless the user has chosen a policy.

    Must be called before torch is imported. A spinning thread takes the processor from the thread that it waits for:
    with other work on the same cores, a small training step takes two to three times as long.
    """
    if not WAITING & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "passive"


def asked_for() -> str | None:
    """The command that was called, or whose options a shell completes; None if none is given yet."""
    # bash passes the command line in COMP_WORDS, the other shells in _TYPER_COMPLETE_ARGS.
    completed = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    words = completed.split() if "_UNET_COMPLETE" in os.environ else sys.argv
    return next((word for word in words[1:] if not word.startswith("-")), None)


def register(asked: str | None) -> None:
    """Register the commands with `app`: all by name and help line, and the one that is called with its options, since
    building the options of one command takes as long as the rest of --help."""
    known = {command.name for command in app.registered_commands}
    for name, line in COMMANDS.items():
        if name == asked:
            import_module(f"unet_cli.cli.{'import_' if name == 'import' else name}")
        elif name not in known:
            app.command(name, help=line)(_unbuilt)


def _unbuilt() -> None:
    """Placeholder for a command that was not called."""
