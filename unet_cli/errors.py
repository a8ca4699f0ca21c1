"""The one exception for what the user can put right, and the words for what an operating system refuses."""

from __future__ import annotations

import errno
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


class UserError(Exception):
    """Something that the user can put right: the message says what, where, and what to do."""


class Stopped(Exception):
    """The user or a batch system asked us to stop, and what was there to save has been saved."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum


def explain(error: OSError, path: Path | str | None = None) -> UserError:
    """Say in words what the operating system refused: which path, why, and what to do."""
    where = path or error.filename or "a file"
    reason = error.strerror or str(error)
    remedy = REMEDIES.get(error.errno or 0)
    return UserError(f"{where}: {reason}" + (f": {remedy}" if remedy else ""))
