"""Graceful stop on Ctrl-C and on the signals of a batch system: finish the current step, save, exit."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType

from unet_cli.errors import Stopped

GRACE = 3.0  # seconds in which further signals count as the first one
# Signals by which users and batch systems end a process, where the platform has them.
ENDING = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
]


class StopRequest:
    """Context manager that records the first of the ENDING signals for the loop to act on; a second one raises at once.

    Signals within GRACE of the first are ignored: batch systems signal a process and its parent, which forwards it. The
    loop calls `check()` where its state is consistent, or reads `signum` to save first.
    """

    signum: int | None = None
    _noted = 0.0

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in obeyed()}
        else:  # only the main thread can set handlers
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
            return  # the kernel repeats it with every second of CPU time
        elif now - self._noted > GRACE:
            raise Stopped(signum)

    @property
    def is_requested(self) -> bool:
        return self.signum is not None

    def check(self) -> None:
        """Raise Stopped if a signal was received."""
        if self.signum is not None:
            raise Stopped(self.signum)


def obeyed() -> list[signal.Signals]:
    """The ENDING signals that are not ignored: one that was ignored at our start, as by nohup, stays ignored."""
    return [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]


def stop_on(handler: Callable[[int, FrameType | None], None]) -> None:
    """Install the handler for all ENDING signals but SIGINT, for which Python raises KeyboardInterrupt."""
    for number in obeyed():
        if number != signal.SIGINT:
            signal.signal(number, handler)


def stop_at_once(signum: int, frame: FrameType | None) -> None:
    """Signal handler for when there is nothing to save."""
    raise Stopped(signum)
