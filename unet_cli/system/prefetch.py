"""Reading and writing ahead: the one mechanism by which disk and processor overlap, in every command."""

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
    """How many this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def default_workers() -> int:
    """As many threads as this process may use processors, 8 at most: decoders release the interpreter lock."""
    return min(8, usable_processors())


def prefetch(
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
    if "torch" in sys.modules:
        sys.modules["torch"].get_num_threads()  # settles that of this thread, which is to keep its helpers
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
    """Whether the system lets us start a thread (`ulimit -u`)."""
    try:
        pool.submit(int)
    except RuntimeError:
        return False
    return True


def _submitted(pool: ThreadPoolExecutor, work: Callable[[], Result]) -> Future[Result]:
    """As the pool's own `submit`, but where the system allows no further thread those that there are do the work."""
    future = Future[Result]()

    def run() -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work())
            except BaseException as error:  # raised again where it is due
                future.set_exception(error)

    try:
        pool.submit(run)
    except RuntimeError as error:
        if "new thread" not in str(error):
            raise
    return future


def _compute_alone() -> None:
    """Keep torch from giving each of these threads helpers of its own: they would get into the way of the network's,
    which wait for each other after every operation (256 x 256 images went through a small network half as fast)."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)  # of this thread, and of those that are yet to begin


def _each(function: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    return [function(item) for item in items]


def buffered(items: Iterable[Item], depth: int) -> Generator[Item]:
    """The items in their order, made in one other thread, up to `depth` of them ahead of the caller.

    For items that can't be made independently of each other. An exception is raised where its item is due. Closing the
    generator ends the thread after the item that it is at.
    """
    made: queue.Queue[Future[Item] | None] = queue.Queue(depth)
    closed = threading.Event()

    def put(entry: Future[Item] | None) -> None:
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
        except BaseException as error:  # raised again where it is due
            future = Future[Item]()
            future.set_exception(error)
            put(future)

    thread = threading.Thread(target=make, name="buffered", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the system doesn't let us
        yield from items
        return
    try:
        while (entry := made.get()) is not None:
            yield entry.result()
    finally:
        closed.set()
        thread.join()
