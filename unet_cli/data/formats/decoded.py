"""A decoded file as a plain value, and the guards that every decoder shares."""

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

MAX_PIXELS = 500_000_000  # of what is decoded at once
HUGE_PIXELS = 50_000_000  # such pages are decoded one at a time, so that threads don't add up
HEAD = 65_536  # bytes: most files of a data set are smaller, and then read in one go
NO_IMAGE = "is not an image, whatever its name says: replace or remove it"
CUT_OFF = "it ends before its pixels do"

_huge = threading.Lock()


@dataclass(frozen=True)
class Decoded:
    """What a file holds.

    pixels: (pages, C, H, W) in the file's own type: bool never, 1-bit images being 0 and 255. alpha: the last channel
    is alpha. palette: r, g, b, r, g, b ... of 0 to 255, the first channel then being indices.
    turned_at: the file stores 0 for white, and its values were taken from this one, as an eye wants them; but the
    values of a mask mean what they are. nodata: the value that its tags call so. orientation: of TIFF and EXIF, 1 to 8,
    by which the pixels were turned.
    """

    pixels: np.ndarray
    alpha: bool = False
    palette: list[int] | None = None
    turned_at: int | None = None
    orientation: int = 1
    nodata: float | None = None


class Outline(NamedTuple):
    """What is known of a page before its pixels are decoded. sample: one pixel of zeros, with what tags say of it."""

    height: int
    width: int
    sample: Decoded


class Refused(Exception):
    """Why a file is not read, in words that follow its name."""


def check_claim(pixels: int, values: int, file_bytes: int) -> None:
    """Refuse a header's claim before memory is taken for it. values: pixels times channels, or bytes where known."""
    check_pixels(pixels)
    check_ratio(pixels, values, file_bytes)


def check_pixels(pixels: int) -> None:
    """Refuse what is too large to be decoded at once."""
    if pixels > MAX_PIXELS:
        raise Refused("has more than 500 million pixels, or a damaged header: cut it into parts, or replace it")


def check_ratio(pixels: int, values: int, file_bytes: int) -> None:
    """Refuse a claim that the file could never fill.

    Deflate packs at most 1032 bytes into one, which is 8256 pixels of 1 bit; up to 64 million values, where memory
    is of no concern, the best codecs may do better.
    """
    if values > max(64_000_000, 10_000 * file_bytes):
        claim = f"{pixels:,} pixels" if pixels else f"{values:,} bytes"
        raise ValueError(f"its header claims {claim}, but the file has {file_bytes:,} bytes")


def alone_if_huge(pixels: int) -> AbstractContextManager[Any]:
    return _huge if pixels > HUGE_PIXELS else nullcontext()


def check_page(page: int | None, pages: int) -> None:
    if page is not None and not 0 <= page < pages:
        raise Refused(f"has {pages} page{'s' * (pages != 1)}, so none of number {page + 1}: choose another")


def file_size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn (..., H, W) as the orientation of TIFF and EXIF says, 1 to 8; a view."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(-1, -2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[..., ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[..., ::-1, :]
    return pixels


def from_array(array: np.ndarray) -> Decoded:
    """(H, W) or (H, W, 1 to 4) -> (1, C, H, W): of 2 or 4 channels the last is alpha."""
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.ndim == 2:
        return Decoded(array[None, None])
    return Decoded(array.transpose(2, 0, 1)[None], alpha=array.shape[2] in (2, 4))


def content_of(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def read(path: Path, reader: Callable[[BinaryIO, bytes], Value]) -> Value:
    """What `reader` makes of the open file and its first bytes. Raises UserError."""
    with opened(path) as file:
        head = file.read(HEAD)
        if not head:
            raise Refused("is empty: replace or remove it")
        return reader(file, head)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file, open for reading; see `explained`. What isn't a file with a beginning and an end is not waited for."""
    with explained(path):
        if not (os.path.isfile(path) or os.path.isdir(path) or not os.path.exists(path)):
            raise Refused("is a pipe or a device and no file: leave it out")
        with open(path, "rb") as file:
            yield file


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Whatever goes wrong with this file inside of the block is a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a broken file makes its decoder fail in any way, struct.error and IndexError included
        raise _in_words(path, error) from error


def _in_words(path: Path, error: Exception) -> UserError:
    if isinstance(error, Refused):
        return UserError(f"{path} {error}")
    if isinstance(error, UnidentifiedImageError):
        return UserError(f"{path} {NO_IMAGE}")
    if isinstance(error, MemoryError):
        return UserError(f"{path} needs more memory than there is: cut it into parts")
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # this is of places outside of the file
        return explain(error, path)
    reason = CUT_OFF if isinstance(error, struct.error) else " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, NotImplementedError) or "not supported" in reason:
        return UserError(f"{path} is of a kind that can't be read ({reason}): save it as PNG or as plain TIFF")
    return UserError(f"{path} is damaged ({reason}): replace or remove it")
