"""NIfTI volumes with nibabel, turned to one orientation: slices from inferior to superior, rows to posterior, columns
to left, so that slices are upright and volumes of different storage orientations agree."""

from __future__ import annotations

import atexit
import gzip
import io
import logging
import math
import shutil
import tempfile
import threading
import zlib
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from unet_cli.data.formats.decoded import (
    CUT_OFF,
    Decoded,
    Refused,
    alone_if_huge,
    check_claim,
    check_page,
    file_size,
    identity_of,
    read,
)
from unet_cli.data.formats.extras import NIFTI, needed

GZIP_SIGNATURE = b"\x1f\x8b"
MAX_HEADER = 540  # bytes; NIfTI-1 has 348
PAIR = "is the header of a pair .hdr and .img: save the volume as one file, .nii.gz"
NOWHERE = "its affine is no position in space"
IN_MM = {1: 1000.0, 2: 1.0, 3: 0.001}  # by the unit in a header; without one, mm
MAX_CHANNELS = 16  # along a fourth axis
MAX_UNPACKED = 128  # compressed files whose content is kept for their next page
MAX_KEPT, KEPT_SHARE = 2**34, 0.25  # bytes that they may take together, also as a share of the free space
ORIENTATION = ("L", "P", "S")  # of the axes after reading, the last one first

_SILENT = logging.Logger("unet.nifti", logging.CRITICAL + 1)  # of nibabel's remarks on headers that it can mend


@dataclass(frozen=True)
class Geometry:
    """How a NIfTI volume lies in space.

    shape: (D, H, W) in the orientation of reading. affine: (4, 4), from indices (d, h, w, 1) to mm towards right,
    anterior and superior. stored: the directions of the axes in the file, such as RAS. is_float: whether the values in
    the file are floating-point numbers.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    stored: str
    is_float: bool

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between the centres of voxels in mm, along (D, H, W)."""
        depth, height, width = np.sqrt((self.affine[:3, :3] ** 2).sum(0)).tolist()
        return depth, height, width


def is_nifti(head: bytes) -> bool:
    """By the first bytes of a file, compressed or not."""
    return _magic(_unpacked_head(head)) in (b"n+1\0", b"ni1\0", b"n+2\0", b"ni2\0")


def decode_nifti(file: BinaryIO, head: bytes, page: int | None) -> Decoded:
    """(slices, C, H, W), or one of them, in the stored type, or float32 where the header scales the values. C is the
    length of a fourth axis, 1 without one."""
    header, shape, orient = _parsed(_unpacked_head(head))
    channels = channels_of(header)
    depth, height, width = (shape[axis] for axis in _places(orient))
    check_page(page, depth)
    pixels = height * width * (depth if page is None else 1)
    kind = header.get_data_dtype()
    content = math.prod(shape) * channels * kind.itemsize
    check_claim(pixels, content, file_size(file))
    start = max(int(header["vox_offset"]), header.single_vox_offset)
    with alone_if_huge(pixels * channels):
        stored = _stored(file, head, start, start + content, whole=page is None)
        volumes = np.ndarray((*shape, channels), kind, stored, start, order="F")
        values = as_read(volumes, orient)
        chosen = values if page is None else values[page : page + 1]
        return Decoded(_scaled(chosen, *header.get_slope_inter()), is_measured=True)


def count_nifti(head: bytes) -> int:
    """Number of slices, from the header alone."""
    _, shape, orient = _parsed(_unpacked_head(head))
    return shape[_places(orient)[0]]


def geometry_of(path: Path) -> Geometry | None:
    """From the header alone; None for files that are no NIfTI. Raises UserError."""
    return read(path, lambda _, head: _geometry(head) if is_nifti(head) else None)


def description_of(path: Path) -> str | None:
    """The text in the header; None for files that are no NIfTI. Raises UserError."""
    return read(path, lambda _, head: header_at(head)["descrip"].item().decode("latin-1") if is_nifti(head) else None)


