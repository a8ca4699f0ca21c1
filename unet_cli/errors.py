"""The exception for errors that the user can fix, and messages for errors of the operating system."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REMEDIES = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some of your quota or choose another folder",
    errno.EFBIG: "free some space or choose another folder",
    errno.EACCES: "choose a folder that you may write to, or change its permissions",
    errno.EPERM: "choose a folder that you may write to, or change its permissions",
    errno.EROFS: "choose a folder that is not read-only",
    errno.ENOTDIR: "a file is in the way: choose another folder",
    errno.EEXIST: "a file is in the way: choose another folder",
    errno.ENOENT: "check the path",
}

TOO_LARGE = (
    "needs more memory than there is: use a machine with more memory, or --mode tile with a network of a smaller "
    "--size; convert a large image to a tiled TIFF"
)

NO_MEMORY = (
    "out of memory", "can't allocate memory", "cannot allocate memory", "failed to map segment",
    "failed to allocate memory", "bad_alloc", "bad allocation",
)  # fmt: skip


class UserError(Exception):
    """An error that the user can fix: the message says what is wrong, where, and what to do."""


class Stopped(BaseException):
    """A signal requested a stop, and everything has been saved. hint: what to do next.

    It isn't a subclass of Exception, so that handlers for whatever a broken file may raise don't catch it.
    """

    def __init__(self, signum: int, hint: str = "") -> None:
        super().__init__(signum, hint)
        self.signum, self.hint = signum, hint

    def __str__(self) -> str:
        return f"stopped by signal {self.signum}"


def explain(error: OSError, path: Path | str | None = None) -> UserError:
    """A message for an error of the operating system: which path, why, and what to do."""
    where = path or error.filename or "a file"
    reason = error.strerror or str(error)
    if "temporary directory" in reason:  # raised by Python, or by Matplotlib for its font cache
        return UserError("there is no folder for temporary files: set TMPDIR to one that can be written to")
    remedy = REMEDIES.get(error.errno or 0)
    return UserError(f"{where}: {reason}" + (f": {remedy}" if remedy else ""))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means out of memory: Python's, CUDA's, that of torch's CPU allocator, or of a library that
    can't be loaded."""
    # Apart from MemoryError, these are RuntimeErrors and OSErrors that only their text tells from others.
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in NO_MEMORY)


@contextmanager
def memory_explained() -> Iterator[None]:
    """Turn out of memory for one image into a UserError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(TOO_LARGE) from error
