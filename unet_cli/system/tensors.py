"""Files of tensors and plain values, as torch.save writes them, read without running or building what they ask for."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

from unet_cli.errors import is_out_of_memory

# What such files may call. torch's own reader of weights allows more: some of that turns a few bytes into gigabytes.
ALLOWED = re.compile(
    r"collections OrderedDict"
    r"|torch\._utils (_rebuild_tensor_v2|_rebuild_parameter)"
    r"|torch(\.storage)? \w+Storage"
    r"|torch (Size|float\d+|bfloat16|u?int\d+|bool)"
)
PICKLES = 5  # of a file as torch wrote them before version 1.6: the last two name storages, whose bytes follow


class Unreadable(ValueError):
    """Damaged, or no such file."""


def load_tensors(path: Path) -> Any:
    """What the file holds, on the CPU. Raises OSError, and Unreadable for anything that is no whole file of tensors and
    plain values: cut, with a wrong checksum, compressed, or asking for more than these."""
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
    """That it is as torch writes it: nothing compressed, no byte twice, all checksums right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if any(one.compress_type != zipfile.ZIP_STORED for one in members):
            raise Unreadable("it is compressed, as no file of torch's is")
        if sum(one.file_size for one in members) > len(content):
            raise Unreadable("it says that it holds more than it does")
        if damaged := archive.testzip():
            raise Unreadable(f"the checksum of {damaged} is wrong")
        for one in members:
            if one.filename.endswith(".pkl"):
                _check_calls(io.BytesIO(archive.read(one)))


def _check_old_form(content: bytes) -> None:
    file = io.BytesIO(content)
    for _ in range(PICKLES):
        _check_calls(file)


def _check_calls(file: io.BytesIO) -> None:
    """That a pickle, which begins here, calls nothing but what is ALLOWED."""
    words: list[str] = []
    for code, argument, _ in pickletools.genops(file):
        if code.name in ("GLOBAL", "INST"):
            called = str(argument)
        elif code.name == "STACK_GLOBAL":
            called = " ".join(words[-2:])
        else:
            words = [*words[-1:], argument] if isinstance(argument, str) else words
            continue
        if not ALLOWED.fullmatch(called):
            raise pickle.UnpicklingError(f"it calls {ascii(called)}")
