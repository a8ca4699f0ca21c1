"""Decode one file into one array, recognized by its first bytes rather than its name: with Pillow, tifffile and others.

The result is the complete pixels of the file or a UserError: never a part of them, and never an allocation that the
file could not fill, whatever its header claims.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from numpy.lib import format as npy

from unet_cli.data.formats.arrays import (
    MAT_SIGNATURE,
    count_mat,
    count_npy,
    count_npz,
    decode_mat,
    decode_npy,
    decode_npz,
)
from unet_cli.data.formats.decoded import Decoded, Outline, check_page, opened, read
from unet_cli.data.formats.extras import (
    DICOM_EXTENSIONS,
    JXL_EXTENSIONS,
    JXL_SIGNATURES,
    PACKAGES,
    decode_dicom,
    decode_heif,
    decode_jxl,
    is_dicom,
    is_heif,
    lacking_packages,
)
from unet_cli.data.formats.names import VOLUME_EXTENSIONS, extension_of, without_extension
from unet_cli.data.formats.nifti import count_nifti, decode_nifti, is_nifti
from unet_cli.data.formats.pillow import PILLOW, PNG_SIGNATURE, TGA_EXTENSIONS, decode_pillow, decode_png
from unet_cli.data.formats.tiff import count_tiff, decode_tiff
from unet_cli.data.formats.tiff_bands import decode_tiff_bands, outline_tiff
from unet_cli.data.formats.tiff_pages import TIFF_SIGNATURES

__all__ = [
    "DICOM_EXTENSIONS",
    "EXTENSIONS",
    "PACKAGES",
    "SLIDE_EXTENSIONS",
    "STACK_EXTENSIONS",
    "TIFF_EXTENSIONS",
    "VOLUME_EXTENSIONS",
    "Decoded",
    "Outline",
    "count_pages",
    "decode",
    "decode_bands",
    "extension_of",
    "is_volume_file",
    "lacking_packages",
    "outline",
    "reads_single_pages",
    "without_extension",
]

# TIFF under the extensions of scanner and microscope vendors.
SLIDE_EXTENSIONS = frozenset({".svs", ".ndpi", ".scn", ".qptiff", ".bif", ".lsm", ".stk"})
TIFF_EXTENSIONS = (".tif", ".tiff")
# Formats with several pages.
STACK_EXTENSIONS = SLIDE_EXTENSIONS.union(TIFF_EXTENSIONS, VOLUME_EXTENSIONS, {".btf", ".tf8", ".npy", ".npz", ".mat"})
EXTENSIONS = STACK_EXTENSIONS.union(
    TGA_EXTENSIONS, JXL_EXTENSIONS, PACKAGES, (f".{name}" for name in " ".join(PILLOW.values()).split())
)


def decode(path: Path, page: int | None = None) -> Decoded:
    """Read a file, or one page of a stack, upright; of an animation the first frame.

    Raises UserError if the file is missing, no image, damaged, of an unsupported kind, or too large.
    """
    return read(path, lambda file, head: _decode(file, head, page))


def is_volume_file(path: Path) -> bool:
    """By name: whether files of this format hold a volume, rather than one or several images."""
    return extension_of(path) in VOLUME_EXTENSIONS


def reads_single_pages(path: Path) -> bool:
    """By name: whether `decode` reads one page of such a file without the others."""
    return extension_of(path) in STACK_EXTENSIONS - {".npz", ".mat"}


def outline(path: Path, page: int | None = None) -> Outline | None:
    """The size and type that `decode_bands` will give, from the header alone; None if the file can only be read whole.

    Raises UserError as `decode` does, except for damaged pixel data.
    """
    return read(path, lambda file, head: outline_tiff(file, page) if head[:4] in TIFF_SIGNATURES else None)


def decode_bands(path: Path, page: int | None = None, top: int = 0) -> Iterator[tuple[int, Decoded]]:
    """(first row, decoded rows) of a file with an outline, from the band that contains row `top` to the bottom.

    The file is open until the last band, or until the generator is closed. Raises UserError.
    """
    with opened(path) as file:
        yield from decode_tiff_bands(file, page, top)


def count_pages(path: Path) -> int:
    """The number of pages that `decode` can read from a file, from its header alone. Raises UserError."""
    return read(path, _count) if extension_of(path) in STACK_EXTENSIONS else 1


def _decode(file: BinaryIO, head: bytes, page: int | None) -> Decoded:
    if head[:4] in TIFF_SIGNATURES:
        return decode_tiff(file, page)
    if head[:6] == npy.MAGIC_PREFIX:
        return decode_npy(file, page)
    if head[:4] == b"PK\3\4":
        return decode_npz(file, page)
    if head.startswith(MAT_SIGNATURE):
        return decode_mat(file, page)
    if head.startswith(JXL_SIGNATURES):
        return decode_jxl(file, page)
    if is_nifti(head):
        return decode_nifti(file, head, page)
    if is_heif(head):
        return decode_heif(file, page)
    if is_dicom(head):
        return decode_dicom(file, page)
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
    if head.startswith(MAT_SIGNATURE):
        return count_mat(file)
    if is_nifti(head):
        return count_nifti(head)
    return 1