def header_at(head: bytes) -> Any:
    """The header from the first bytes of a file, with nibabel's repairs. Raises ValueError where there are none, and
    Refused for values that are no plain numbers."""
    nibabel = needed(NIFTI)
    content = _unpacked_head(head)
    magic = _magic(content)
    if magic in (b"ni1\0", b"ni2\0"):
        raise Refused(PAIR)
    kind, length = (nibabel.Nifti1Header, 348) if magic == b"n+1\0" else (nibabel.Nifti2Header, 540)
    if len(content) < length:
        raise ValueError(CUT_OFF)
    header = kind(content[:length], check=False)
    try:
        header.check_fix(logger=_SILENT, error_level=40)
    except nibabel.spatialimages.HeaderDataError as error:
        raise ValueError(f"its header is wrong: {error}") from error
    values = header.get_data_dtype()
    if values.kind not in "iuf":
        what = "colours" if values.names else "complex numbers" if values.kind == "c" else f"values of type {values}"
        raise Refused(f"holds {what}: save each channel as numbers, in a file of its own")
    return header


@lru_cache(MAX_UNPACKED)  # nibabel takes longer for a header than reading a page
def _parsed(head: bytes) -> tuple[Any, tuple[int, int, int], np.ndarray]:
    """The header of unpacked first bytes, the stored shape, and `orientation_of`; not to be changed. Raises as these
    do."""
    header = header_at(head)
    return header, shape_of(header), orientation_of(header)


def shape_of(header: Any) -> tuple[int, int, int]:
    """The volume's shape as stored, without the axis of its channels and further axes of length 1. Raises Refused,
    ValueError."""
    sides = [int(side) for side in header.get_data_shape()]
    if not sides or min(sides) < 1:
        raise ValueError(f"its header claims the size {'x'.join(map(str, sides)) or 'of nothing'}")
    if sum(side > 1 for side in sides[3:]) > 1 or channels_of(header) > MAX_CHANNELS:
        raise Refused(
            f"has {len(sides)} axes, {'x'.join(map(str, sides))}: the fourth may hold up to {MAX_CHANNELS} channels, "
            "and a longer one is a series in time: save one volume of it to a file"
        )
    width, height, depth = (*sides, 1, 1)[:3]
    return width, height, depth


def channels_of(header: Any) -> int:
    """Length of the fourth axis, or of the fifth in files of ITK, which `shape_of` has checked."""
    return math.prod(map(int, header.get_data_shape()[3:]))


def orientation_of(header: Any) -> np.ndarray:
    """(3, 2): for each stored axis, the axis of ORIENTATION that is closest, and -1 if it has to be flipped. Raises
    ValueError."""
    orientations = import_module("nibabel.orientations")
    stored = orientations.io_orientation(_affine(header))
    if np.isnan(stored).any():
        raise ValueError(NOWHERE)
    return np.asarray(orientations.ornt_transform(stored, orientations.axcodes2ornt(ORIENTATION)))


def as_read(stored: np.ndarray, orient: np.ndarray) -> np.ndarray:
    """The array of a file, with or without an axis of channels -> a view (D, [C,] H, W) in the orientation of
    reading."""
    flipped = stored[tuple(slice(None, None, int(step)) for _, step in orient)]
    depth, *others = _places(orient)
    return flipped.transpose(depth, *range(3, stored.ndim), *others)


def _places(orient: np.ndarray) -> list[int]:
    """The stored axes of D, H and W."""
    return [int(axis) for axis in np.argsort(orient[:, 0])[::-1]]


def _geometry(head: bytes) -> Geometry:
    header = header_at(head)
    shape, orient, affine = shape_of(header), orientation_of(header), _affine(header)
    places = _places(orient)
    columns = []
    origin = affine[:3, 3].copy()
    for place in places:
        step = affine[:3, place]
        if orient[place, 1] < 0:
            origin += step * (shape[place] - 1)
            step = -step
        columns.append(step)
    turned = np.eye(4)
    turned[:3] = np.stack([*columns, origin], axis=1)
    turned[:3] *= IN_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    depth, height, width = (shape[place] for place in places)
    codes = import_module("nibabel.orientations").aff2axcodes(affine)
    return Geometry((depth, height, width), turned, "".join(codes), header.get_data_dtype().kind == "f")


