"""Write masks as NIfTI, with the header of their image."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike

from unet_cli.data.formats.decoded import Refused, read
from unet_cli.data.formats.extras import NIFTI, needed
from unet_cli.data.formats.nifti import Geometry, as_read, header_at, is_nifti, orientation_of, shape_of
from unet_cli.data.formats.tiff_write import SOFTWARE

LEVEL = 6  # of compression


def write_nifti(
    file: BinaryIO, slices: Iterable[np.ndarray], like: Path | Geometry, dtype: DTypeLike, is_packed: bool = True
) -> None:
    """Write the slices of a mask as NIfTI that lies in space as the volume `like`: a file, in whose storage
    orientation it is written, with its shape, sform, qform, spacing and units; or as a geometry tells.

    slices: (H, W) integers in the orientation of reading, from the first to the last. dtype: of the file, an integer
    type. is_packed: whether to compress, as for .nii.gz. Reproducible byte for byte. Raises UserError if `like` can't
    be read or is no NIfTI, and OSError.
    """
    header = _header_of(like) if isinstance(like, Geometry) else read(like, lambda _, head: _header(head)).copy()
    shape, orient = shape_of(header), orientation_of(header)
    header.set_data_shape(shape)
    header.set_data_dtype(np.dtype(dtype))
    header.set_slope_inter(1, 0)
    for name in ("cal_min", "cal_max", "vox_offset", "intent_code"):
        header[name] = 0
    header["descrip"] = SOFTWARE.encode()
    written = 0
    with gzip.GzipFile("", "wb", LEVEL, file, mtime=0) if is_packed else nullcontext(file) as to:
        header.write_to(to)
        for stored in _parts(slices, shape, orient, header.get_data_dtype()):
            for plane in stored.transpose():  # in the order of the file
                to.write(np.ascontiguousarray(plane).data)
            written += stored.size
    assert written == math.prod(shape), f"{written} voxels for {shape}"


def _parts(
    slices: Iterable[np.ndarray], shape: tuple[int, ...], orient: np.ndarray, dtype: np.dtype[Any]
) -> Iterator[np.ndarray]:
    """The volume as the file stores it: slice by slice if it stores them in the order of reading, else as a whole."""
    if (orient[2] == (2, 1)).all():
        for pixels in slices:
            stored = np.empty((*shape[:2], 1), dtype, order="F")
            as_read(stored, orient)[0] = pixels
            yield stored
        return
    stored = np.empty(shape, dtype, order="F")
    pages = as_read(stored, orient)
    for place, pixels in enumerate(slices):
        pages[place] = pixels
    yield stored


def _header(head: bytes) -> Any:
    if not is_nifti(head):
        raise Refused("is no NIfTI file, so no mask can be laid over it: write another format")
    return header_at(head)


def _header_of(geometry: Geometry) -> Any:
    """Of a volume that is stored as it is read."""
    header = needed(NIFTI).Nifti1Header()
    header.set_data_shape(geometry.shape[::-1])
    affine = geometry.affine[:, [2, 1, 0, 3]]
    header.set_qform(affine, code="scanner", strip_shears=True)
    header.set_sform(affine, code="scanner")
    header.set_xyzt_units("mm")
    return header
