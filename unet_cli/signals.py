"""Ctrl-C and a batch system's warning: finish the step at hand, save, leave."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

from unet_cli.errors import Stopped

GRACE = 3.0  # seconds


class StopRequest:
    """Within the block, the first SIGINT or SIGTERM is noted for the loop to act on; one more stops at once.

    But not within GRACE of the first: batch systems signal a process and its parent, which passes it on. The loop
    calls `check()` where everything is consistent, or reads `signum` to save first.
    """

    signum: int | None = None
    _noted = 0.0

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
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
        elif now - self._noted > GRACE:
            raise Stopped(signum)

    def check(self) -> None:
        """Raise Stopped where a stop was asked for."""
        if self.signum is not None:
            raise Stopped(self.signum)


def stop_at_once(signum: int, frame: FrameType | None) -> None:
    """A signal handler for where there is nothing to save."""
    raise Stopped(signum)
