"""The statistics of all pairs of a data set, computed once and cached until their files change."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from unet_cli.data.check.facts import Facts, Known
from unet_cli.data.check.memory import memory_file, remember, remembered, stamp_of
from unet_cli.data.check.reading import page_of, read_facts, sized
from unet_cli.data.source import Pair
from unet_cli.errors import UserError
from unet_cli.system.console import Console
from unet_cli.system.prefetch import prefetch

LAYOUT_OF_FACTS = 11  # version of the cached facts, raised when they are computed or stored in another way
PAIRS_AT_A_TIME = 32  # chunk size of prefetch


def read_all(
    pairs: Sequence[Pair], root: Path, keep_alpha: bool, console: Console, workers: int | None
) -> Iterator[list[Known] | UserError]:
    """The facts of each pair, in order, or the error that makes it unusable. Cached facts are not computed again."""
    memory = Memory(root, keep_alpha)
    known = {index: found for index, pair in enumerate(pairs) if (found := memory.recall(pair)) is not None}
    new = [pair for index, pair in enumerate(pairs) if index not in known]
    read = prefetch(partial(_facts_or_error, keep_alpha), new, workers, chunk=PAIRS_AT_A_TIME)
    fresh = console.progress(read, len(new), "reading", "pairs")
    for index, pair in enumerate(pairs):
        result: list[Known] | UserError = known[index] if index in known else next(fresh)
        if not isinstance(result, UserError) and index not in known:
            memory.keep(pair, result)
        yield result
    next(fresh, None)  # lets the progress bar close
    trouble = memory.write() if new else None
    if trouble:
        console.say(f"The data will be read again next time, without a cache: {trouble} (UNET_CACHE sets its folder)")


class Memory:
    """Cache of the facts of a data set's pairs, in a file outside of it.

    Keyed by path; a pair counts as unchanged if its files have the same sizes and modification times.
    """

    def __init__(self, root: Path, keep_alpha: bool) -> None:
        self._root = str(root)
        self.path = memory_file("facts", root, keep_alpha, LAYOUT_OF_FACTS)
        self._known: dict[str, list[Any]] = remembered(self.path)
        self._stamps: dict[str, list[list[int]]] = {}

    def recall(self, pair: Pair) -> list[Known] | None:
        """The cached facts of an unchanged pair, else None."""
        key, stamp = self._key(pair), stamp_of(pair)
        self._stamps[key] = stamp
        try:
            known_stamp, records = self._known.get(key, ([], []))
            if not stamp or known_stamp != stamp:
                return None
            return [
                sized(pair if page is None else page_of(pair, page), Facts.from_plain(record))
                for page, record in records
            ]
        except (TypeError, ValueError, AttributeError):  # written by another program
            return None

    def keep(self, pair: Pair, known: list[Known]) -> None:
        key = self._key(pair)
        self._known[key] = [self._stamps[key], [[one.image.page, facts.plain()] for one, facts in known]]

    def write(self) -> str | None:
        """Write the entries of this run; returns the reason if that failed."""
        return remember(self.path, {key: self._known[key] for key in self._stamps if key in self._known})

    def _key(self, pair: Pair) -> str:
        """The paths below the data folder, so that the folder may be given in different ways."""
        paths = [os.fspath(path) for path in (*pair.image.paths, *pair.mask.paths)]
        how = [f"classes {pair.mask.classes}"] * bool(pair.mask.classes) + ["no mask"] * pair.mask.is_blank
        how += ["volume"] * pair.image.is_volume + [f"slices {pair.image.slices}"] * (pair.image.slices is not None)
        if pair.mask.entry is not None:
            how.append(hashlib.blake2b(repr(pair.mask.entry).encode(), digest_size=12).hexdigest())
        return "\n".join([path.removeprefix(self._root) for path in paths] + how)


def _facts_or_error(keep_alpha: bool, pair: Pair) -> list[Known] | UserError:
    try:
        return read_facts(pair, keep_alpha)
    except UserError as error:
        return error
