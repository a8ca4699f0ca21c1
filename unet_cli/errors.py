"""The one exception for what the user can put right, and the words for what an operating system refuses."""

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
    "needs more memory than there is: use a machine with more, or --mode tile with a network of a smaller --size; a "
    "large image as a tiled TIFF"
)

NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "failed to map segment")


class UserError(Exception):
    """Something that the user can put right: the message says what, where, and what to do."""


class Stopped(BaseException):
    """The user or a batch system asked us to stop, and what was there to save has been saved. hint: what to do next.

    No Exception, so that what catches whatever a broken file may raise lets it pass.
    """

    def __init__(self, signum: int, hint: str = "") -> None:
        super().__init__(signum, hint)
        self.signum, self.hint = signum, hint

    def __str__(self) -> str:
        return f"stopped by signal {self.signum}"


def explain(error: OSError, path: Path | str | None = None) -> UserError:
    """Say in words what the operating system refused: which path, why, and what to do."""
    where = path or error.filename or "a file"
    reason = error.strerror or str(error)
    if "temporary directory" in reason:  # Python's words, or Matplotlib's, which keeps what it knows of fonts there
        return UserError("there is no folder for temporary files: set TMPDIR to one that can be written to")
    remedy = REMEDIES.get(error.errno or 0)
    return UserError(f"{where}: {reason}" + (f": {remedy}" if remedy else ""))


def is_out_of_memory(error: BaseException) -> bool:
    """Python's error, a GPU's, the one of torch's allocator for the processor, or a library's that can't be loaded."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in NO_MEMORY)


@contextmanager
def memory_explained() -> Iterator[None]:
    """Where the memory doesn't suffice for one image, that is a UserError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(TOO_LARGE) from error
