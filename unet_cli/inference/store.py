"""Storage of an image's finished rows until all are there: in memory, or in a file from which a killed job resumes."""

from __future__ import annotations

import json
import os
import stat
import struct
import threading
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from unet_cli.errors import UserError, explain
from unet_cli.system.files import lock_alone

RECORD = struct.Struct("<IQQQd")  # CRC-32 of the rest, first row, number of rows, bytes that follow, top probability
MAGIC = b"unet-rows "
COMPRESSION = 1  # zlib's fastest level, at which masks shrink to a hundredth


class Store(ABC):
    """Blocks of an image's rows, in planes (h, W) with a dtype each, added in any order by any thread.

    done: number of rows from the top without a gap. top_probability: highest probability that was added.
    """

    def __init__(self) -> None:
        self.done = 0
        self.top_probability = 0.0
        self._heights: dict[int, int] = {}  # of the blocks, by their first row
        self._lock = threading.Lock()

    @abstractmethod
    def add(self, top: int, planes: Sequence[np.ndarray], top_probability: float) -> None:
        """Add a block of rows that starts at row `top`. Raises UserError where there is no space left."""

    @abstractmethod
    def rows(self, plane: int) -> Iterator[np.ndarray]:
        """The blocks of a plane from top to bottom."""

    @abstractmethod
    def close(self) -> None:
        """Release the file, which is kept."""

    @abstractmethod
    def remove(self) -> None:
        """Delete the stored rows."""

    def _note(self, top: int, height: int, top_probability: float) -> None:
        self._heights[top] = height
        self.top_probability = max(self.top_probability, top_probability)
        # Blocks come from several threads in any order; `done` advances over those that are contiguous.
        while self.done in self._heights:
            self.done += self._heights[self.done]


class InMemory(Store):
    """A store in memory."""

    def __init__(self) -> None:
        super().__init__()
        self._blocks: dict[int, Sequence[np.ndarray]] = {}

    def add(self, top: int, planes: Sequence[np.ndarray], top_probability: float) -> None:
        with self._lock:
            self._blocks[top] = planes
            self._note(top, len(planes[0]), top_probability)

    def rows(self, plane: int) -> Iterator[np.ndarray]:
        for top in sorted(self._blocks):
            yield self._blocks[top][plane]

    def close(self) -> None:
        pass

    def remove(self) -> None:
        self._blocks.clear()


def open_own(path: Path) -> BinaryIO:
    """Open an existing file of ours, or create it. Links are never followed, and anything but a regular file of ours is
    left as it is. Raises OSError, and UserError."""
    try:
        return open(path, "x+b")
    except FileExistsError:
        in_the_way = UserError(f"{path} is in the way, and not an unfinished file of unet: move it away")
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise in_the_way
    file = os.fdopen(os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)), "r+b")
    # A prefix of the magic is ours as well: a process was killed while it wrote the header.
    if MAGIC.startswith(file.read(len(MAGIC))):
        file.seek(0)
        return file
    file.close()
    raise in_the_way


class OnDisk(Store):
    """A store in a file to which compressed blocks of rows are appended; reopened, it holds what a killed process had
    added.

    identity: plain values that identify the prediction; a file of another prediction is overwritten.
    """

    def __init__(self, path: Path, identity: dict[str, Any], width: int, dtypes: Sequence[np.dtype[Any]]) -> None:
        """Raises UserError where the file can't be written."""
        super().__init__()
        self.path, self._width, self._dtypes = path, width, [np.dtype(dtype) for dtype in dtypes]
        self._positions: dict[int, tuple[int, int]] = {}  # first row of a block -> offset and bytes in the file
        header = MAGIC + (json.dumps(identity, sort_keys=True) + "\n").encode()
        try:
            self._file = open_own(path)
            self._begin(header)
        except OSError as error:
            raise explain(error, path) from error

    def add(self, top: int, planes: Sequence[np.ndarray], top_probability: float) -> None:
        # Compressed before taking the lock: zlib releases the interpreter lock, so threads compress in parallel.
        packed = zlib.compress(b"".join(plane.tobytes() for plane in planes), COMPRESSION)
        rows = len(planes[0])
        with self._lock:
            if self._file.closed:  # the job has failed meanwhile
                return
            try:
                self._file.seek(0, os.SEEK_END)
                offset = self._file.tell() + RECORD.size
                checked = RECORD.pack(0, top, rows, len(packed), top_probability)[4:] + packed
                self._file.write(zlib.crc32(checked).to_bytes(4, "little") + checked)
                self._file.flush()
            except OSError as error:
                raise explain(error, self.path) from error
            self._positions[top] = offset, len(packed)
            self._note(top, rows, top_probability)

    def rows(self, plane: int) -> Iterator[np.ndarray]:
        for top in sorted(self._positions):
            offset, length = self._positions[top]
            rows = self._heights[top]
            with self._lock:  # seek and read belong together: other threads use the same file position
                self._file.seek(offset)
                content = zlib.decompress(self._file.read(length))
            sizes = [rows * self._width * dtype.itemsize for dtype in self._dtypes]
            start = sum(sizes[:plane])
            values = np.frombuffer(content[start : start + sizes[plane]], self._dtypes[plane])
            yield values.reshape(rows, self._width)

    def close(self) -> None:
        # On a full disk closing tries once more to write what `add` could not, and has said so.
        with self._lock, suppress(OSError):
            self._file.close()

    def remove(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)

    def _begin(self, header: bytes) -> None:
        try:
            lock_alone(self._file, f"{self.path} is in use: another process predicts the same image, wait for it")
            # Only after locking: another process may be writing the header.
            if self._file.readline() == header:
                self._recover()
            else:
                self._file.seek(0)
                self._file.write(header)
            self._file.truncate()
            self._file.flush()
        except BaseException:
            self._file.close()
            raise

    def _recover(self) -> None:
        """Read the records up to the first that is damaged or truncated; the file is cut off there."""
        size = os.fstat(self._file.fileno()).st_size
        end = self._file.tell()
        # A killed process may have written part of a record, or, after a power cut, a record with wrong contents.
        while len(head := self._file.read(RECORD.size)) == RECORD.size:
            crc, top, rows, length, top_probability = RECORD.unpack(head)
            offset = self._file.tell()
            if offset + length > size or zlib.crc32(head[4:] + self._file.read(length)) != crc:
                break
            self._positions[top] = offset, length
            self._note(top, rows, top_probability)
            end = offset + length
        self._file.seek(end)
