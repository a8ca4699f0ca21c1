"""Volumes in series of DICOM files, one for each slice."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from unet_cli.data.formats import DICOM_EXTENSIONS, Decoded, decode, extension_of
from unet_cli.data.formats.dicom_series import slice_of
from unet_cli.data.source import Source


def is_series(source: Source) -> bool:
    """By name: whether this is a volume in a series of DICOM files."""
    return source.is_volume and extension_of(source.path) in DICOM_EXTENSIONS


def stack_of(source: Source) -> tuple[tuple[Path, str], float]:
    """What an image is a page or slice of, and its place in it: a file, by its path, or a DICOM series, by the folder
    and a name. Raises UserError."""
    is_dicom = len(source.paths) == 1 and extension_of(source.path) in DICOM_EXTENSIONS
    if source.page is None and not source.is_volume and is_dicom:
        stats = source.path.stat()
        found = _slice_of(source.path, stats.st_mtime_ns)
        if found is not None:
            return (source.path.parent, found[0]), found[1]
    return (source.path, ""), source.page or 0


@lru_cache(2**16)  # a split asks several times
def _slice_of(path: Path, stamp: int) -> tuple[str, float] | None:
    return slice_of(path)


def decode_of(source: Source, path: Path, page: int | None) -> Decoded:
    """A file of the source, or a page of it: see `decode`. Values of a series are measurements whatever their type, as
    those of NIfTI. Raises UserError."""
    decoded = decode(path, page)
    return replace(decoded, is_measured=True) if is_series(source) else decoded
