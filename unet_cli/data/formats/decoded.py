"""The decoded content of a file, and the checks shared by all decoders."""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
from PIL import UnidentifiedImageError

from unet_cli.errors import UserError, explain

Value = TypeVar("Value")

MAX_PIXELS = 500_000_000  # decoded at once
HUGE_PIXELS = 50_000_000  # larger pages are decoded one at a time, which limits the memory of all threads together
HEAD = 65_536  # bytes read first: most files of a data set are smaller and so read at once
NO_IMAGE = "is not an image, whatever its name says: replace or remove it"
CUT_OFF = "it ends before its pixels do"

_huge = threading.Lock()


@dataclass(frozen=True)
class Decoded:
    """The content of a file.

    pixels: (pages, C, H, W) in the file's own type; never bool, 1-bit images are 0 and 255. alpha: whether the last
    channel is alpha. palette: r, g, b, r, g, b ... of 0 to 255; the first channel is then its indices. turned_at: the
    maximum that values were subtracted from, since the file stores white as 0; mask values must be restored, since they
    are classes. nodata: the file's nodata value. orientation: of TIFF or EXIF, 1 to 8, by which the pixels were
    rotated. is_measured: whether the values of an image are measurements, whatever integer type holds them, so that
    they are float32 for the program.
    """

    pixels: np.ndarray
    alpha: bool = False
    palette: list[int] | None = None
    turned_at: int | None = None
    orientation: int = 1
    nodata: float | None = None
    is_measured: bool = False


class Outline(NamedTuple):
    """Size and type of a page before its pixels are decoded. sample: one pixel of zeros, with the properties from the
    tags."""

    height: int
    width: int
    sample: Decoded


class Refused(Exception):
    """The reason why a file is not read, as a phrase that follows its name."""


def check_claim(pixels: int, values: int, file_bytes: int) -> None:
    """Check the size in a header before memory is allocated for it. values: pixels times channels, or bytes if
    known."""
    check_pixels(pixels)
    check_ratio(pixels, values, file_bytes)


def check_pixels(pixels: int) -> None:
    """Refuse an image that is too large to be decoded at once."""
    if pixels > MAX_PIXELS:
        raise Refused("has more than 500 million pixels, or a damaged header: cut it into parts, or replace it")


def check_ratio(pixels: int, values: int, file_bytes: int) -> None:
    """Refuse a size that the file could not contain.

    Deflate compresses at most 1032 bytes into one, which is 8256 pixels of 1 bit. Up to 64 million values, where memory
    is no problem, the best codecs may compress more.
    """
    if values > max(64_000_000, 10_000 * file_bytes):
        claim = f"{pixels:,} pixels" if pixels else f"{values:,} bytes"
        raise ValueError(f"its header claims {claim}, but the file has {file_bytes:,} bytes")


def alone_if_huge(pixels: int) -> AbstractContextManager[Any]:
    """A lock for huge pages, else a context without effect."""
    return _huge if pixels > HUGE_PIXELS else nullcontext()


def check_page(page: int | None, pages: int) -> None:
    """Refuse a page number that the file doesn't have."""
    if page is not None and not 0 <= page < pages:
        raise Refused(f"has {pages} page{'s' * (pages != 1)}, so none of number {page + 1}: choose another")


def file_size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def identity_of(file: BinaryIO) -> tuple[int, ...]:
    """Device, inode, size and modification time: another file, or another version of it, has others."""
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate or flip (..., H, W) according to the orientation of TIFF and EXIF, 1 to 8; a view."""
    # 5 to 8 are transposed; the flips follow from the corner in which row 0 and column 0 lie (TIFF 6.0, tag 274).
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(-1, -2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[..., ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[..., ::-1, :]
    return pixels


def from_array(array: np.ndarray) -> Decoded:
    """(H, W) or (H, W, 1 to 4) -> (1, C, H, W); the last of 2 or 4 channels is alpha."""
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.ndim == 2:
        return Decoded(array[None, None])
    return Decoded(array.transpose(2, 0, 1)[None], alpha=array.shape[2] in (2, 4))


def content_of(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def read(path: Path, reader: Callable[[BinaryIO, bytes], Value]) -> Value:
    """The result of `reader` for the open file and its first bytes. Raises UserError."""
    with opened(path) as file:
        head = file.read(HEAD)
        if not head:
            raise Refused("is empty: replace or remove it")
        return reader(file, head)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file, open for reading; see `explained`. Pipes and devices are refused, since reading them could block
    forever."""
    with explained(path):
        if not (os.path.isfile(path) or os.path.isdir(path) or not os.path.exists(path)):
            raise Refused("is a pipe or a device and no file: leave it out")
        with open(path, "rb") as file:
            yield file


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn any exception of the block into a UserError about this file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # decoders raise anything at damaged files, struct.error and IndexError included
        raise _in_words(path, error) from error


def _in_words(path: Path, error: Exception) -> UserError:
    """The UserError for an exception while reading a file."""
    if isinstance(error, Refused):
        return UserError(f"{path} {error}")
    if isinstance(error, UnidentifiedImageError):
        return UserError(f"{path} {NO_IMAGE}")
    if isinstance(error, MemoryError):
        return UserError(f"{path} needs more memory than there is: cut it into parts")
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: a seek beyond the file
        return explain(error, path)
    reason = CUT_OFF if isinstance(error, struct.error) else " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, NotImplementedError) or "not supported" in reason:
        return UserError(f"{path} is of a kind that can't be read ({reason}): save it as PNG or as plain TIFF")
    return UserError(f"{path} is damaged ({reason}): replace or remove it")