def _affine(header: Any) -> np.ndarray:
    affine = np.asarray(header.get_best_affine(), np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ValueError(NOWHERE)
    return affine


def _magic(content: bytes) -> bytes:
    """The four bytes that name the format; b'' where the length of the header is wrong."""
    if content[:4] in (b"\x5c\1\0\0", b"\0\0\1\x5c"):
        return content[344:348]
    return content[4:8] if content[:4] in (b"\x1c\2\0\0", b"\0\0\2\x1c") else b""


def _unpacked_head(head: bytes) -> bytes:
    """The first bytes of the content, unpacked if need be; b'' where that fails."""
    if head[:2] != GZIP_SIGNATURE:
        return head[:MAX_HEADER]
    try:
        return zlib.decompressobj(wbits=31).decompress(head, MAX_HEADER)
    except zlib.error:
        return b""


def _scaled(values: np.ndarray, slope: float | None, offset: float | None) -> np.ndarray:
    """(D, C, H, W), contiguous, in the values' own type, or as float32 where they are scaled."""
    if slope is None or offset is None or (slope == 1 and offset == 0):
        return np.array(values, dtype=values.dtype.newbyteorder("="), order="C")
    scaled = np.empty(values.shape, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # overflow becomes infinity, which is reported by the reader
        for place, plane in enumerate(values):
            scaled[place] = plane.astype(np.float64) * slope + offset
    return scaled


# --- content ---------------------------------------------------------------------------------------------------------

_LOCK = threading.Lock()
_UNPACKED: dict[tuple[int, ...], IO[bytes]] = {}  # by identity, the last used at the end


@atexit.register
def close_unpacked() -> None:
    """Close all unpacked files."""
    while _UNPACKED:
        _UNPACKED.popitem()[1].close()


def _stored(file: BinaryIO, head: bytes, start: int, end: int, whole: bool) -> Any:
    """A buffer of the uncompressed file, up to `end` at least. Raises ValueError if it ends before.

    A compressed file that is read whole is unpacked to memory; one that is read by pages once, to a temporary file.
    """
    if head[:2] != GZIP_SIGNATURE:
        if file_size(file) < end:
            raise ValueError(CUT_OFF)
        return np.memmap(file, np.uint8, "r", shape=(end,))
    identity = identity_of(file)
    with _LOCK:  # also while unpacking, so that threads that want pages of one file don't each unpack it
        kept = _UNPACKED.pop(identity, None)
        if kept is None and not whole:
            kept = tempfile.TemporaryFile()  # noqa: SIM115  (closed when others take its place)
            try:
                _unpack(file, kept, end)
            except BaseException:
                kept.close()
                raise
            _make_room(end)
        if kept is not None:
            _UNPACKED[identity] = kept
            return np.memmap(kept, np.uint8, "r", shape=(end,))
    content = io.BytesIO()
    _unpack(file, content, end)
    return content.getbuffer()


def _make_room(size: int) -> None:
    """Close the unpacked files that were used longest ago, as far as one more of this size needs their place."""
    used = size + sum(file.seek(0, io.SEEK_END) for file in _UNPACKED.values())
    limit = min(MAX_KEPT, KEPT_SHARE * (shutil.disk_usage(tempfile.gettempdir()).free + used))
    while _UNPACKED and (len(_UNPACKED) >= MAX_UNPACKED or used > limit):
        dropped = _UNPACKED.pop(next(iter(_UNPACKED)))
        used -= dropped.seek(0, io.SEEK_END)
        dropped.close()


def _unpack(file: BinaryIO, to: IO[bytes], end: int) -> None:
    """Write the first `end` bytes of the content, and check what follows up to the checksum unless it is long."""
    file.seek(0)
    try:
        with gzip.GzipFile(fileobj=file) as packed:
            left = end
            while left:
                part = packed.read(min(left, 2**22))
                if not part:
                    raise ValueError(CUT_OFF)
                to.write(part)
                left -= len(part)
            packed.read(2**20)
    except EOFError as error:
        raise ValueError(CUT_OFF) from error
    to.flush()
