"""The learning rate over a run, and when a run ends; time is set, never waited for."""

import pytest

from unet_cli.training import schedule
from unet_cli.training.schedule import WARMUP, Budget, lr_factor


def test_learning_rate_warms_up_then_falls_to_zero():
    factors = [lr_factor(step / 200) for step in range(201)]
    top = factors.index(max(factors))
    assert top == round(200 * WARMUP)
    assert factors[top] == 1
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert factors[0] > 0
    assert factors[-1] == 0


@pytest.fixture
def clock(monkeypatch):
    """Set the seconds of the clock with clock(...)."""
    now = [0.0]
    monkeypatch.setattr(schedule.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, seconds)


def test_epochs_alone_need_no_clock():
    budget = Budget(epochs=3, steps_per_epoch=4, start=0, end=None)
    assert [budget.progress(step) for step in (0, 6, 12)] == [0, 0.5, 1]
    assert budget.allows_step(11)
    assert not budget.allows_step(12)


def test_time_leaves_room_for_validating_and_finishing(clock):
    budget = Budget(epochs=None, steps_per_epoch=4, start=0, end=100, step_seconds=2, validation_seconds=10)
    assert budget.last_step_at == pytest.approx(100 - 4 - 23)
    clock(70.9)
    assert budget.allows_step(30)
    clock(71.1)
    assert not budget.allows_step(30)
    clock(72)
    assert budget.progress(30) == pytest.approx(1)


def test_the_first_step_is_always_allowed(clock):
    budget = Budget(epochs=None, steps_per_epoch=4, start=0, end=1)
    clock(50)
    assert budget.allows_step(0)
    assert not budget.allows_step(1)


def test_whichever_ends_first_sets_the_pace(clock):
    budget = Budget(epochs=2, steps_per_epoch=10, start=0, end=1004)
    clock(100)
    assert budget.progress(10) == pytest.approx(0.5)
    clock(900)
    assert budget.progress(10) == pytest.approx(0.9)


def test_remaining_time(clock):
    budget = Budget(epochs=2, steps_per_epoch=10, start=0, end=None, step_seconds=3, validation_seconds=5)
    assert budget.remaining(0) == pytest.approx(2 * (30 + 5))
    budget.end = 40
    clock(10)
    assert budget.remaining(0) == 30
