"""Work in a process of its own, which may die without taking this one along."""

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
    """The process ended without a result, for a reason that is not the user's."""


def in_child(work: Callable[..., Result], *arguments: Any) -> Result:
    """`work(*arguments)` in a process of its own, which begins with nothing of this one's memory or GPU, and gives back
    all of its own. A signal that ends this process is passed on, and what the work does about it is waited for.

    work: a function of a module; it, the arguments and the result have to be picklable. Raises what is a UserError
    there, Stopped, and ChildDied, of any other exception after showing its traceback on stderr.
    """
    context = _context(work.__module__)
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sending, work, arguments), name="unet")
    try:
        try:
            with _blocked_signals():  # until the child is ready for them, what it inherits
                process.start()
            sending.close()
            outcome = _received(receiving)
        except (KeyboardInterrupt, Stopped) as stop:
            outcome = _stopped(process, receiving, stop.signum if isinstance(stop, Stopped) else signal.SIGINT)
        process.join()
    finally:
        if process.pid is not None:
            process.kill()  # where a second signal didn't let it end
            process.join()
    if isinstance(outcome, BaseException):
        raise outcome
    if outcome is None:
        raise ChildDied(_how_it_ended(process.exitcode or 0))
    result: Result = outcome[0]
    return result


def _stopped(process: BaseProcess, receiving: Connection, signum: int) -> Stopped:
    """Pass the signal on, wait for what the work does about it, and be stopped, whatever it answers."""
    if process.pid is None:
        return Stopped(signum)
    if os.name != "nt" and process.is_alive():  # on Windows the console tells all of its processes
        os.kill(process.pid, signum)
    answer = _received(receiving)
    if isinstance(answer, Stopped):
        return answer
    return Stopped(signum, f". {answer}" if isinstance(answer, UserError) else "")


def _context(module: str) -> SpawnContext | ForkServerContext:
    """How processes are started: forked from one that has imported `module` and done nothing else, so that each of many
    need not import torch again. A fork of this process would inherit a GPU's and OpenMP's state, and not its threads.
    On Windows each begins anew."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    return context


def _received(receiving: Connection) -> Any:
    """What the child has sent: a tuple with its result, or an exception; None where it has died."""
    try:
        return receiving.recv()
    except EOFError:
        return None


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name
    likely = ", as where the memory is not enough: try a smaller --batch-size" if name == "SIGKILL" else ""
    return f"its process died with signal {name}{likely}"


def _work(sending: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """In the child."""
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
    except Exception as error:  # whatever it is, the others go on
        if not is_out_of_memory(error):
            traceback.print_exc()
        reason = "the memory is not enough" if is_out_of_memory(error) else "this is a defect of unet, please report it"
        outcome = ChildDied(f"{reason} ({type(error).__name__}: {error})")
    sending.send(outcome)


def _leave_with_parent() -> None:
    """Stop where the process that began this one is gone, and with it whoever wants the result."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _blocked_signals() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # which would unblock some of them when it is started with the first child
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _unblock_signals() -> None:
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
