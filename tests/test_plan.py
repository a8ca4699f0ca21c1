"""How a run spends its time: numbers in, a plan out; no clock is asked but in the trial itself."""

from types import SimpleNamespace

import pytest
import torch

from unet_cli.config.model import ModelConfig
from unet_cli.models import resolved
from unet_cli.runs import plan as planning
from unet_cli.runs.plan import Cost, affordable_width, course, growth, measured, work
from unet_cli.system.device import Compute
from unet_cli.training.plan import FORWARD, Plan

UNET = ModelConfig(name="unet", in_channels=3, num_classes=2, base_channels=64, depth=4)


def model(name: str, **settings) -> ModelConfig:
    return resolved(ModelConfig(name=name, **settings), 512)


def test_a_plan_survives_being_stored():
    plan = Plan(sides=(128, 256), until=(0.5, 1.0), parts=3, val_images=7, threads=2, channels_last=False)
    assert Plan.from_plain(plan.plain()) == plan


def test_sides_grow_with_the_run():
    plan = Plan(sides=(128, 256, 512), until=(0.4, 0.8, 1.0))
    assert [plan.side_at(progress) for progress in (0, 0.39, 0.4, 0.79, 0.8, 1, 1.5)] == [128] * 2 + [256] * 2 + [
        512
    ] * 3
    assert Plan().side_at(0.5) is None


@pytest.mark.parametrize("name", ["unet", "attention", "unet++", "resnet18-unet", "nnunet"])
def test_growth_ends_with_what_prediction_sees(name):
    sides, until = growth(model(name), (512, 512)).values()
    assert sides[-1] == 512
    assert len(sides) > 1
    assert list(until) == sorted(until)
    assert until[-1] == 1
    assert list(sides) == sorted(sides)


@pytest.mark.parametrize("name", ["unet-paper", "unet-dilated-published"])
def test_networks_that_crops_do_not_suit_see_whole_images(name):
    assert growth(model(name), (512, 512))["sides"] == (512,)


def test_small_sizes_do_not_grow():
    assert growth(model("unet"), (32, 32))["sides"] == (32,)


def test_whole_images_come_last_where_there_is_time_for_some():
    assert growth(UNET, (512, 512), steps=1000)["sides"][-1] == 512
    short = growth(UNET, (512, 512), steps=50)
    assert short["sides"][-1] == 256
    assert short["until"][-1] == 1
    assert growth(model("unet-paper"), (512, 512), steps=1)["sides"] == (512,)


def test_twice_the_width_is_nearly_four_times_the_work():
    wide, narrow = (work(model("unet", base_channels=width), (256, 256)) for width in (64, 32))
    assert 3 < wide / narrow < 4
    assert work(UNET, (512, 512)) == pytest.approx(4 * work(UNET, (256, 256)))


@pytest.mark.parametrize(("seconds", "width"), [(1, 8), (60, 8), (240, 16), (800, 32), (3200, 64), (1e9, 64)])
def test_the_width_is_what_a_few_thousand_steps_allow(seconds, width):
    cost = Cost(Compute(torch.device("cpu"), "float32"), 1 / work(UNET, (512, 512)))  # a second an image at width 64
    assert affordable_width(UNET, cost, (512, 512), 4, seconds) == width


def test_a_network_without_a_width_keeps_none():
    cost = Cost(Compute(torch.device("cpu"), "float32"), seconds=1.0)
    assert affordable_width(model("resnet18-unet"), cost, (512, 512), 4, 1.0) is None


