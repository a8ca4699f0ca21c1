"""A process that has imported what every command needs, and forks for each call of the command line: a test then waits
for the command, not for torch. Requests come on stdin, a line of JSON each, and answers go to stdout: the number of the
process that was begun, or how one has ended."""

import atexit
import ctypes
import gc
import io
import json
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import uuid
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

NEEDED = (
    "imagecodecs._png", "jinja2", "matplotlib.backends.backend_svg", "matplotlib.pyplot", "multiprocessing.synchronize",
    "scipy.optimize", "torch.distributed.run", "torch.utils.serialization.config", "torchvision", "typer._adapters",
    "unet_cli.cli.compare",
    "unet_cli.cli.evaluate", "unet_cli.cli.predict", "unet_cli.cli.train", "unet_cli.runs.benchmarks",
    "unet_cli.runs.compare", "unet_cli.runs.folds",
)  # fmt: skip # and with these all others


def main() -> None:
    running = set()
    warm_up()
    for line in sys.stdin:
        request = json.loads(line)
        if "arguments" in request:
            answer: int | None = os.fork()
            if not answer:
                become(request)
                return
            running.add(answer)
        else:  # how a child has ended
            child, status = os.waitpid(request.get("wait", request.get("poll")), os.WNOHANG * ("poll" in request))
            answer = os.waitstatus_to_exitcode(status) if child else None
            running.discard(child)
        print(json.dumps(answer), flush=True)
    for child in running:
        os.kill(child, signal.SIGKILL)


def warm_up() -> None:
    """Do once what else every child would do first. Nothing here starts a thread, which a fork would lose."""
    import torch
    from matplotlib.figure import Figure
    from PIL import Image

    for needed in NEEDED:
        import_module(needed)
    Image.init()
    import_module("unet_cli.report.page").template()
    axes = Figure().subplots()
    axes.plot([0, 1], [0, 1], marker="o", label="line")
    axes.legend()
    for kind in ("png", "svg"):
        axes.figure.savefig(io.BytesIO(), format=kind)
    torch.save({"weight": torch.zeros(1)}, io.BytesIO())
    gc.collect()
    gc.freeze()  # else the children's collections copy every page


class Blank:
    """Instead of matplotlib's Figure: what draws on it is called as usual, and the file is blank. With axes, ticks and
    glyphs, drawing takes as long as all else that training tiny networks does."""

    def __init__(self, **options: object) -> None:
        pass

    def add_axes(self, place: tuple[float, ...]) -> "Anything":
        return Anything()

    def subplots(self, rows: int, columns: int, **options: object) -> "list[Anything]":
        return [Anything() for _ in range(rows * columns)]

    def savefig(self, file: io.IOBase, format: str, **options: object) -> None:
        from PIL import Image

        if format == "svg":
            file.write('<svg viewBox="0 0 1 1"></svg>')
        else:
            Image.new("L", (1, 1)).save(file, format=format)


class Anything:
    """Has all attributes and takes all calls."""

    def __getattr__(self, name: str) -> "Anything":
        return self

    def __call__(self, *arguments: object, **options: object) -> "Anything":
        return self


def become(request: dict) -> None:
    """In the child: what `python -m unet_cli ARGUMENTS` is."""
    for number, name in enumerate(request["streams"]):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        opened = os.open(name, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, buffering=1) for number, mode in enumerate(("r", "w", "w"))
    )
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup, and a shell's &, have ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["arguments"]
    if "UNET_DRAWS" not in os.environ:  # see the fixture draws
        import matplotlib.figure

        matplotlib.figure.Figure = Blank
    # Children of this process are forked from it, which has imported torch; test_child and test_compare have others.
    import_module("unet_cli.system.child")._context = lambda module: multiprocessing.get_context("fork")
    from unet_cli.cli import main as unet

    code = 1  # as of an exception that nobody caught
    try:
        if request["torchrun"] is None:
            unet()
        else:
            launch(request["torchrun"], unet)
        code = 0
    except SystemExit as stopped:
        code = stopped.code or 0
    except BaseException:
        traceback.print_exc()
    leave(code)


def launch(options: list[str], unet: Callable[[], None]) -> None:
    """What `torchrun OPTIONS -m unet_cli ARGUMENTS` is, but that its processes are forked from this one, too."""
    from torch.distributed import run
    from torch.distributed.launcher.api import elastic_launch

    def work() -> None:
        os.setsid()
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # as soon as this one ends
            Path("/proc/self/comm").write_text(f"rank {os.environ['RANK']}")
        unet()

    config, _, _ = run.config_from_args(run.parse_args([*options, "-m", "unet_cli"]))
    config.start_method, config.run_id = "fork", uuid.uuid4().hex
    config.rdzv_backend, config.rdzv_endpoint = "c10d", "localhost:0"  # as with --standalone
    elastic_launch(config, work)()


def leave(code: int) -> None:
    """At once, when all threads are done: to take apart all that was imported would take longer than most commands."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
