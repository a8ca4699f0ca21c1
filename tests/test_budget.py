"""When a run ends; time is set, never waited for."""

import pytest

from unet_cli.training import budget
from unet_cli.training.budget import Budget


@pytest.fixture
def clock(monkeypatch):
    """Set the seconds of the clock with clock(...)."""
    now = [0.0]
    monkeypatch.setattr(budget.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, seconds)


def test_epochs_alone_need_no_clock():
    plan = Budget(epochs=3, steps_per_epoch=4, start=0, end=None)
    assert [plan.progress(done) for done in (0, 1.5, 3)] == [0, 0.5, 1]
    assert plan.allows_step(2.75)
    assert not plan.allows_step(3.0)


def test_time_leaves_room_for_validating_and_finishing(clock):
    plan = Budget(epochs=None, steps_per_epoch=4, start=0, end=100, step_seconds=2, validation_seconds=10)
    assert plan.last_step_at == pytest.approx(100 - 5 - 20)
    clock(72.9)
    assert plan.allows_step(30)
    clock(73.1)
    assert not plan.allows_step(30)
    clock(74)
    assert plan.progress(30) == pytest.approx(1)


def test_the_first_step_is_always_allowed(clock):
    plan = Budget(epochs=None, steps_per_epoch=4, start=0, end=1)
    clock(50)
    assert plan.allows_step(0)
    assert not plan.allows_step(0.25)


def test_whichever_ends_first_sets_the_pace(clock):
    plan = Budget(epochs=2, steps_per_epoch=10, start=0, end=1005)
    clock(100)
    assert plan.progress(1) == pytest.approx(0.5)
    clock(900)
    assert plan.progress(1) == pytest.approx(0.9)


def test_remaining_time(clock):
    plan = Budget(epochs=2, steps_per_epoch=10, start=0, end=None, step_seconds=3, validation_seconds=5)
    assert plan.remaining(0) == pytest.approx(2 * (30 + 5))
    plan.end = 40
    clock(10)
    assert plan.remaining(0) == 30
