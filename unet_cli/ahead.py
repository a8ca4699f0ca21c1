"""Reading and writing ahead: the one mechanism by which disk and processor overlap, in every command."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_workers() -> int:
    """As many threads as this process may use processors, 8 at most: decoders release the interpreter lock."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        allowed = os.cpu_count() or 1
    return min(8, allowed)


def ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int | None = None,
    depth: int | None = None,
    chunk: int = 1,
) -> Iterator[Result]:
    """`map(function, items)` in threads, results in the order of the items, with a bounded number in flight.

    While the caller works on one result, the next `depth` (two for each worker unless given) are being made, so memory
    stays bounded however many items there are. An exception of `function` is raised where its result is due; the rest
    is then cancelled. chunk: as many items go to a thread at a time; for thousands of items that take less than a
    millisecond each, handing them over one by one would take longer than they do.
    """
    workers = workers or default_workers()
    depth = depth or 2 * workers
    pending: deque[Future[list[Result]]] = deque()
    rest = iter(items)
    chunks = iter(lambda: list(islice(rest, chunk)), [])
    with ThreadPoolExecutor(workers, thread_name_prefix="ahead") as pool:
        try:
            for some in chunks:
                pending.append(pool.submit(_each, function, some))
                if len(pending) > depth:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _each(function: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    return [function(item) for item in items]