@pytest.mark.parametrize("images", [3, 30, 300, 3000])
@pytest.mark.parametrize("run", [10, 200, 5000, 100_000])
def test_no_more_than_a_tenth_goes_into_looking(images, run):
    val = max(1, images // 6)
    plan = course(images, val, run)
    looked = FORWARD * ((plan.val_images or val) + plan.statistics)
    validations = run / images / plan.passes(1) / plan.validate_every
    least = FORWARD * (min(val, planning.MIN_VALIDATED) + planning.MIN_STATISTICS)
    assert validations * looked <= max(0.07 * run, planning.MIN_VALIDATIONS * least + 1e-6)
    assert looked <= max(0.04 * run, least + 1)


def test_a_large_set_is_looked_at_in_part_and_a_small_one_as_a_whole():
    assert course(2550, 450, 200).val_images == 12
    assert course(20, 4, 200).val_images is None
    assert course(2550, 450, 1e6).val_images is None
    assert course(2550, 450, 200).parts > 1
    assert course(20, 4, 5000).repeats > 1


def test_without_a_clock_the_plan_is_a_function_of_the_data():
    plan = course(20, 4, is_open=True)
    assert plan == course(20, 4, is_open=True)
    assert plan.is_open
    assert FORWARD * (4 + plan.statistics) <= planning.VALIDATING * 20 * plan.repeats
    assert course(3000, 450).repeats == 1


def test_a_trial_finds_what_a_step_costs_and_the_faster_layout(monkeypatch):
    seconds = {True: 0.4, False: 0.2}
    monkeypatch.setattr(planning, "step_seconds", lambda model, compute, side, size: seconds[compute.channels_last])
    monkeypatch.setattr(planning.os, "getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)
    cost = measured(UNET, Compute(torch.device("cpu"), "float32"), (512, 512), 4)
    assert not cost.compute.channels_last
    assert cost.seconds * 4 * work(UNET, (128, 128)) == pytest.approx(0.2)


@pytest.fixture(autouse=True)
def nothing_measured() -> None:
    measured.cache_clear()


@pytest.mark.parametrize(("alone", "threads"), [(0.1, 1), (0.3, None)])
def test_fewer_threads_where_others_compute_and_it_helps(monkeypatch, alone, threads):
    now = [3]
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: now.__setitem__(0, count))
    monkeypatch.setattr(planning.os, "getloadavg", lambda: (2.0, 0.0, 0.0), raising=False)
    monkeypatch.setattr(planning, "step_seconds", lambda *_: 0.2 if now[0] == 3 else alone)
    assert measured(UNET, Compute(torch.device("cpu"), "float32"), (512, 512), 4).threads == threads
    assert now[0] == 3


@pytest.mark.parametrize(
    ("limit", "tried", "chosen"),
    [
        (100, "abcabcabc", ("b", 1.0)),
        (16, "abcab", ("b", 1.0)),
        (14, "abca", ("a", 2.0)),
        (12, "ab", ("a", 11.0)),
        (0, "a", ("a", 11.0)),
    ],
)
def test_a_trial_warms_up_and_ends_with_its_time(monkeypatch, limit, tried, chosen):
    """Of three ways, which take 2, 1 and 1.9 seconds, and 9 more the first time that any is tried."""
    clock, asked = [0.0], []
    monkeypatch.setattr(planning.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(planning, "TRIAL_SECONDS", limit)

    def seconds(way: str) -> float:
        took = {"a": 2.0, "b": 1.0, "c": 1.9}[way] + (0 if asked else 9)
        asked.append(way)
        clock[0] += took
        return took

    assert planning.quickest("abc", seconds) == chosen
    assert "".join(asked) == tried


def test_another_way_has_to_be_faster_than_noise():
    assert planning.quickest("ab", {"a": 1.0, "b": 0.95}.__getitem__) == ("a", 1.0)


def test_the_trial_itself_trains(monkeypatch):
    small = model("unet", base_channels=4, depth=2)
    before = torch.random.get_rng_state()
    cost = measured(small, Compute(torch.device("cpu"), "float32"), (64, 64), 2)
    assert cost.seconds > 0
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("seconds", "taken", "classes", "count"),
    [(20, 0, 1, 31), (20, 0, 60, 1), (2, 0, 1, 3), (36_000, 0, 1, 1000), (20, 10, 1, 15), (20, 50, 1, 3)],
)
def test_only_as_many_images_are_scored_as_a_tenth_of_the_time_is_enough_for(
    monkeypatch, seconds, taken, classes, count
):
    """A thousand images of 512x512, each of which takes 63 ms to measure."""
    monkeypatch.setattr(planning.time, "monotonic", lambda: 100.0)
    labels = SimpleNamespace(scored=range(classes))
    card = SimpleNamespace(labels=labels, sizes=lambda pairs: [(512, 512)] * len(pairs))
    call = SimpleNamespace(config=SimpleNamespace(max_time=seconds, workers=1), started=100.0 - taken)
    found = planning._affordable_val_images(call, card, SimpleNamespace(val=range(1000)))
    assert min(found, 1000) == count
