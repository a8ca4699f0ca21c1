"""The learning rate over a run."""

import math
from typing import get_args, get_type_hints

import pytest

from unet_cli.config.training import TrainConfig
from unet_cli.training.schedule import (
    PLATEAU,
    SCHEDULES,
    WARMUP,
    cooldown_epochs,
    has_settled,
    lr_factor,
    open_progress,
)


def factors_of(name):
    return [lr_factor(name, step / 200) for step in range(201)]


def test_there_is_a_schedule_for_each_name_of_the_option():
    choices, _ = get_args(get_type_hints(TrainConfig)["schedule"])
    assert set(SCHEDULES) == set(get_args(choices))


@pytest.mark.parametrize("name", ["cosine", "poly"])
def test_learning_rate_warms_up_then_falls_to_zero(name):
    factors = factors_of(name)
    top = factors.index(max(factors))
    assert top == round(200 * WARMUP)
    assert factors[top] == 1
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert factors[0] > 0
    assert factors[-1] == 0


def test_halfway_between_warm_up_and_end():
    middle = WARMUP + (1 - WARMUP) / 2
    assert lr_factor("cosine", middle) == pytest.approx(0.5)
    assert lr_factor("poly", middle) == pytest.approx(0.5**0.9)


def test_a_cool_down_is_the_last_part_of_the_run():
    factors = factors_of("cooldown")
    assert factors[10:140] == [1] * 130
    assert factors[170] == pytest.approx(0.5)
    assert factors[200] == pytest.approx(0)


@pytest.mark.parametrize(
    ("scores", "settled"),
    [
        pytest.param([0.5] * 4, False, id="too few to tell"),
        pytest.param([0.5] * 5, True, id="four epochs in vain"),
        pytest.param([0.5, 0.4, 0.4, 0.4, 0.5005], True, id="a gain too small to count"),
        pytest.param([0.5, 0.4, 0.4, 0.4, 0.502], False, id="still learning"),
        pytest.param([0.1 * min(epoch, 7) for epoch in range(11)], False, id="a third of the run is not over"),
        pytest.param([0.1 * min(epoch, 7) for epoch in range(12)], True, id="a third of the run in vain"),
    ],
)
def test_learning_has_stopped(scores, settled):
    assert has_settled(scores) is settled


def test_an_open_run_waits_before_its_cool_down_and_then_ends():
    assert open_progress(0, None) == 0
    assert open_progress(10, None) == pytest.approx(0.35)
    assert open_progress(500, None) == pytest.approx(0.7)
    assert cooldown_epochs(70) == 30
    assert [open_progress(done, 70) for done in (70, 85, 100)] == pytest.approx([0.7, 0.85, 1])


@pytest.mark.parametrize("name", ["constant", "plateau"])
def test_learning_rate_stays_after_the_warm_up(name):
    factors = factors_of(name)
    assert factors[:11] == factors_of("cosine")[:11]
    assert factors[10:] == [1] * 191


@pytest.mark.parametrize("name", SCHEDULES)
def test_progress_beyond_the_run_is_its_end(name):
    assert lr_factor(name, 1.2) == lr_factor(name, 1.0)
    assert lr_factor(name, -0.1) == lr_factor(name, 0.0)


@pytest.mark.parametrize(
    ("scores", "factor"),
    [
        pytest.param([], 1, id="no epoch yet"),
        pytest.param([0.5] + [0.5] * (PLATEAU - 1), 1, id="not long enough"),
        pytest.param([0.5] + [0.5] * PLATEAU, 1 / 2, id="an equal score is no improvement"),
        pytest.param([0.5] + [0.4] * (2 * PLATEAU - 1), 1 / 2, id="counted anew after a halving"),
        pytest.param([0.5] + [0.4] * (2 * PLATEAU), 1 / 4, id="halved again"),
        pytest.param([0.5] + [0.4] * (PLATEAU - 1) + [0.6] + [0.5] * (PLATEAU - 1), 1, id="improved just in time"),
        pytest.param([0.5] + [0.4] * PLATEAU + [0.9], 1 / 2, id="what was halved stays so"),
        pytest.param([0.5] + [0.1 + 0.01 * step for step in range(PLATEAU)], 1 / 2, id="better, not best"),
        pytest.param([math.nan] * PLATEAU, 1 / 2, id="no number, no improvement"),
        pytest.param([math.nan, *range(100)], 1, id="a number after none improves"),
    ],
)
def test_a_plateau_of_the_score_halves_the_learning_rate(scores, factor):
    assert lr_factor("plateau", 0.5, scores) == factor


def test_only_the_plateau_asks_for_scores():
    for name in SCHEDULES.keys() - {"plateau"}:
        assert lr_factor(name, 0.5, [0.5] * 100) == lr_factor(name, 0.5)
