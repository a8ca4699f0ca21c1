"""Array files: .npy and .npz of numpy, .mat of MATLAB."""

from __future__ import annotations

import io
import math
import zipfile
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from unet_cli.data.formats.decoded import (
    CUT_OFF,
    NO_IMAGE,
    Decoded,
    Refused,
    alone_if_huge,
    check_claim,
    check_page,
    file_size,
)

MAT_SIGNATURE = b"MATLAB "
MAT_HDF5 = b"MATLAB 7.3"
MAT_NUMBERS = frozenset({
    "logical", "single", "double", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
})  # fmt: skip


def decode_npy(file: BinaryIO, page: int | None) -> Decoded:
    file.seek(0)
    shape, order, dtype = _npy_header(file)
    if file.tell() + math.prod(shape) * dtype.itemsize > file_size(file):
        raise ValueError(CUT_OFF)
    array = np.memmap(file, dtype, "r", file.tell(), shape, order)  # so that other pages are not read
    return _from_pages(_as_pages(array), page)


def count_npy(file: BinaryIO) -> int:
    """Number of pages, from the header alone."""
    file.seek(0)
    return len(_as_pages(_claimed_array(file)))


def count_npz(file: BinaryIO) -> int:
    """Number of pages, from the header alone."""
    with zipfile.ZipFile(file) as archive, archive.open(_only_array(archive)) as entry:
        return len(_as_pages(_claimed_array(entry)))


def decode_npz(file: BinaryIO, page: int | None) -> Decoded:
    with zipfile.ZipFile(file) as archive:
        entry = _only_array(archive)
        check_claim(0, entry.file_size, entry.compress_size)
        content = io.BytesIO(archive.read(entry))
    shape, order, dtype = _npy_header(content)
    array = np.frombuffer(content.getbuffer(), dtype, math.prod(shape), content.tell()).reshape(shape, order=order)
    return _from_pages(_as_pages(array), page)


def count_mat(file: BinaryIO) -> int:
    """Number of pages, from the headers of its arrays."""
    _, shape = _only_variable(file)
    return len(_as_pages(np.broadcast_to(np.zeros((), np.uint8), shape)))


def decode_mat(file: BinaryIO, page: int | None) -> Decoded:
    from scipy.io import loadmat

    name, _ = _only_variable(file)
    file.seek(0)
    return _from_pages(_as_pages(loadmat(file, variable_names=[name])[name]), page)


def _only_variable(file: BinaryIO) -> tuple[str, tuple[int, ...]]:
    """Name and shape of the only image or mask in a .mat file. Raises Refused."""
    from scipy.io import whosmat

    file.seek(0)
    if file.read(len(MAT_HDF5)) == MAT_HDF5:
        raise Refused("is of MATLAB 7.3, an HDF5 file: save it with -v7, or as .npy")
    file.seek(0)
    found = [(name, shape) for name, shape, kind in whosmat(file) if kind in MAT_NUMBERS and min(shape) > 1]
    if not found:
        raise Refused("holds no array of numbers with rows and columns: save the mask as one")
    if len(found) > 1:
        names = ", ".join(name for name, _ in found)
        raise Refused(f"holds several arrays ({names}): save one to a file")
    name, shape = found[0]
    check_claim(0, math.prod(shape), file_size(file))
    return name, shape


def _only_array(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """The only array in a .npz file. Raises Refused."""
    entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
    if not entries:
        raise Refused(NO_IMAGE)
    if len(entries) > 1:
        names = ", ".join(entry.filename.removesuffix(".npy") for entry in entries)
        raise Refused(f"holds several arrays ({names}): save one to a file")
    return entries[0]


def _npy_header(file: Any) -> tuple[tuple[int, ...], Any, np.dtype[Any]]:
    """Shape, order ('C' or 'F') and type; the file is then positioned at the first value."""
    version = npy.read_magic(file)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise Refused(
            f"holds values of type {dtype}, as the dictionaries of Cellpose are (NAME_seg.npy): save masks as PNG or "
            "TIFF there (NAME_cp_masks.png), or a plain array"
        )
    if dtype.kind not in "biuf":
        raise Refused(f"holds values of type {dtype}: save whole or floating-point numbers")
    if 0 in shape or min(shape, default=1) < 0:
        raise ValueError("it claims to have no pixels")
    return shape, "F" if fortran else "C", dtype


def _claimed_array(file: Any) -> np.ndarray:
    """An array of the shape in the header, without its values or memory for them."""
    shape, _, dtype = _npy_header(file)
    return np.broadcast_to(np.zeros((), dtype), shape)


def _as_pages(array: np.ndarray) -> np.ndarray:
    """A view as (P, C, H, W). An axis of length up to 4 is the channel axis: the last one, else the one before H and
    W."""
    if array.ndim == 2:
        pages = array[None, None]
    elif array.ndim == 3 and min(array.shape[-1], array.shape[0]) <= 4:
        pages = (np.moveaxis(array, -1, 0) if array.shape[-1] <= 4 else array)[None]
    elif array.ndim == 3:
        pages = array[:, None]
    elif array.ndim == 4 and array.shape[-1] <= 4:
        pages = np.moveaxis(array, -1, 1)
    elif array.ndim == 4:
        pages = array if array.shape[1] <= 4 else array.reshape(-1, 1, *array.shape[2:])
    else:
        raise Refused(f"holds an array of {array.ndim} dimensions: save (H, W), (H, W, C) or (pages, H, W, C)")
    check_claim(pages.shape[2] * pages.shape[3], values=0, file_bytes=0)
    return pages


def _from_pages(pages: np.ndarray, page: int | None) -> Decoded:
    check_page(page, len(pages))
    with alone_if_huge(pages.shape[2] * pages.shape[3]):
        chosen = pages if page is None else pages[page : page + 1]
        kind = np.dtype(np.uint8) if chosen.dtype == bool else chosen.dtype.newbyteorder("=")
        return Decoded(np.array(chosen, dtype=kind, order="C"))
