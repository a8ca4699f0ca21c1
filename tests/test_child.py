"""Work in a process of its own: its result, its errors, and its death. Each child is a real one."""

import os
import pickle
import signal

import pytest

from unet_cli.errors import Stopped, UserError
from unet_cli.system.child import ChildDied, in_child


def work(kind: str) -> int:
    if kind == "mistake":
        raise UserError("give another")
    if kind == "defect":
        raise ZeroDivisionError("of ours")
    if kind == "memory":
        raise MemoryError
    if kind == "exit":
        os._exit(5)
    if kind in ("SIGSEGV", "SIGKILL"):
        os.kill(os.getpid(), getattr(signal, kind))
    if kind == "SIGTERM":
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    return os.getpid()


def test_the_work_is_done_elsewhere():
    assert in_child(work, "") != os.getpid()


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("mistake", UserError, "^give another$"),
        ("defect", UserError, "defect of unet, please report it .ZeroDivisionError: of ours"),
        ("memory", UserError, "out of memory"),
        ("exit", ChildDied, "ended with exit code 5"),
        ("SIGSEGV", ChildDied, "^its process died with signal SIGSEGV$"),
        ("SIGKILL", ChildDied, "died with signal SIGKILL, probably out of memory"),
        ("SIGTERM", Stopped, "stopped by signal 15"),
    ],
)
def test_what_ends_the_work_is_told(kind, error, message):
    with pytest.raises(error, match=message):
        in_child(work, kind)


def test_a_stop_keeps_its_hint_from_one_process_to_another():
    stopped = pickle.loads(pickle.dumps(Stopped(15, "To go on")))
    assert (stopped.signum, stopped.hint) == (15, "To go on")
