"""One file of pixels -> one array, told by its first bytes rather than its name: Pillow, tifffile and numpy below.

Whatever is in a file, the outcome is its pixels or a UserError: never half of them, and never a header's promise of
more memory than the file could fill.
"""

from __future__ import annotations

import errno
import struct
from pathlib import Path
from typing import Any, BinaryIO

from numpy.lib import format as npy
from PIL import UnidentifiedImageError

from unet_cli.data.formats.arrays import count_npy, count_npz, decode_npy, decode_npz
from unet_cli.data.formats.decoded import CUT_OFF, HEAD, NO_IMAGE, Decoded, Refused, check_page
from unet_cli.data.formats.pillow import PILLOW, PNG_SIGNATURE, TGA_EXTENSIONS, decode_pillow, decode_png
from unet_cli.data.formats.tiff import TIFF_SIGNATURES, count_tiff, decode_tiff
from unet_cli.errors import Stopped, UserError, explain

__all__ = ["EXTENSIONS", "STACK_EXTENSIONS", "Decoded", "count_pages", "decode"]

STACK_EXTENSIONS = frozenset({".tif", ".tiff", ".btf", ".tf8", ".npy", ".npz"})  # may hold several pages
EXTENSIONS = STACK_EXTENSIONS.union(TGA_EXTENSIONS, (f".{name}" for name in " ".join(PILLOW.values()).split()))


def decode(path: Path, page: int | None = None) -> Decoded:
    """Read a file, or of a stack one page, upright; the first frame of an animation.

    Raises UserError where it is missing, no image, damaged, of a kind that we can't read, or too large.
    """
    return _read(path, lambda file, head: _decode(file, head, page))


def count_pages(path: Path) -> int:
    """How many pages `decode` knows in a file, from its header alone. Raises UserError."""
    return _read(path, _count) if path.suffix.lower() in STACK_EXTENSIONS else 1


def _read(path: Path, reader: Any) -> Any:
    try:
        with open(path, "rb") as file:
            return reader(file, file.read(HEAD))
    except (UserError, Stopped):
        raise
    except Exception as error:  # a broken file makes its decoder fail in any way, struct.error and IndexError included
        raise _explained(path, error) from error


def _explained(path: Path, error: Exception) -> UserError:
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


def _decode(file: BinaryIO, head: bytes, page: int | None) -> Decoded:
    if head[:4] in TIFF_SIGNATURES:
        return decode_tiff(file, page)
    if head[:6] == npy.MAGIC_PREFIX:
        return decode_npy(file, page)
    if head[:4] == b"PK\3\4":
        return decode_npz(file, page)
    check_page(page, 1)
    if head[:8] == PNG_SIGNATURE:
        head += file.read()
        return decode_png(head) or decode_pillow(file, head)
    return decode_pillow(file, head)


def _count(file: BinaryIO, head: bytes) -> int:
    if head[:4] in TIFF_SIGNATURES:
        return count_tiff(file)
    if head[:6] == npy.MAGIC_PREFIX:
        return count_npy(file)
    if head[:4] == b"PK\3\4":
        return count_npz(file)
    return 1
