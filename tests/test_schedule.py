"""The learning rate over a run."""

import math
from typing import get_args, get_type_hints

import pytest

from unet_cli.config import TrainConfig
from unet_cli.training.schedule import PLATEAU, SCHEDULES, WARMUP, lr_factor


def factors_of(name):
    return [lr_factor(name, step / 200) for step in range(201)]


def test_there_is_a_schedule_for_each_name_of_the_option():
    choices = get_args(get_type_hints(TrainConfig)["schedule"])
    assert set(SCHEDULES) == set(choices)


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
