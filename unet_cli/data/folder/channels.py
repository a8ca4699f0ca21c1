"""Images whose channels are files of their own: ID_0000 and ID_0001, or volumes ID_t1 and ID_t2.

Decided from names alone.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from unet_cli.data.folder.walk import stem
from unet_cli.data.formats import is_volume_file

CHANNEL = re.compile(r"(.+)_(\d{4})", re.DOTALL)
WORD_CHANNEL = re.compile(r"(.+)[-_./](\w*[^\W\d_]\w*?)", re.DOTALL)  # scan_t1, of volumes
MAX_WORDS = 16  # channels with names

Files = Mapping[str, tuple[Path, ...]]  # of each name, without the words for role and split
Lacking = dict[str, tuple[Path, str]]  # names with a missing channel: one of their files, and that channel


def find_channels(files: Mapping[str, Path]) -> tuple[Files, Lacking, tuple[str, ...]]:
    """Names without channel -> their files in order; names that lack a channel; and the words of the channels, if they
    have no numbers.

    Empty if a name has no channel, or most names don't have the same two or more channels.
    """
    merged, lacking = _channels(files)
    return (merged, lacking, ()) if merged else _word_channels(files)


def _channels(files: Mapping[str, Path]) -> tuple[Files, Lacking]:
    """By numbers from 0000 on."""
    ids: defaultdict[str, dict[str, Path]] = defaultdict(dict)
    for name, path in files.items():
        if not (parts := CHANNEL.fullmatch(name)):
            return {}, {}
        ids[parts[1]][parts[2]] = path
    if not ids:
        return {}, {}
    expected = _usual(ids)
    if expected != [f"{number:04}" for number in range(len(expected))]:
        return {}, {}
    return _merged(ids, expected)


def _word_channels(files: Mapping[str, Path]) -> tuple[Files, Lacking, tuple[str, ...]]:
    """By the word at the end, of volumes; and the words."""
    if not files or not all(is_volume_file(path) for path in files.values()):
        return {}, {}, ()
    ids: defaultdict[str, dict[str, Path]] = defaultdict(dict)
    for name, path in files.items():
        if not (parts := WORD_CHANNEL.fullmatch(name)):
            return {}, {}, ()
        ids[parts[1]][parts[2]] = path
    expected = _usual(ids)
    return (*_merged(ids, expected), tuple(expected)) if 2 <= len(expected) <= MAX_WORDS else ({}, {}, ())


def _usual(ids: Mapping[str, Mapping[str, Path]]) -> list[str]:
    """The channels, two or more, that most IDs have, if the others have no more; else none."""
    [(usual, count)] = Counter(frozenset(channels) for channels in ids.values()).most_common(1)
    is_clear = len(usual) >= 2 and 2 * count > len(ids) and all(channels.keys() <= usual for channels in ids.values())
    return sorted(usual) if is_clear else []


def _merged(ids: Mapping[str, Mapping[str, Path]], expected: Sequence[str]) -> tuple[Files, Lacking]:
    """The IDs with all channels, and those that lack one."""
    if not expected:
        return {}, {}
    usual = set(expected)
    merged, lacking = {}, {}
    for name, channels in ids.items():
        if channels.keys() == usual:
            merged[name] = tuple(channels[channel] for channel in expected)
        else:
            lacking[name] = next(iter(channels.values())), next(c for c in expected if c not in channels)
    return merged, lacking


def merge_channels(files: Sequence[Path], words: Sequence[str] = ()) -> list[tuple[Path, tuple[Path, ...]]]:
    """Group ID_0000.ext, ID_0001.ext, ..., or ID_WORD.ext for each of the words: (folder/ID, its files in order); other
    files form groups of one."""
    images: defaultdict[Path, list[tuple[str, Path]]] = defaultdict(list)
    for path in files:
        place = path.with_name(stem(path.name))
        parts = (WORD_CHANNEL if words else CHANNEL).fullmatch(place.as_posix())
        is_channel = parts is not None and (not words or parts[2] in words)
        images[Path(parts[1]) if parts and is_channel else place].append((parts[2] if parts else "", path))
    return [(place, tuple(path for _, path in sorted(paths))) for place, paths in images.items()]


def nnunet_name(name: str) -> str:
    """The name of a case of nnU-Net whose only channel is in this file: case_7 for case_7_0000; else the same."""
    parts = CHANNEL.fullmatch(name)
    return parts[1] if parts and parts[2] == "0000" else name
