"""Ctrl-C and a batch system's warning: finish the step at hand, save, leave."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType

from unet_cli.errors import Stopped

GRACE = 3.0  # seconds
# By which people and batch systems end a process, as far as this system has them.
ENDING = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
]


class StopRequest:
    """Within the block, the first of the ENDING signals is noted for the loop to act on; one more stops at once.

    But not within GRACE of the first: batch systems signal a process and its parent, which passes it on. The loop
    calls `check()` where everything is consistent, or reads `signum` to save first.
    """

    signum: int | None = None
    _noted = 0.0

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in obeyed()}
        else:  # called as a library from another thread: signals are the caller's affair
            self._previous = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signum is None:
            self.signum, self._noted = signum, now
        elif signum == self.signum and signum == getattr(signal, "SIGXCPU", None):
            return  # which the kernel repeats with every second of processor time
        elif now - self._noted > GRACE:
            raise Stopped(signum)

    def check(self) -> None:
        """Raise Stopped where a stop was asked for."""
        if self.signum is not None:
            raise Stopped(self.signum)


def obeyed() -> list[signal.Signals]:
    """The signals that end us; one that was ignored when we were started, as nohup does, stays ignored."""
    return [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]


def stop_on(handler: Callable[[int, FrameType | None], None]) -> None:
    """Have every signal that ends us but Ctrl-C, which Python knows, call this."""
    for number in obeyed():
        if number != signal.SIGINT:
            signal.signal(number, handler)


def stop_at_once(signum: int, frame: FrameType | None) -> None:
    """A signal handler for where there is nothing to save."""
    raise Stopped(signum)
