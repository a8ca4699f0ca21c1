"""stdout and stderr whose errors never stop the work: output that can't be written is dropped."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed: terminals interpret them

PASSING = (errno.ENOSPC, errno.EDQUOT)  # a full disk may have room again later


def printable(text: str) -> str:
    """Text that is safe to print, such as foreign file names: control characters are escaped."""
    return CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


class Unbreakable:
    """A text stream whose writes never raise: neither for a full disk, nor a closed pipe, nor a character that can't be
    encoded. failed: the first error, None if there was none."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.failed: OSError | ValueError | None = None
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        with suppress(AttributeError, OSError, ValueError):  # a stream without file descriptor, or Windows
            if not os.get_blocking(stream.fileno()):  # a slow reader would cause EAGAIN and lose output
                os.set_blocking(stream.fileno(), True)

    def write(self, text: str) -> int:
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _attempt(self, write: Callable[[], object]) -> None:
        try:
            write()
        except (OSError, ValueError) as error:  # ValueError: the stream has been closed
            self.failed = self.failed or error
            if getattr(error, "errno", None) not in PASSING:
                self._give_up()

    def _give_up(self) -> None:
        """Redirect the file descriptor to /dev/null, so that flushing the rest of the buffer at interpreter shutdown
        does not fail."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def make_streams_unbreakable() -> None:
    """Wrap stdout and stderr of this process, once."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Unbreakable):
            setattr(sys, name, Unbreakable(stream))


def unprinted_result() -> OSError | ValueError | None:
    """The error that kept something from being printed on stdout, or None."""
    return getattr(sys.stdout, "failed", None)
