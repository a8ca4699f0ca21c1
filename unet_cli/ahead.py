"""Reading and writing ahead: the one mechanism by which disk and processor overlap, in every command."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None, depth: int | None = None
) -> Iterator[Result]:
    """`map(function, items)` in threads, results in the order of the items, with a bounded number in flight.

    While the caller works on one result, the next `depth` (two for each worker unless given) are being made, so memory
    stays bounded however many items there are. An exception of `function` is raised where its result is due; the rest
    is then cancelled.
    """
    workers = workers or default_workers()
    depth = depth or 2 * workers
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="ahead") as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > depth:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
