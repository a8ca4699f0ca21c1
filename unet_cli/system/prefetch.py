"""Prefetching in threads: the one mechanism by which I/O and computation overlap, in every command."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_processors() -> int:
    """The number of processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def default_workers() -> int:
    """One thread per usable processor, at most 8: decoders release the GIL."""
    return min(8, usable_processors())


def prefetch(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int | None = None,
    depth: int | None = None,
    chunk: int = 1,
) -> Iterator[Result]:
    """`map(function, items)` in threads, with results in the order of the items and a bounded number in flight.

    While the caller works on one result, the next `depth` (two per worker by default) are computed, so memory stays
    bounded for any number of items. An exception of `function` is raised at its result; the rest is cancelled. chunk:
    number of items per task; for thousands of items of less than a millisecond each, single tasks would cost more than
    the items.
    """
    workers = workers or default_workers()
    depth = depth or 2 * workers
    pending: deque[Future[list[Result]]] = deque()
    rest = iter(items)
    chunks = iter(lambda: list(islice(rest, chunk)), [])
    if "torch" in sys.modules:
        sys.modules["torch"].get_num_threads()  # fixes this thread's own count first
    with ThreadPoolExecutor(workers, thread_name_prefix="prefetch", initializer=_compute_alone) as pool:
        if not _begins(pool):
            yield from map(function, rest)
            return
        try:
            for some in chunks:
                pending.append(_submitted(pool, partial(_each, function, some)))
                if len(pending) > depth:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _begins(pool: ThreadPoolExecutor) -> bool:
    """Whether the system allows to start a thread (`ulimit -u`)."""
    try:
        pool.submit(int)
    except RuntimeError:
        return False
    return True


def _submitted(pool: ThreadPoolExecutor, work: Callable[[], Result]) -> Future[Result]:
    """Submit the work to the pool; where no further thread can be started, the present threads do it. The pool's own
    `submit` would lose its future then, though the work is queued."""
    future = Future[Result]()

    def run() -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work())
            except BaseException as error:  # raised again by result()
                future.set_exception(error)

    try:
        pool.submit(run)
    except RuntimeError as error:
        if "new thread" not in str(error):
            raise
    return future


def _compute_alone() -> None:
    """Restrict torch to one thread in each reader: its intra-op threads would compete with those of the network, which
    synchronize after every operation (256 x 256 images went through a small network half as fast)."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)  # for this thread and for future ones


def _each(function: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    return [function(item) for item in items]


def buffered(items: Iterable[Item], depth: int) -> Generator[Item]:
    """The items in order, produced by one other thread, up to `depth` of them ahead of the caller.

    For items that depend on each other. An exception is raised at its item. Closing the generator ends the thread after
    its current item.
    """
    made: queue.Queue[Future[Item] | None] = queue.Queue(depth)
    closed = threading.Event()

    def put(entry: Future[Item] | None) -> None:
        # A blocking put would never end if the caller has closed the generator and the queue is full.
        while not closed.is_set():
            try:
                made.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return

    def make() -> None:
        try:
            for item in items:
                future = Future[Item]()
                future.set_result(item)
                put(future)
                if closed.is_set():
                    return
            put(None)
        except BaseException as error:  # raised again by result()
            future = Future[Item]()
            future.set_exception(error)
            put(future)

    thread = threading.Thread(target=make, name="buffered", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the system allows no further thread
        yield from items
        return
    try:
        while (entry := made.get()) is not None:
            yield entry.result()
    finally:
        closed.set()
        thread.join()
