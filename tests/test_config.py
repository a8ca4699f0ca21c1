"""Settings check themselves: ranges, choices, durations, and what belongs together."""

from pathlib import Path

import pytest

from unet_cli.config.base import plain
from unet_cli.config.training import CompareConfig, TrainConfig, parse_duration, parse_fold, parse_minutes
from unet_cli.errors import UserError


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("3m", 180), ("2h30m", 9000), ("1.5h", 5400), ("1h 5s", 3605)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["soon", "", "10", "3 m 5", "-3m", "0s", "3d"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(UserError, match="write 90s, 3m or 2h30m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 8}, "--size is 8: it has to be 32 to 8192"),
        ({"epochs": 0}, "--epochs is 0: it has to be at least 1"),
        ({"augment": "wild"}, "--augment is 'wild': choose one of none, light, full"),
        ({"loss": "bce+dise"}, "did you mean dice"),
        ({"loss": "dice", "class_weights": "1,2"}, "--class-weights applies to"),
        ({"init": Path("a.pth"), "encoder_weights": "imagenet"}, "leave out --encoder-weights"),
        ({"lr": float("nan")}, "--lr is nan"),
        ({"name": "a/b"}, "--name is 'a/b'"),
        ({"folds": 5}, "--fold all trains five .*--fold 1 only the first"),
        ({"folds": 5, "fold": 0}, "'0' is no fold: write which one, from 1, or all"),
        ({"folds": 5, "fold": "al"}, "--fold is 'al'"),
    ],
)
def test_settings_out_of_range_name_the_flag(settings, message):
    with pytest.raises(UserError, match=message):
        TrainConfig(data=Path("d"), **settings)


@pytest.mark.parametrize(("text", "fold"), [("1", 1), ("12", 12), ("all", "all"), (3, 3)])
def test_folds_are_numbers_or_all(text, fold):
    assert parse_fold(text) == fold
    assert TrainConfig(data=Path("d"), folds=12, fold=fold).fold == fold


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "All", ""])
def test_what_is_no_fold_is_refused(text):
    with pytest.raises(UserError, match="is no fold: write which one, from 1, or all"):
        parse_fold(text)


@pytest.mark.parametrize(("text", "minutes"), [("3,10", (3, 10)), ("0.5", (0.5,)), ("10, 3,10", (10, 3)), (3, (3,))])
def test_minutes_are_numbers_each_once(text, minutes):
    assert parse_minutes(text) == minutes


def test_minutes_are_checked_in_python_too():
    assert CompareConfig(data=Path("d"), minutes=(3, 0.5)).minutes == (3, 0.5)
    for minutes in ((), (0,), (3, -1)):
        with pytest.raises(UserError, match="are no minutes"):
            CompareConfig(data=Path("d"), minutes=minutes)


def test_compare_takes_one_fold():
    with pytest.raises(UserError, match="compare trains each network once"):
        CompareConfig(data=Path("d"), folds=5, fold="all")


def test_plain_values():
    values = plain(TrainConfig(data=Path("d")))
    assert values["data"] == "d"
    assert values["size"] == 512
