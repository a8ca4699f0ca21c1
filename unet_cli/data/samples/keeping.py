"""Decoded samples that are kept for their next patch: in memory as long as they fit, volumes then on disk."""

from __future__ import annotations

import mmap
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from unet_cli.data.samples.cutting import CachedSample
from unet_cli.system.files import free_bytes, is_in_memory

DISK_SHARE = 0.5  # of the free space, for copies of volumes
SEGMENT = 2**32  # bytes of a file of copies, unless one sample is larger: files of any size take address space
ALIGNED = 64  # bytes between which arrays begin
NARROW = (torch.uint8, torch.int16, torch.uint16)
SLOWER = "volumes that don't fit the memory are read again for each patch, which is slow"


def narrowed(image: Tensor) -> Tensor:
    """(C, *spatial) float32 in the smallest integer type that holds each value exactly, if there is one; any other
    type as it is. The voxels of a CT are then two bytes instead of four."""
    if image.dtype != torch.float32:
        return image
    low, high = (float(end) for end in image.aminmax())
    fitting = [kind for kind in NARROW if torch.iinfo(kind).min <= low and high <= torch.iinfo(kind).max]
    if not fitting:
        return image
    compact = torch.empty(image.shape, dtype=fitting[0])
    for stored, values in zip(compact.unbind(1), image.unbind(1), strict=True):  # fractions end it soon
        stored.copy_(values)
        # Compared by their bits, since -0.0 equals 0.0.
        if not torch.equal(stored.float().view(torch.int32), values.contiguous().view(torch.int32)):
            return image
    return compact


class Cache:
    """Decoded samples by index, of any thread, up to a number of bytes in memory; beyond these on disk, if there are
    `copies`."""

    def __init__(self, bytes_left: int, copies: DiskCopies | None = None) -> None:
        self.cached: dict[int, CachedSample] = {}
        self.bytes_left = bytes_left
        self._copies = copies
        self._lock = threading.Lock()

    def keep(self, number: int, sample: CachedSample) -> CachedSample:
        """The sample as it is kept from now on, or itself where there is no room."""
        with self._lock:
            if number not in self.cached and sample.nbytes <= self.bytes_left:
                self.cached[number] = sample
                self.bytes_left -= sample.nbytes
        if number not in self.cached and self._copies is not None:
            copied = self._copies.of(sample)
            if copied is not None:
                self.cached[number] = copied
        return self.cached.get(number, sample)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(one.nbytes for one in list(self.cached.values()) if not isinstance(one, Copied))


@dataclass(frozen=True, eq=False)
class Copied(CachedSample):
    """A sample whose arrays are mapped from a file: only the parts that are used are read."""


class DiskCopies:
    """Copies of samples in temporary files without a name, which vanish with this process however it ends.

    They take at most DISK_SHARE of the free space, divided among `processes`. Where there is no room, or writing fails,
    `say` is told once, and no more copies are made.
    """

    def __init__(self, say: Callable[[str], None], processes: int = 1, folder: Path | None = None) -> None:
        """folder: by default the one for temporary files, or /var/tmp where that is in memory."""
        self._say, self._processes, self._folder = say, processes, folder
        self._bytes_left: int | None = None
        self._file: IO[bytes] | None = None
        self._map: mmap.mmap | None = None
        self._end = 0  # of what the file holds
        self._lock = threading.Lock()

    def of(self, sample: CachedSample) -> Copied | None:
        """A copy of the sample; None where there is no room."""
        with self._lock:
            if self._bytes_left == 0:
                return None
            try:
                return self._copy(sample)
            except OSError as error:
                self._stop(f"{self._where()}: {error.strerror or error}")
                return None

    def _copy(self, sample: CachedSample) -> Copied | None:
        arrays = [sample.image.numpy(), sample.mask.numpy(), *([sample.places.up_to] if sample.places else [])]
        size = sum(_aligned(array.nbytes) for array in arrays)
        if self._bytes_left is None:
            self._folder = self._folder or folder_for_copies()
            if self._folder is None:
                self._stop("There is no folder for temporary files on a disk")
                return None
            self._bytes_left = int(DISK_SHARE * free_bytes(self._folder) / self._processes)
        if size > self._bytes_left:
            self._stop(f"{self._where()} has too little free space")
            return None
        if self._map is None or self._end + size > len(self._map):
            self._begin(max(size, SEGMENT))
        mapped = [self._written(array) for array in arrays]
        self._bytes_left -= size
        places = sample.places and replace(sample.places, up_to=mapped[2])
        return Copied(torch.from_numpy(mapped[0]), torch.from_numpy(mapped[1]), sample.intensities, places)

    def _begin(self, size: int) -> None:
        """A new file of holes; the map of the one before is kept by its arrays."""
        self._close()
        self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._file.truncate(size)
        self._map, self._end = mmap.mmap(self._file.fileno(), size), 0

    def _written(self, array: np.ndarray) -> np.ndarray:
        """The array, mapped from the file. Written as to a file, since a full disk kills what writes to a map."""
        assert self._file is not None
        assert self._map is not None
        start, self._end = self._end, self._end + _aligned(array.nbytes)
        self._file.seek(start)
        rest = np.ascontiguousarray(array).data.cast("B")
        while rest:
            rest = rest[self._file.write(rest) :]
        return np.frombuffer(self._map, array.dtype, array.size, start).reshape(array.shape)

    def _stop(self, reason: str) -> None:
        self._bytes_left = 0
        self._close()
        self._say(f"{reason}, so {SLOWER}: free some space, or set TMPDIR to a folder on a disk with more")

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = self._map = None

    def _where(self) -> str:
        return f"{self._folder} for copies of volumes"


def folder_for_copies(candidates: Sequence[str] | None = None) -> Path | None:
    """The first folder for temporary files that is on a disk, and not in memory."""
    for folder in candidates or (tempfile.gettempdir(), "/var/tmp"):
        if Path(folder).is_dir() and not is_in_memory(Path(folder)):
            return Path(folder)
    return None


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED
