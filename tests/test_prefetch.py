"""Reading ahead: order, bounds, and errors where they belong."""

import os
import subprocess
import sys
import threading

import pytest

from unet_cli.system.prefetch import buffered, prefetch


def test_results_come_in_the_order_of_the_items():
    gate = threading.Event()

    def slow_first(item: int) -> int:
        if item == 0:
            gate.wait(10)
        else:
            gate.set()
        return item * item

    assert list(prefetch(slow_first, range(5), workers=2)) == [0, 1, 4, 9, 16]


def test_no_more_than_the_depth_is_taken_from_the_source():
    taken = []

    def source():
        for item in range(100):
            taken.append(item)
            yield item

    results = prefetch(lambda item: item, source(), workers=2, depth=4)
    assert next(results) == 0
    assert len(taken) == 5
    results.close()
    assert len(taken) == 5


def test_an_error_is_raised_where_its_result_is_due():
    results = prefetch(lambda item: 1 // (2 - item), range(5), workers=3)
    assert next(results) == 0
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_threads_that_read_compute_alone_and_the_caller_keeps_its_helpers():
    plain = "import torch; print(torch.get_num_threads())"
    reading = (
        "import torch; from unet_cli.system.prefetch import prefetch;"
        "print(set(prefetch(lambda _: torch.get_num_threads(), range(8), workers=2)), torch.get_num_threads())"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    usual, found = (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment
        ).stdout.strip()
        for code in (plain, reading)
    )
    assert found == f"{{1}} {usual}"


def test_prefetched_items_come_in_order_from_one_other_thread_up_to_the_depth():
    made, threads = [], set()
    gate = threading.Event()

    def source():
        for item in range(100):
            made.append(item)
            threads.add(threading.current_thread())
            yield item
            if item == 3:
                gate.set()

    items = buffered(source(), depth=3)
    assert next(items) == 0
    assert gate.wait(10)
    assert len(made) <= 6  # one was taken, three wait, one is in hand, and one may be on its way
    assert list(items) == list(range(1, 100))
    assert threads.isdisjoint({threading.current_thread()})
    assert len(threads) == 1


def test_closing_prefetched_items_ends_their_thread_and_their_source():
    closed = []

    def source():
        try:
            yield from range(100)
        finally:
            closed.append(True)

    items = buffered(source(), depth=2)
    next(items)
    items.close()
    assert not any(thread.name == "buffered" for thread in threading.enumerate())
    assert closed == [True]


def test_an_error_of_a_prefetched_source_is_raised_after_its_items():
    def source():
        yield 1
        raise ZeroDivisionError

    items = buffered(source(), depth=2)
    assert next(items) == 1
    with pytest.raises(ZeroDivisionError):
        next(items)


@pytest.mark.parametrize("allowed", [0, 1])
def test_where_no_more_threads_can_be_started_the_work_is_done_all_the_same(monkeypatch, allowed):
    real, started, done = threading.Thread.start, [], []

    def start(thread):
        if len(started) >= allowed:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real(thread)

    def work(item):
        done.append(item)
        if item == 7:
            raise KeyError(item)
        return 2 * item

    monkeypatch.setattr(threading.Thread, "start", start)
    assert list(prefetch(work, range(7), workers=4)) == [0, 2, 4, 6, 8, 10, 12]
    assert list(prefetch(lambda item: list(prefetch(work, [item])), range(3))) == [[0], [2], [4]]
    del done[7:]
    assert sorted(done) == list(range(7))
    with pytest.raises(KeyError):
        list(prefetch(work, [1, 7], workers=4))
    started.clear()
    assert list(buffered(iter(range(5)), 2)) == [0, 1, 2, 3, 4]
