"""Settings check themselves: ranges, choices, durations, and what belongs together."""

from pathlib import Path

import pytest

from unet_cli.config import TrainConfig, parse_duration, plain
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
    ],
)
def test_settings_out_of_range_name_the_flag(settings, message):
    with pytest.raises(UserError, match=message):
        TrainConfig(data=Path("d"), **settings)


def test_plain_values():
    values = plain(TrainConfig(data=Path("d")))
    assert values["data"] == "d"
    assert values["size"] == 512
