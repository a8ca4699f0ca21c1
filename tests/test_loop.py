"""Training itself: it learns, it is the same twice, and nothing that isn't finite is stepped on or saved."""

import math
import time
from dataclasses import replace

import pytest
import torch
from conftest import write_pairs
from test_card import card_of

from unet_cli.config.model import ModelConfig
from unet_cli.config.training import TrainConfig
from unet_cli.data.samples.cutting import Crops, Grid
from unet_cli.data.samples.dataset import SegmentationDataset
from unet_cli.errors import UserError
from unet_cli.models import build_model
from unet_cli.system.console import Console
from unet_cli.system.device import Compute
from unet_cli.system.distributed import World
from unet_cli.system.signals import StopRequest
from unet_cli.training.budget import Budget
from unet_cli.training.loop import Trainer
from unet_cli.training.losses.loss import loss_for
from unet_cli.training.plan import Plan
from unet_cli.training.progress import EpochResult, Progress
from unet_cli.training.step import Learner

QUIET = Console(quiet=True)


def trainer_for(data, epochs: int = 2, seconds: float | None = None, precision: str = "float32", **settings) -> Trainer:
    settings = {"size": 32, "depth": 2, "lr": 1e-2, "workers": 2, "mode": "resize", **settings}
    config = TrainConfig(data=data, **settings)
    card = card_of(data)
    pairs = card.pairs("train")
    held = max(1, len(pairs) // 3)
    train, val = pairs[held:], pairs[:held]
    preprocessing = card.preprocessing(train, config.size, mode=config.mode)
    cuttings = [None, None]
    if config.mode == "tile":
        cuttings = [Crops(card.sizes(train), config.size, 0.5, 0, 48), Grid(card.sizes(val), config.size)]
    torch.manual_seed(config.seed)
    model = build_model(ModelConfig(base_channels=4, depth=2, norm=config.norm or "batch"))
    start = time.monotonic()
    end = None if seconds is None else start + seconds
    compute, world = Compute(torch.device("cpu"), precision), World()
    return Trainer(
        Learner(model, loss_for(config.loss, 2), config, compute, world, QUIET, at_once=2),
        SegmentationDataset(train, preprocessing, card.labels, cuttings[0]),
        SegmentationDataset(val, preprocessing, card.labels, cuttings[1]),
        config,
        batch_size=2,
        budget=Budget(None if seconds else epochs, steps_per_epoch=-(-len(train) // 2), start=start, end=end),
        world=world,
        console=QUIET,
    )


def run(trainer: Trainer) -> list[EpochResult]:
    return [result for result in trainer.fit(StopRequest()) if result is not None]


def weights_of(trainer: Trainer) -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in trainer.learner.model.state_dict().values()])


class Said(Console):
    """Keeps what is said."""

    lines: list[str] = []

    def say(self, *lines: str) -> None:
        self.lines.extend(lines)


@pytest.fixture
def said(monkeypatch):
    monkeypatch.setattr(Said, "lines", [])
    return Said(quiet=True)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_loss_falls_and_scores_are_those_of_the_model(data, precision):
    results = run(trainer := trainer_for(data, epochs=20, precision=precision, augment="none"))
    assert results[-1].train_loss < 0.6 * results[0].train_loss
    assert results[-1].step == 40
    with trainer.learner.average.swapped_in(trainer.learner.model):
        scores = trainer.validate()
    assert (results[-1].val_dice, results[-1].val_iou) == (scores["dice"], scores["iou"])
    best = [result for result in results if result.is_best][-1]
    assert best.score == max(result.score for result in results if result.score is not None)


def test_the_same_seed_gives_the_same_weights(data):
    weights = []
    for seed in (3, 3, 4):
        run(trainer := trainer_for(data, seed=seed))
        weights.append(weights_of(trainer))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_run_without_time_still_takes_a_step_and_validates(data):
    results = run(trainer_for(data, seconds=0.001))
    assert [(result.epoch, result.step) for result in results] == [(1, 1)]
    assert results[0].val_dice is not None


def test_a_run_whose_time_is_up_after_an_epoch_that_was_not_judged_judges_it(data, monkeypatch):
    trainer = trainer_for(data, seconds=1000)
    trainer.plan = Plan(validate_every=100)
    allowed = iter([True] * 5 + [False] * 100)  # two steps and the question after them, then nothing any more
    monkeypatch.setattr(Budget, "allows_step", lambda *_: next(allowed))
    results = run(trainer)
    assert [(row.epoch, row.averaged) for row in results] == [(1, False), (1, True)]
    assert results[-1].val_dice is not None
    assert results[-1].is_best
    assert len(trainer.progress.rows) == 1


def test_epochs_between_validations_have_no_scores(data):
    trainer = trainer_for(data, epochs=5)
    trainer.plan = Plan(validate_every=3)
    results = run(trainer)
    assert [row.val_dice is not None for row in results] == [False, False, True, False, True]
    assert not any(row.is_best for row in results if row.val_dice is None)


def test_samples_grow_as_planned(data):
    trainer = trainer_for(data, epochs=4)
    sizes = [(40, 40)] * len(trainer.train_data.pairs)
    trainer.plan = Plan(sides=(16, 32), until=(0.5, 1.0))
    trainer.cut = lambda side: Crops(sizes, side, 0.0, 0, stretched=32)
    seen = []
    learn = trainer.learner.learn
    trainer.learner.learn = lambda image, mask, *rest: seen.append(image.shape[-1]) or learn(image, mask, *rest)
    results = run(trainer)
    assert seen == [16] * 16 + [32] * 4
    assert [row.step for row in results] == [8, 16, 18, 20]


def batch_of(trainer: Trainer):
    (batch,) = trainer.train_data.batches([0, 1], 2)
    return batch


def test_upright_images_are_seen_as_they_are_or_mirrored(data):
    trainer = trainer_for(data, augment="light")
    trainer.train_data.preprocessing = replace(trainer.train_data.preprocessing, orientation="upright")
    batch = batch_of(trainer)
    seen = []
    for epoch in range(1, 9):
        _, masks = trainer.network_input(batch, epoch)
        for mask, seen_mask in zip(batch.mask, masks, strict=True):
            (way,) = [way for way, one in enumerate((mask, mask.flip(-1))) if torch.equal(one, seen_mask)]
            seen.append(way)
    assert set(seen) == {0, 1}


def test_a_loss_that_is_not_finite_changes_nothing(data):
    trainer = trainer_for(data)
    before, averaged = weights_of(trainer), trainer.learner.state()["average"]["head.weight"].clone()
    trainer.learner.loss = NotFinite()
    image, mask = trainer.network_input(batch_of(trainer), epoch=1)
    assert math.isnan(trainer.learner.learn(image, mask, 2, lr=0.1))
    assert torch.equal(weights_of(trainer), before)
    assert torch.equal(trainer.learner.state()["average"]["head.weight"], averaged)


class NotFinite:
    """A loss that is infinite."""

    whole = loss_for("bce+dice", 2).whole

    def __call__(self, logits, mask, whole=None):
        return logits.mean() * math.inf

    def deep(self, heads, weights, mask, whole):
        return self(heads[0], mask)


def test_activations_that_are_not_finite_leave_no_trace_in_the_running_statistics(data):
    trainer = trainer_for(data)
    before = weights_of(trainer)
    image, mask = trainer.network_input(batch_of(trainer), epoch=1)
    assert math.isnan(trainer.learner.learn(image * math.nan, mask, 2, lr=0.1))
    assert torch.equal(weights_of(trainer), before)


def test_ten_such_steps_in_a_row_end_the_run_with_a_reason(data, said):
    trainer = trainer_for(data, epochs=6)
    trainer.console = said
    trainer.learner.loss = NotFinite()
    with pytest.raises(UserError, match="10 steps in a row.*lower --lr than 0.01"):
        run(trainer)
    assert sum("is not finite, so the step is skipped; images: " in line for line in said.lines) == 10
    trainer = trainer_for(data, epochs=6)
    trainer.learner.loss, trainer.learner.compute = NotFinite(), replace(trainer.learner.compute, precision="float16")
    trainer.learner._through = lambda network, image: [network(image)]
    with pytest.raises(UserError, match="too large for float16: try --precision bf16"):
        run(trainer)


def test_a_short_run_in_which_nothing_was_learned_is_no_success(data):
    trainer = trainer_for(data, epochs=1)
    trainer.learner.loss = NotFinite()
    with pytest.raises(UserError, match="not finite in any step"):
        run(trainer)


def test_an_image_that_holds_no_numbers_is_named(data, said):
    trainer = trainer_for(data, epochs=20, augment="none")
    trainer.console = said
    to_device, bad = trainer.to_device, trainer.train_data.pairs[1].image

    def spoiled(batch):
        image, mask = to_device(batch)
        for index, one in zip(batch.indices, image, strict=True):
            if trainer.train_data.pair_of(index).image == bad:
                one[0, 0, 0] = math.nan
        return image, mask

    trainer.to_device = spoiled
    results = run(trainer)
    assert [result.skipped for result in results] == [1] * 20
    assert all(math.isfinite(result.train_loss) for result in results)
    assert [line for line in said.lines if "skipped" in line][0].endswith(f"so the step is skipped; images: {bad}")


def test_a_stop_ends_the_run_after_the_step_at_hand(data):
    trainer, stop = trainer_for(data, epochs=50), StopRequest()
    moments = trainer.fit(stop)
    next(moments)
    stop.signum = 15
    assert list(moments) == []
    assert (trainer.learner.step, trainer.progress.epoch, trainer.progress.seen) == (1, 1, 2)


@pytest.mark.parametrize("after", [1, 2, 3, 5])
def test_a_run_goes_on_from_its_state_as_if_nothing_had_been(data, after):
    whole = trainer_for(data, epochs=3)
    rows = run(whole)
    first = trainer_for(data, epochs=3)
    for _, _ in zip(range(after), first.fit(StopRequest()), strict=False):
        pass
    state, weights = first.state(), {key: value.clone() for key, value in first.learner.model.state_dict().items()}
    second = trainer_for(data, epochs=3, seed=0)
    second.learner.model.load_state_dict(weights)
    second.learner.load_state(state["learner"])
    second.progress = Progress.from_plain(state["progress"])
    run(second)
    assert torch.equal(weights_of(second), weights_of(whole))
    assert [replace(row, seconds=0) for row in second.progress.rows] == [replace(row, seconds=0) for row in rows]


def test_a_run_goes_on_with_the_weight_decay_that_is_asked_for_now(data):
    run(first := trainer_for(data, weight_decay=0.0))
    second = trainer_for(data, weight_decay=0.3)
    second.learner.load_state(first.state()["learner"])
    assert [group["weight_decay"] for group in second.learner.optimizer.param_groups] == [0.3, 0.0]


def test_what_is_torn_is_known(data, monkeypatch):
    trainer = trainer_for(data)
    assert trainer.is_whole
    steps = trainer.fit(StopRequest())
    next(steps)
    assert trainer.is_whole
    with trainer.learner.average.swapped_in(trainer.learner.model):
        assert not trainer.is_whole
    monkeypatch.setattr(type(trainer.learner.average), "update", lambda *_: 1 / 0)  # within the end of a step
    with pytest.raises(ZeroDivisionError):
        next(steps)
    assert not trainer.is_whole


def test_patience_ends_the_run_when_nothing_improves(data, said):
    trainer = trainer_for(data, epochs=50, patience=3)
    trainer.console, scores = said, iter([0.5, 0.6, 0.6, 0.4, 0.6, 0.9])
    trainer.validate = lambda stop: {"loss": 1.0, "dice": 0.9, "set_dice": scores_now[0], "iou": 0.5, "foreground": 0.1}
    scores_now = [next(scores)]
    seen = []
    for result in trainer.fit(StopRequest()):
        if result is not None:
            seen.append(result.val_set_dice)
            scores_now[0] = next(scores)
    assert seen == [0.5, 0.6, 0.6, 0.4, 0.6]
    assert "hasn't improved for 3 epochs" in said.lines[-1]


def test_a_network_that_predicts_nothing_is_not_kept_for_its_empty_masks(data):
    trainer = trainer_for(data, epochs=3)
    judged = iter([(0.71, 0.0), (0.6, 0.3), (0.65, 0.2)])  # Dice and set Dice where most masks are empty
    trainer.validate = lambda stop: (
        {"loss": 1.0, "iou": 0.5, "foreground": 0.1} | dict(zip(("dice", "set_dice"), next(judged), strict=True))
    )
    assert [result.is_best for result in run(trainer)] == [True, True, False]


def test_the_best_weights_of_an_older_run_are_scored_again(data):
    run(trainer := trainer_for(data))
    best = {name: value.clone() for name, value in trainer.learner.model.state_dict().items()}
    expected = trainer.validate()["set_dice"]
    older = [replace(row, val_set_dice=None, is_best=row.epoch == 1) for row in trainer.progress.rows]
    again = trainer_for(data)
    again.go_on_from(replace(trainer.progress, rows=older))
    assert again.progress.lacks_score
    before = weights_of(again)
    again.rescore_best(best)
    assert not again.progress.lacks_score
    assert again.progress.best == expected
    assert torch.equal(weights_of(again), before)


def test_scores_of_a_loss_that_is_not_finite_are_not_called_the_best(data):
    trainer = trainer_for(data)
    trainer.validate = lambda stop: {"loss": math.nan, "dice": 1.0, "set_dice": 1.0, "iou": 1.0}
    assert [result.is_best for result in run(trainer)] == [False, False]


@pytest.mark.parametrize(("share", "only"), [(0.0, "background"), (1.0, "foreground")])
def test_nothing_but_one_class_is_called_out_once(data, said, monkeypatch, share, only):
    monkeypatch.setattr("unet_cli.training.diagnostics.BLANK_STEPS", 9)
    trainer = trainer_for(data, epochs=8)
    trainer.console = said
    trainer.validate = lambda stop: {"loss": 1.0, "dice": 0.4, "set_dice": 0.4, "iou": 0.3, "foreground": share}
    run(trainer)
    called = [line for line in said.lines if f"nothing but {only} for 3 epochs" in line]
    assert len(called) == 1
    assert ("--class-weights auto" in called[0]) == (only == "background")
    assert ("masks are inverted" in called[0]) == (only == "foreground")


def test_a_loader_that_sets_the_pace_is_named_with_two_figures(data, said, monkeypatch):
    trainer = trainer_for(data, epochs=3)
    trainer.console = said
    monkeypatch.setattr("unet_cli.training.loop.Pace.spent", lambda pace, stage: 0.75 * pace.seconds)
    monkeypatch.setattr("unet_cli.training.loop.Pace.seconds", 2.0)
    run(trainer)
    assert [line[:69] for line in said.lines if "sets the pace" in line] == [
        "Reading sets the pace: 2 images a second come from the disk, and the C"[:69]
    ]
    assert [line for line in said.lines if "could train on 8" in line]


def test_memory_that_runs_out_is_met_with_smaller_parts_then_checkpointing(data, said):
    trainer = trainer_for(data, epochs=2, norm="group")
    whole = trainer_for(data, epochs=2, norm="group")
    trainer.learner.console = said
    through, failures = trainer.learner._through, iter([True, True])

    def fail_twice(network, image):
        if next(failures, False):
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return through(network, image)

    trainer.learner._through = fail_twice
    rows = run(trainer)
    assert trainer.learner.at_once == 1
    assert trainer.learner.state()["gradient_checkpointing"]
    assert "with 2 images at once: going on with 1 at once" in said.lines[0]
    assert "--gradient-checkpointing" in said.lines[1]
    assert [row.step for row in rows] == [2, 4]
    run(whole)
    assert torch.allclose(weights_of(trainer), weights_of(whole), atol=2e-4)


def test_memory_that_is_never_enough_is_said(data):
    trainer = trainer_for(data)

    def fail(network, image):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    trainer.learner._through = fail
    with pytest.raises(UserError, match="doesn't suffice for one image.*smaller --size"):
        run(trainer)


def test_other_errors_are_no_lack_of_memory(data):
    trainer = trainer_for(data)

    def fail(network, image):
        raise RuntimeError("shapes differ")

    trainer.learner._through = fail
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(trainer)


def test_crops_train_and_a_grid_validates_every_pixel_once(tmp_path):
    trainer = trainer_for(write_pairs(tmp_path / "d", count=6, side=70), epochs=2, mode="tile")
    assert len(trainer.train_data) > len(trainer.train_data.pairs)
    assert trainer.network_input(batch_of(trainer), epoch=1)[0].shape == (2, 3, 32, 32)
    assert run(trainer)[-1].val_dice is not None
    counted = []
    trainer.learner.logits = lambda image: image[:, :1] * 0 + 1  # all foreground
    scores = trainer.validate()
    pixels = sum(height * width for height, width in trainer.val_data.cutting.sizes)
    counted = sum(int((trainer.val_data[index][1] != 255).sum()) for index in range(len(trainer.val_data)))
    assert counted == pixels
    assert scores["foreground"] == 1.0


def test_an_epoch_without_time_for_a_step_is_not_logged(data):
    trainer = trainer_for(data, seconds=60)
    allowed = iter([True] * 4 + [False] * 10)  # two steps of the first epoch, and then a second one would begin
    trainer.budget.allows_step = lambda done: next(allowed)
    assert [(result.epoch, result.step) for result in run(trainer)] == [(1, 2)]


def test_validation_smaller_than_a_batch_and_none_at_all(tmp_path):
    data = write_pairs(tmp_path / "d", count=3)
    trainer = trainer_for(data)
    assert len(trainer.val_data) == 1
    assert run(trainer)[-1].val_dice is not None
    trainer = trainer_for(data)
    trainer.val_data = SegmentationDataset([], trainer.train_data.preprocessing, trainer.train_data.labels)
    assert [(result.val_dice, result.is_best) for result in run(trainer)] == [(None, True)] * 2
