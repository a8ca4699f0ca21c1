"""A process that has imported what every command needs, and forks for each call of the command line: a test then waits
for the command, not for torch. Requests come on stdin, a line of JSON each; exit codes go to stdout."""

import atexit
import json
import os
import sys
import threading
import traceback
from importlib import import_module

NEEDED = (
    "jinja2", "matplotlib.backends.backend_svg", "matplotlib.pyplot", "scipy.optimize", "torchvision",
    "unet_cli.runs.benchmarks", "unet_cli.runs.compare", "unet_cli.runs.folds",
)  # fmt: skip # and with these all others


def main() -> None:
    for needed in NEEDED:
        import_module(needed)
    import_module("unet_cli.report.page").template()
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            become(request)
            return
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


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
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["arguments"]
    from unet_cli.cli import main as unet

    code = 1  # as of an exception that nobody caught
    try:
        unet()
        code = 0
    except SystemExit as stopped:
        code = stopped.code or 0
    except BaseException:
        traceback.print_exc()
    leave(code)


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
