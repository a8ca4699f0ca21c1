"""stdout and stderr that never end the work: what can't be told is not told, and the work goes on."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed: a terminal obeys them

PASSING = (errno.ENOSPC, errno.EDQUOT)  # a full disk may have room again later


def printable(text: str) -> str:
    """Names and values of other people's files, as a terminal may show them: control characters are spelled out."""
    return CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


class Unbreakable:
    """A stream of text whose writes never raise: a full disk, a reader that has left, or a character that can't be
    encoded. failed: why something was not written, None while nothing went wrong."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.failed: OSError | ValueError | None = None
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        with suppress(AttributeError, OSError, ValueError):  # a stream without a file of its own, or Windows
            if not os.get_blocking(stream.fileno()):  # or what a slow reader leaves no room for would be lost
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

    def _attempt(self, tell: Callable[[], object]) -> None:
        try:
            tell()
        except (OSError, ValueError) as error:  # ValueError: the stream has been closed
            self.failed = self.failed or error
            if getattr(error, "errno", None) not in PASSING:
                self._give_up()

    def _give_up(self) -> None:
        """What is still held goes nowhere, so that the interpreter doesn't stumble over it when it ends."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def make_streams_unbreakable() -> None:
    """Of this process, once."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Unbreakable):
            setattr(sys, name, Unbreakable(stream))


def unprinted_result() -> OSError | ValueError | None:
    """Why something that was to be printed on stdout was not."""
    return getattr(sys.stdout, "failed", None)
