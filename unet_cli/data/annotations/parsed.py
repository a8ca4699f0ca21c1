"""Annotation files as they were parsed: each once, as long as it stays the same and memory allows."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from pathlib import Path

from unet_cli.data.annotations.formats import FORMATS
from unet_cli.data.annotations.shapes import Annotated, AnnotationFile, OtherFormat
from unet_cli.errors import UserError, explain

KEPT_BYTES = 2**29  # of shapes

Stamp = tuple[int, int]


class _Kept:
    """Parsed files, those used last at the end. Threads may share it."""

    def __init__(self) -> None:
        self.files: OrderedDict[tuple[str, Path], tuple[Stamp, AnnotationFile, str]] = OrderedDict()
        self.nbytes = 0
        self.lock = threading.Lock()  # a large file must not be parsed twice, and parsing holds the interpreter anyway

    def keep(self, key: tuple[str, Path], stamp: Stamp, file: AnnotationFile, digest: str) -> None:
        self.nbytes += file.nbytes - (self.files.pop(key)[1].nbytes if key in self.files else 0)
        self.files[key] = stamp, file, digest
        while len(self.files) > 1 and self.nbytes > KEPT_BYTES:
            _, (_, oldest, _) = self.files.popitem(last=False)
            self.nbytes -= oldest.nbytes


_KEPT = _Kept()


def parsed(path: Path, tool: str) -> tuple[AnnotationFile, str]:
    """The file's content, and a digest of its bytes. tool: a key of FORMATS. Raises UserError."""
    key = (tool, path)
    with _KEPT.lock:
        try:
            status = os.stat(path)
            stamp = (status.st_size, status.st_mtime_ns)
            if key in _KEPT.files and _KEPT.files[key][0] == stamp:
                _KEPT.files.move_to_end(key)
                return _KEPT.files[key][1:]
            content = path.read_bytes()
        except OSError as error:
            raise explain(error, path) from error
        found, digest = _content(path, tool, content), hashlib.blake2b(content, digest_size=8).hexdigest()
        _KEPT.keep(key, stamp, found, digest)
        return found, digest


def _content(path: Path, tool: str, content: bytes) -> AnnotationFile:
    try:
        return FORMATS[tool].parse(content)
    except OtherFormat as error:
        raise OtherFormat(f"{path} {error}") from error
    except UserError as error:
        raise UserError(f"{path} {error}") from error
    except RecursionError as error:
        raise UserError(f"{path} is no {tool} file: it is nested too deeply") from error
    except (ValueError, SyntaxError, LookupError) as error:  # of JSON, XML, their encodings, and numbers too long
        raise UserError(f"{path} is damaged, or no {tool} file: {error}") from error


def annotated(path: Path, tool: str, name: str) -> Annotated:
    """What the file says of the image of this name. Raises UserError, also where the image's entry can't be used."""
    one = parsed(path, tool)[0].images.get(name)
    if one is None:
        raise UserError(f"{path} has no annotations of {name} any more: start again")
    if one.problem:
        raise UserError(f"{path}, {name or 'its image'}: {one.problem}: correct it, or leave it out with --skip-bad")
    return one
