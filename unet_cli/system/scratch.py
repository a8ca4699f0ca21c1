"""Arrays that are put aside and read again, whose sum may be larger than the memory."""

from __future__ import annotations

import tempfile
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unet_cli.errors import explain

ROOM = 2**28  # bytes that are kept in memory
COMPRESSION = 1  # zlib's fastest level, at which masks shrink to a hundredth

Kept = Callable[[], np.ndarray]  # reads an array that was put aside; it isn't to be changed


class Scratch:
    """Keeps arrays: the first `room` bytes as they are, those that follow compressed in a file without a name.

    folder: where the file is, which is there only as long as the process; without one everything stays in memory.
    """

    def __init__(self, folder: Path | None = None, room: int = ROOM) -> None:
        self._folder, self._left = folder, room
        self._file: Any = None
        self._lock = threading.Lock()

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def put(self, array: np.ndarray) -> Kept:
        """Raises UserError where there is no space left."""
        self._left -= array.nbytes
        if self._folder is None or self._left >= 0:
            return lambda: array
        packed = zlib.compress(np.ascontiguousarray(array).data, COMPRESSION)
        shape, kind = array.shape, array.dtype
        try:
            with self._lock:
                if self._file is None:
                    self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115, closed by __exit__
                offset = self._file.seek(0, 2)
                self._file.write(packed)
                self._file.flush()
        except OSError as error:
            raise explain(error, self._folder) from error
        length = len(packed)
        del packed

        def read() -> np.ndarray:
            with self._lock:
                self._file.seek(offset)
                content = self._file.read(length)
            return np.frombuffer(zlib.decompress(content), kind).reshape(shape)

        return read
