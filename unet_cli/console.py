"""What the user sees: results on stdout, log and progress on stderr, one JSON document where that was asked for."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class Console:
    """json: results as JSON on stdout, one object a line. quiet: nothing but errors (and the JSON asked for)."""

    json: bool = False
    quiet: bool = False

    def say(self, *lines: str) -> None:
        """Log lines, on stderr, above any progress bar."""
        if self.quiet:
            return
        from tqdm import tqdm

        with tqdm.external_write_mode(file=sys.stderr):
            print(*lines, sep="\n", file=sys.stderr, flush=True)

    def result(self, *lines: str) -> None:
        """What the command was called for, in words, on stdout."""
        if not self.json and not self.quiet:
            print(*lines, sep="\n", flush=True)

    def document(self, value: dict[str, Any]) -> None:
        """What the command was called for, for a program: one line of JSON on stdout."""
        if self.json:
            print(json.dumps(value, default=str, ensure_ascii=False), flush=True)

    def progress(self, items: Iterable[Item], total: int, what: str, unit: str = "it") -> Iterator[Item]:
        """Pass the items on: with a bar on a terminal, elsewhere with a line every few seconds."""
        if self.quiet:
            yield from items
        elif sys.stderr.isatty():
            from tqdm import tqdm

            yield from tqdm(items, total=total, desc=what, unit=f" {unit}", leave=False, dynamic_ncols=True)
        else:
            spoken = time.monotonic()
            for done, item in enumerate(items):
                if time.monotonic() - spoken > SECONDS_BETWEEN_LINES:
                    spoken = time.monotonic()
                    self.say(f"{what}: {done} of {total} {unit}")
                yield item


def duration(seconds: float) -> str:
    """Seconds as people say them: '45 s', '3 min 20 s', '2 h 5 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min" + (f" {rest} s" if rest else "")
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h" + (f" {minutes} min" if minutes else "")


def counted(number: int, noun: str) -> str:
    """'1 image', '2 images', '1,024 images'."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
