"""Atomic writes and file locks: a file appears complete under its name, or not at all."""

from __future__ import annotations

import os
import platform
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from unet_cli.errors import UserError, explain

HOST = re.sub(r"[^A-Za-z0-9]", "", platform.node())[:32]  # part of the names of temporary files
MOUNTS = Path("/proc/mounts")


@contextmanager
def whole_file(path: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that is renamed to it when the block ends without an error.

    durable: fsync before renaming, for files that must survive a power failure. Raises UserError where the disk is full
    or the folder is not writable.
    """
    number = zlib.crc32(path.name.encode(errors="surrogateescape"))  # the name may have the maximum length
    temporary = path.with_name(f".unet-{HOST}-{number:x}-{os.getpid()}.tmp")
    try:
        with _fresh_file(temporary) as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if os.path.exists(temporary):
            temporary.unlink()
        if isinstance(error, OSError):
            raise explain(error, path) from error
        raise


def _fresh_file(path: Path) -> BinaryIO:
    """Create the file exclusively, so that no symbolic link is followed. A leftover of this name, from a killed process
    with the same id, is removed first. Raises OSError."""
    path.unlink(missing_ok=True)
    return open(path, "xb")


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed processes of this machine left in the folder."""
    for path in folder.glob(f".unet-{HOST}-*.tmp"):
        number = path.name.removesuffix(".tmp").rpartition("-")[2]
        if number.isdigit() and not _is_running(int(number)):
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if os.name == "nt":  # signal 0 would send Ctrl-C there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it runs, as another user
        return True
    return True


def lock_alone(file: BinaryIO | int, complaint: str) -> None:
    """Lock the file exclusively until it is closed. Raises UserError where another process holds the lock."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(complaint) from error
    except OSError:  # the file system has no locks
        return


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on the folder within the block. Raises UserError where another process holds it."""
    if os.name == "nt":  # folders have no file descriptors there
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock_alone(descriptor, f"{folder} is in use: another process trains in it, wait for it")
        yield
    finally:
        os.close(descriptor)


def writable_folder(folder: Path) -> Path:
    """Create the folder, its parents included, and check that files can be written there.

    Raises UserError, before anything was computed for it.
    """
    probe = make_folder(folder) / f".write-test.{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise explain(error, folder) from error
    return folder


def make_folder(folder: Path) -> Path:
    """Create the folder, its parents included, if it does not exist. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain(error, folder) from error
    return folder


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file; its folder is created where it does not exist. Raises UserError."""
    make_folder(path.parent)
    with whole_file(path) as file:
        file.write(content)


def free_bytes(folder: Path) -> int:
    """Free space for this user on the disk of a folder. Raises OSError."""
    return shutil.disk_usage(folder).free


def is_in_memory(folder: Path) -> bool:
    """Whether the folder's files take memory instead of space on a disk, as far as the system tells."""
    try:
        mounts = [line.split()[1:3] for line in MOUNTS.read_text().splitlines()]
    except (OSError, UnicodeError):  # other systems have no such list
        return False
    real = folder.resolve()
    holding = [(len(place), kind) for place, kind in mounts if real.is_relative_to(place.replace("\\040", " "))]
    return bool(holding) and max(holding)[1] in ("tmpfs", "ramfs")
