"""Output for the user: results on stdout, log and progress on stderr, one JSON document if requested."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from unet_cli.system.streams import printable

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class Console:
    """Output settings. json: results as JSON on stdout, one object a line. quiet: nothing but errors and the JSON."""

    json: bool = False
    quiet: bool = False

    def say(self, *lines: str) -> None:
        """Print log lines on stderr, above any progress bar."""
        if self.quiet or not lines:
            return
        from tqdm import tqdm

        with tqdm.external_write_mode(file=sys.stderr):
            print(*map(printable, lines), sep="\n", file=sys.stderr, flush=True)

    def result(self, *lines: str) -> None:
        """Print the command's result as text on stdout."""
        if not self.json and not self.quiet:
            print(*map(printable, lines), sep="\n", flush=True)

    def document(self, value: dict[str, Any]) -> None:
        """Print the command's result as one line of JSON on stdout."""
        if self.json:
            print(json.dumps(value, default=str), flush=True)

    def progress(
        self,
        items: Iterable[Item],
        total: int,
        what: str,
        unit: str = "it",
        detail: Callable[[], str] = lambda: "",
    ) -> Iterator[Item]:
        """Pass the items on, with a progress bar on a terminal, elsewhere with a line every few seconds.

        Items that are None are not counted. detail: the current status text.
        """
        if self.quiet:
            yield from items
        elif sys.stderr.isatty():
            from tqdm import tqdm

            with tqdm(total=total, desc=what, unit=f" {unit}", leave=False, dynamic_ncols=True) as bar:
                for item in items:
                    bar.set_postfix_str(detail(), refresh=False)
                    bar.update(item is not None)
                    yield item
        else:
            start = last_line = time.monotonic()
            done = 0
            for item in items:
                now = time.monotonic()
                if now - last_line > SECONDS_BETWEEN_LINES:
                    last_line = now
                    parts = [f"{what}: {done} of {total} {unit}", speed(done, now - start, unit.removesuffix("s"))]
                    self.say(", ".join(filter(None, [*parts, detail()])))
                yield item
                done += item is not None


def duration(seconds: float) -> str:
    """Seconds for people: '45 s', '3 min 20 s', '2 h 5 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min" + (f" {rest} s" if rest else "")
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h" + (f" {minutes} min" if minutes else "")


def speed(number: int, seconds: float, noun: str) -> str:
    """'3.2 images a second', '48 s per image'; '' for none."""
    if not number:
        return ""
    return (
        f"{number / seconds:.3g} {noun}s a second" if number >= seconds else f"{duration(seconds / number)} per {noun}"
    )


def counted(number: int, noun: str) -> str:
    """'1 image', '2 images', '1,024 images'."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def few(names: Iterable[object]) -> str:
    """The first three names, and the number of the others."""
    every = [str(name) for name in names]
    return ", ".join(every[:3]) + (f" and {len(every) - 3} more" if len(every) > 3 else "")


def sides(shape: Iterable[int | str]) -> str:
    """'64x3x7x7'; 'a number' for no dimensions."""
    return "x".join(map(str, shape)) or "a number"
