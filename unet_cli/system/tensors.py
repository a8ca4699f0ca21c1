"""Load files of torch.save without executing the code that their pickles name."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

from unet_cli.errors import is_out_of_memory

# The globals that a pickle may name. torch's own weights_only reader allows more, and some of that turns a few bytes
# into gigabytes.
ALLOWED = re.compile(
    r"collections OrderedDict"
    r"|torch\._utils (_rebuild_tensor_v2|_rebuild_parameter)"
    r"|torch(\.storage)? \w+Storage"
    r"|torch (Size|float\d+|bfloat16|u?int\d+|bool)"
)
PICKLES = 5  # in a file of torch before version 1.6: the last two name storages, whose bytes follow


class Unreadable(ValueError):
    """The file is damaged, or no file of tensors and plain values."""


def load_tensors(path: Path) -> Any:
    """The file's content, on the CPU. Raises OSError, and Unreadable if the file is truncated, compressed, has a wrong
    checksum, or needs more than tensors and plain values."""
    import torch

    content = path.read_bytes()
    try:
        if zipfile.is_zipfile(io.BytesIO(content)):
            _check_archive(content)
        else:
            _check_old_form(content)
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a reader of damaged bytes may fail in any way
        if is_out_of_memory(error):
            raise
        raise Unreadable(str(error).split("\n")[0]) from error


def _check_archive(content: bytes) -> None:
    """Check that the archive is as torch writes it: uncompressed, without overlapping members, all checksums
    correct."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        # Compressed or overlapping members could unpack to far more than the size of the file (a zip bomb).
        if any(one.compress_type != zipfile.ZIP_STORED for one in members):
            raise Unreadable("it is compressed, unlike files of torch.save")
        if sum(one.file_size for one in members) > len(content):
            raise Unreadable("its members are larger than the file")
        if damaged := archive.testzip():
            raise Unreadable(f"the checksum of {damaged} is wrong")
        for one in members:
            if one.filename.endswith(".pkl"):
                _check_calls(io.BytesIO(archive.read(one)))


def _check_old_form(content: bytes) -> None:
    """Check a file of torch before version 1.6, a sequence of pickles without an archive."""
    file = io.BytesIO(content)
    for _ in range(PICKLES):
        _check_calls(file)


def _check_calls(file: io.BytesIO) -> None:
    """Check that the pickle at the file's position names no globals but those ALLOWED."""
    words: list[str] = []
    for code, argument, _ in pickletools.genops(file):
        if code.name in ("GLOBAL", "INST"):
            called = str(argument)
        # STACK_GLOBAL takes module and name from the stack: the two strings pushed last.
        elif code.name == "STACK_GLOBAL":
            called = " ".join(words[-2:])
        else:
            words = [*words[-1:], argument] if isinstance(argument, str) else words
            continue
        if not ALLOWED.fullmatch(called):
            raise pickle.UnpicklingError(f"it calls {ascii(called)}")
