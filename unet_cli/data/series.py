"""Volumes in series of DICOM files, one for each slice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from unet_cli.data.formats import DICOM_EXTENSIONS, Decoded, decode, extension_of
from unet_cli.data.source import Source


def is_series(source: Source) -> bool:
    """By name: whether this is a volume in a series of DICOM files."""
    return source.is_volume and extension_of(source.path) in DICOM_EXTENSIONS


def decode_of(source: Source, path: Path, page: int | None) -> Decoded:
    """A file of the source, or a page of it: see `decode`. Values of a series are measurements whatever their type, as
    those of NIfTI. Raises UserError."""
    decoded = decode(path, page)
    return replace(decoded, is_measured=True) if is_series(source) else decoded
