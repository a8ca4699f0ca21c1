"""Run a function in a child process, which may crash without affecting this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, TypeVar

from unet_cli.errors import Stopped, UserError, is_out_of_memory
from unet_cli.system.signals import ENDING, stop_at_once, stop_on
from unet_cli.system.streams import make_streams_unbreakable

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

Result = TypeVar("Result")


class ChildDied(UserError):
    """The child process ended without a result, for a reason that is not the user's."""


def in_child(work: Callable[..., Result], *arguments: Any) -> Result:
    """`work(*arguments)` in a child process, which starts without this one's memory and GPU state and releases all of
    its own. A signal to this process is forwarded to the child, and its answer is awaited.

    work: a module-level function; it, the arguments and the result must be picklable. Raises UserError and Stopped as
    the child does, and ChildDied for any other exception, after the child has printed its traceback on stderr.
    """
    context = _context(work.__module__)
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sending, work, arguments), name="unet")
    try:
        try:
            with _blocked_signals():  # the child inherits the mask and unblocks once its handlers are installed
                process.start()
            sending.close()
            outcome = _received(receiving)
        except (KeyboardInterrupt, Stopped) as stop:
            outcome = _stopped(process, receiving, stop.signum if isinstance(stop, Stopped) else signal.SIGINT)
        process.join()
    finally:
        if process.pid is not None:
            process.kill()  # a second signal may have interrupted the wait for it
            process.join()
    if isinstance(outcome, BaseException):
        raise outcome
    if outcome is None:
        raise ChildDied(_how_it_ended(process.exitcode or 0))
    result: Result = outcome[0]
    return result


def _stopped(process: BaseProcess, receiving: Connection, signum: int) -> Stopped:
    """Forward the signal, wait for the child's answer, and return a Stopped whatever it is."""
    if process.pid is None:
        return Stopped(signum)
    if os.name != "nt" and process.is_alive():  # on Windows the console signals all its processes
        os.kill(process.pid, signum)
    answer = _received(receiving)
    if isinstance(answer, Stopped):
        return answer
    return Stopped(signum, f". {answer}" if isinstance(answer, UserError) else "")


def _context(module: str) -> SpawnContext | ForkServerContext:
    """The start method: fork from a server that has imported `module` and nothing else, so that children need not
    import torch again. A fork of this process would inherit the GPU and OpenMP state, but not the threads. On Windows,
    spawn."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    return context


def _received(receiving: Connection) -> Any:
    """The child's message: a tuple with its result, or an exception; None if it has died."""
    try:
        return receiving.recv()
    except EOFError:
        return None


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name
    likely = ", probably out of memory: try a smaller --batch-size" if name == "SIGKILL" else ""
    return f"its process died with signal {name}{likely}"


def _work(sending: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """The main function of the child."""
    make_streams_unbreakable()
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    outcome: Any
    try:
        stop_on(stop_at_once)
        _unblock_signals()
        outcome = (work(*arguments),)
    except (UserError, Stopped) as error:
        outcome = error
    except KeyboardInterrupt:
        outcome = Stopped(signal.SIGINT)
    except Exception as error:  # reported to the parent, which can continue with other work
        if not is_out_of_memory(error):
            traceback.print_exc()
        reason = "out of memory" if is_out_of_memory(error) else "this is a defect of unet, please report it"
        outcome = ChildDied(f"{reason} ({type(error).__name__}: {error})")
    sending.send(outcome)


def _leave_with_parent() -> None:
    """Terminate when the parent process has ended, since nobody needs the result any more."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block the ENDING signals within the block."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # it would start with the first child, and unblock some of the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _unblock_signals() -> None:
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
