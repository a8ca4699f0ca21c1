"""Where a pipeline's time goes, on a clock that the test moves."""

import pytest

from unet_cli.system import stage_times as stage_times_module
from unet_cli.system.stage_times import StageTimes


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(stage_times_module.time, "perf_counter", lambda: now[0])
    return now


def test_the_stage_that_takes_longest_is_named(clock):
    pace = StageTimes("writing")

    def items():
        for item in range(2):
            clock[0] += 1
            yield item

    for _ in pace.waiting("reading", items()):
        with pace.during("the network"):
            clock[0] += 6
        clock[0] += 0.5
    assert pace.seconds == 15
    assert pace.describe() == "limited by the network (80% of the time)"
    clock[0] += 45
    assert pace.describe() == "limited by writing (77% of the time)"
    pace.place = "tile 3 of 12"
    assert pace.describe() == "tile 3 of 12, limited by writing (77% of the time)"
