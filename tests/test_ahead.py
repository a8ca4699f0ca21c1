"""Reading ahead: order, bounds, and errors where they belong."""

import threading

import pytest

from unet_cli.ahead import ahead


def test_results_come_in_the_order_of_the_items():
    gate = threading.Event()

    def slow_first(item: int) -> int:
        if item == 0:
            gate.wait(10)
        else:
            gate.set()
        return item * item

    assert list(ahead(slow_first, range(5), workers=2)) == [0, 1, 4, 9, 16]


def test_no_more_than_the_depth_is_taken_from_the_source():
    taken = []

    def source():
        for item in range(100):
            taken.append(item)
            yield item

    results = ahead(lambda item: item, source(), workers=2, depth=4)
    assert next(results) == 0
    assert len(taken) == 5
    results.close()
    assert len(taken) == 5


def test_an_error_is_raised_where_its_result_is_due():
    results = ahead(lambda item: 1 // (2 - item), range(5), workers=3)
    assert next(results) == 0
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
