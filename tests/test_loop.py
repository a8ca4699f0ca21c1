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
from unet_cli.data.check.normalization import preprocessing_of
from unet_cli.data.samples.augment import augmentation_of
from unet_cli.data.samples.cutting import Crops, Grid
from unet_cli.data.samples.dataset import SegmentationDataset
from unet_cli.errors import UserError
from unet_cli.models import build_model
from unet_cli.runs.prepare import rescore_best
from unet_cli.runs.train import fit
from unet_cli.system.console import Console
from unet_cli.system.device import Compute
from unet_cli.system.distributed import World
from unet_cli.system.signals import StopRequest
from unet_cli.training.budget import Budget
from unet_cli.training.course import Course
from unet_cli.training.loader import TrainLoader
from unet_cli.training.losses.loss import loss_for
from unet_cli.training.plan import Plan
from unet_cli.training.progress import EpochPrinter, EpochResult, Progress
from unet_cli.training.run import Run
from unet_cli.training.schedule import cooldown_epochs
from unet_cli.training.step import Learner
from unet_cli.training.validation import validate

QUIET = Console(quiet=True)


def run_for(data, epochs: int = 2, seconds: float | None = None, precision: str = "float32", **settings) -> Run:
    settings = {"size": 32, "depth": 2, "lr": 1e-2, "workers": 2, "mode": "resize", **settings}
    config = TrainConfig(data=data, **settings)
    card = card_of(data)
    pairs = card.pairs("train")
    held = max(1, len(pairs) // 3)
    train, val = pairs[held:], pairs[:held]
    preprocessing = preprocessing_of(card, train, config.size, mode=config.mode)
    cuttings = [None, None]
    if config.mode == "tile":
        cuttings = [
            Crops(card.sizes(train), (config.size, config.size), 0.5, 0, (48, 48)),
            Grid(card.sizes(val), (config.size, config.size)),
        ]
    torch.manual_seed(config.seed)
    model = build_model(ModelConfig(base_channels=4, depth=2, norm=config.norm or "batch"))
    start = time.monotonic()
    end = None if seconds is None else start + seconds
    compute, world = Compute(torch.device("cpu"), precision), World()
    learner = Learner(model, loss_for(config.loss, 2), config, compute, world, QUIET, micro_batch=2)
    train_data = SegmentationDataset(train, preprocessing, card.labels, cuttings[0])
    val_data = SegmentationDataset(val, preprocessing, card.labels, cuttings[1])
    augmentation = augmentation_of(config.augment, preprocessing.orientation)
    plan = Plan()
    budget = Budget(None if seconds else epochs, steps_per_epoch=-(-len(train) // 2), start=start, end=end)
    return Run(
        learner,
        TrainLoader(train_data, plan, augmentation, 2, config.seed, compute.device, workers=2),
        val_data,
        Course(plan, budget, "cosine", learner.lr, config.size, len(train_data), len(val_data), 2, config.patience),
    )


def with_plan(run: Run, plan: Plan) -> Run:
    """The same run with another plan."""
    run.course.plan = run.loader.plan = plan
    return run


def trained(run: Run) -> list[EpochResult]:
    """The rows of its log after training."""
    fit(run, StopRequest())
    return run.course.progress.rows


def stopped_after(run: Run, steps: int) -> Run:
    """The run, trained until a stop was asked for in the step of this number."""
    stop, learn = StopRequest(), run.learner.train_step

    def learn_and_stop(*batch):
        loss = learn(*batch)
        stop.signum = 15 if run.learner.step == steps else None
        return loss

    run.learner.train_step = learn_and_stop
    fit(run, stop)
    run.learner.train_step = learn
    return run


def scores_of(run: Run) -> dict[str, float]:
    return validate(run.learner, run.val_data, run.loader.batch_size)


def weights_of(run: Run) -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in run.learner.model.state_dict().values()])


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
    results = trained(run := run_for(data, epochs=20, precision=precision, augment="none"))
    assert results[-1].train_loss < 0.6 * results[0].train_loss
    assert results[-1].step == 40
    with run.learner.average.swapped_in(run.learner.model):
        scores = scores_of(run)
    assert (results[-1].val_dice, results[-1].val_iou) == (scores["dice"], scores["iou"])
    best = [result for result in results if result.is_best][-1]
    assert best.score == max(result.score for result in results if result.score is not None)


def test_the_same_seed_gives_the_same_weights(data):
    weights = []
    for seed in (3, 3, 4):
        trained(run := run_for(data, seed=seed))
        weights.append(weights_of(run))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_run_without_time_still_takes_a_step_and_validates(data):
    results = trained(run_for(data, seconds=0.001))
    assert [(result.epoch, result.step) for result in results] == [(1, 1)]
    assert results[0].val_dice is not None


def test_a_run_whose_time_is_up_after_an_epoch_that_was_not_judged_judges_it(data, monkeypatch):
    run = with_plan(run_for(data, seconds=1000), Plan(validate_every=100))
    logged = []
    monkeypatch.setattr(EpochPrinter, "add", lambda log, row: logged.append(row))
    allowed = iter([True] * 5 + [False] * 100)  # two steps and the question after them, then nothing any more
    monkeypatch.setattr(Budget, "allows_step", lambda *_: next(allowed))
    results = trained(run)
    assert [(row.epoch, row.averaged) for row in logged] == [(1, False), (1, True)]
    assert results == logged[-1:]
    assert results[-1].val_dice is not None
    assert results[-1].is_best


def test_epochs_between_validations_have_no_scores(data):
    results = trained(with_plan(run_for(data, epochs=5), Plan(validate_every=3)))
    assert [row.val_dice is not None for row in results] == [False, False, True, False, True]
    assert not any(row.is_best for row in results if row.val_dice is None)


def test_samples_grow_as_planned(data):
    run = with_plan(run_for(data, epochs=4), Plan(sides=(16, 32), until=(0.5, 1.0)))
    sizes = [(40, 40)] * len(run.loader.data.pairs)
    run.loader.cut = lambda side: Crops(sizes, (side, side), 0.0, 0, stretched=32)
    seen = []
    learn = run.learner.train_step
    run.learner.train_step = lambda image, mask, *rest: seen.append(image.shape[-1]) or learn(image, mask, *rest)
    results = trained(run)
    assert seen == [16] * 16 + [32] * 4
    assert [row.step for row in results] == [8, 16, 18, 20]


def batch_of(run: Run):
    (batch,) = run.loader.data.batches([0, 1], 2)
    return batch


def test_upright_images_are_seen_as_they_are_or_mirrored(data):
    run = run_for(data, augment="light")
    run.loader.augmentation = augmentation_of("light", "upright")
    batch = batch_of(run)
    seen = []
    for epoch in range(1, 9):
        _, masks = run.loader.network_input(batch, epoch)
        for mask, seen_mask in zip(batch.mask, masks, strict=True):
            (way,) = [way for way, one in enumerate((mask, mask.flip(-1))) if torch.equal(one, seen_mask)]
            seen.append(way)
    assert set(seen) == {0, 1}


def test_a_loss_that_is_not_finite_changes_nothing(data):
    run = run_for(data)
    before, averaged = weights_of(run), run.learner.state()["average"]["head.weight"].clone()
    run.learner.loss = NotFinite()
    image, mask = run.loader.network_input(batch_of(run), epoch=1)
    assert math.isnan(run.learner.train_step(image, mask, 2, lr=0.1))
    assert torch.equal(weights_of(run), before)
    assert torch.equal(run.learner.state()["average"]["head.weight"], averaged)


class NotFinite:
    """A loss that is infinite."""

    denominators = loss_for("bce+dice", 2).denominators

    def __call__(self, logits, mask, denominators=None):
        return logits.mean() * math.inf

    def deep(self, heads, weights, mask, whole):
        return self(heads[0], mask)


def test_activations_that_are_not_finite_leave_no_trace_in_the_running_statistics(data):
    run = run_for(data)
    before = weights_of(run)
    image, mask = run.loader.network_input(batch_of(run), epoch=1)
    assert math.isnan(run.learner.train_step(image * math.nan, mask, 2, lr=0.1))
    assert torch.equal(weights_of(run), before)


def test_ten_such_steps_in_a_row_end_the_run_with_a_reason(data, said):
    run = run_for(data, epochs=6)
    run.learner.console = said
    run.learner.loss = NotFinite()
    with pytest.raises(UserError, match="10 steps in a row.*lower --lr than 0.01"):
        trained(run)
    assert sum("is not finite, so the step is skipped; images: " in line for line in said.lines) == 10
    run = run_for(data, epochs=6)
    run.learner.loss, run.learner.compute = NotFinite(), replace(run.learner.compute, precision="float16")
    run.learner._logits_of = lambda network, image: [network(image)]
    with pytest.raises(UserError, match="too large for float16: try --precision bf16"):
        trained(run)


def test_a_short_run_in_which_nothing_was_learned_is_no_success(data):
    run = run_for(data, epochs=1)
    run.learner.loss = NotFinite()
    with pytest.raises(UserError, match="not finite in any step"):
        trained(run)


def test_an_image_that_holds_no_numbers_is_named(data, said):
    run = run_for(data, epochs=20, augment="none")
    run.learner.console = said
    network_input, bad = run.loader.network_input, run.loader.data.pairs[1].image

    def spoiled(batch, epoch):
        image, mask = network_input(batch, epoch)
        for index, one in zip(batch.indices, image, strict=True):
            if run.loader.data.pair_of(index).image == bad:
                one[0, 0, 0] = math.nan
        return image, mask

    run.loader.network_input = spoiled
    results = trained(run)
    assert [result.skipped for result in results] == [1] * 20
    assert all(math.isfinite(result.train_loss) for result in results)
    assert [line for line in said.lines if "skipped" in line][0].endswith(f"so the step is skipped; images: {bad}")


def test_a_stop_ends_the_run_after_the_step_at_hand(data):
    run = stopped_after(run_for(data, epochs=50), steps=1)
    assert (run.learner.step, run.course.progress.epoch, run.course.progress.seen) == (1, 1, 2)


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_run_goes_on_from_its_state_as_if_nothing_had_been(data, after):
    whole = run_for(data, epochs=3)
    rows = trained(whole)
    first = stopped_after(run_for(data, epochs=3), after)
    state, weights = first.state(), {key: value.clone() for key, value in first.learner.model.state_dict().items()}
    second = run_for(data, epochs=3, seed=0)
    second.learner.model.load_state_dict(weights)
    second.learner.load_state(state["learner"])
    second.course.resume_from(Progress.from_plain(state["progress"]), second.learner.step)
    again = trained(second)
    assert torch.equal(weights_of(second), weights_of(whole))
    assert [replace(row, seconds=0) for row in again] == [replace(row, seconds=0) for row in rows]


def test_a_resumed_run_ends_with_the_cool_down_that_had_begun(data):
    run = with_plan(run_for(data), Plan(is_open=True))
    run.course.resume_from(Progress(epoch=12, cooling=10))
    assert run.course.budget.epochs == 10 + cooldown_epochs(10)


def test_a_run_goes_on_with_the_weight_decay_that_is_asked_for_now(data):
    trained(first := run_for(data, weight_decay=0.0))
    second = run_for(data, weight_decay=0.3)
    second.learner.load_state(first.state()["learner"])
    assert [group["weight_decay"] for group in second.learner.optimizer.param_groups] == [0.3, 0.0]


def test_what_is_torn_is_known(data, monkeypatch):
    run = run_for(data)
    assert run.is_consistent
    stopped_after(run, steps=1)
    assert run.is_consistent
    with run.learner.average.swapped_in(run.learner.model):
        assert not run.is_consistent
    monkeypatch.setattr(type(run.learner.average), "update", lambda *_: 1 / 0)  # within the end of a step
    with pytest.raises(ZeroDivisionError):
        trained(run)
    assert not run.is_consistent


def judged(monkeypatch, *scores):
    """Let validation find these, one after the other, and the last ones again and again."""
    left = list(scores)
    found = {"loss": 1.0, "dice": 0.9, "set_dice": 0.5, "iou": 0.5, "foreground": 0.1}
    monkeypatch.setattr(
        "unet_cli.training.validation.validate",
        lambda *_: found | (left.pop(0) if len(left) > 1 else left[0]),
    )


def test_patience_ends_the_run_when_nothing_improves(data, said, monkeypatch):
    run = run_for(data, epochs=50, patience=3)
    run.learner.console = said
    judged(monkeypatch, *({"set_dice": score} for score in (0.5, 0.6, 0.6, 0.4, 0.6, 0.9)))
    assert [row.val_set_dice for row in trained(run)] == [0.5, 0.6, 0.6, 0.4, 0.6]
    assert "hasn't improved for 3 epochs" in said.lines[-1]


def test_a_network_that_predicts_nothing_is_not_kept_for_its_empty_masks(data, monkeypatch):
    found = [(0.71, 0.0), (0.6, 0.3), (0.65, 0.2)]  # Dice and set Dice where most masks are empty
    judged(monkeypatch, *({"dice": dice, "set_dice": set_dice} for dice, set_dice in found))
    assert [result.is_best for result in trained(run_for(data, epochs=3))] == [True, True, False]


def test_the_best_weights_of_an_older_run_are_scored_again(data):
    trained(run := run_for(data))
    best = {name: value.clone() for name, value in run.learner.model.state_dict().items()}
    expected, progress = scores_of(run)["set_dice"], run.course.progress
    older = [replace(row, val_set_dice=None, is_best=row.epoch == 1) for row in progress.rows]
    again = run_for(data)
    again.course.resume_from(replace(progress, rows=older))
    assert again.course.progress.lacks_score
    before = weights_of(again)
    rescore_best(again, best)
    assert not again.course.progress.lacks_score
    assert again.course.progress.best == expected
    assert torch.equal(weights_of(again), before)


def test_scores_of_a_loss_that_is_not_finite_are_not_called_the_best(data, monkeypatch):
    judged(monkeypatch, {"loss": math.nan, "dice": 1.0, "set_dice": 1.0})
    assert [result.is_best for result in trained(run_for(data))] == [False, False]


@pytest.mark.parametrize(("share", "only"), [(0.0, "background"), (1.0, "foreground")])
def test_nothing_but_one_class_is_called_out_once(data, said, monkeypatch, share, only):
    monkeypatch.setattr("unet_cli.training.diagnostics.BLANK_STEPS", 9)
    run = run_for(data, epochs=8)
    run.learner.console = said
    judged(monkeypatch, {"dice": 0.4, "set_dice": 0.4, "foreground": share})
    trained(run)
    called = [line for line in said.lines if f"nothing but {only} for 3 epochs" in line]
    assert len(called) == 1
    assert ("--class-weights auto" in called[0]) == (only == "background")
    assert ("masks are inverted" in called[0]) == (only == "foreground")


def test_a_loader_that_sets_the_pace_is_named_with_two_figures(data, said, monkeypatch):
    run = run_for(data, epochs=3)
    run.learner.console = said
    monkeypatch.setattr("unet_cli.training.loop.StageTimes.spent", lambda pace, stage: 0.75 * pace.seconds)
    monkeypatch.setattr("unet_cli.training.loop.StageTimes.seconds", 2.0)
    trained(run)
    assert [line[:69] for line in said.lines if "is the bottleneck" in line] == [
        "Reading is the bottleneck: 2 images a second come from the disk, and the C"[:69]
    ]
    assert [line for line in said.lines if "could train on 8" in line]


def test_memory_that_runs_out_is_met_with_smaller_parts_then_checkpointing(data, said):
    run = run_for(data, epochs=2, norm="group")
    whole = run_for(data, epochs=2, norm="group")
    run.learner.console = said
    through, failures = run.learner._logits_of, iter([True, True])

    def fail_twice(network, image):
        if next(failures, False):
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return through(network, image)

    run.learner._logits_of = fail_twice
    rows = trained(run)
    assert run.learner.micro_batch == 1
    assert run.learner.state()["gradient_checkpointing"]
    assert "with 2 images at once: continuing with 1 at once" in said.lines[0]
    assert "--gradient-checkpointing" in said.lines[1]
    assert [row.step for row in rows] == [2, 4]
    trained(whole)
    assert torch.allclose(weights_of(run), weights_of(whole), atol=2e-4)


def test_memory_that_is_never_enough_is_said(data):
    run = run_for(data)

    def fail(network, image):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    run.learner._logits_of = fail
    with pytest.raises(UserError, match="not enough memory for one image.*smaller --size"):
        trained(run)


def test_other_errors_are_no_lack_of_memory(data):
    run = run_for(data)

    def fail(network, image):
        raise RuntimeError("shapes differ")

    run.learner._logits_of = fail
    with pytest.raises(RuntimeError, match="shapes differ"):
        trained(run)


def test_crops_train_and_a_grid_validates_every_pixel_once(tmp_path):
    run = run_for(write_pairs(tmp_path / "d", count=6, side=70), epochs=2, mode="tile")
    assert len(run.loader.data) > len(run.loader.data.pairs)
    assert run.loader.network_input(batch_of(run), epoch=1)[0].shape == (2, 3, 32, 32)
    assert trained(run)[-1].val_dice is not None
    counted = []
    run.learner.logits = lambda image: image[:, :1] * 0 + 1  # all foreground
    scores = scores_of(run)
    pixels = sum(height * width for height, width in run.val_data.cutting.sizes)
    counted = sum(int((run.val_data[index][1] != 255).sum()) for index in range(len(run.val_data)))
    assert counted == pixels
    assert scores["foreground"] == 1.0


def test_an_epoch_without_time_for_a_step_is_not_logged(data):
    run = run_for(data, seconds=60)
    allowed = iter([True] * 4 + [False] * 10)  # two steps of the first epoch, and then a second one would begin
    run.course.budget.allows_step = lambda done: next(allowed)
    assert [(result.epoch, result.step) for result in trained(run)] == [(1, 2)]


def test_validation_smaller_than_a_batch_and_none_at_all(tmp_path):
    data = write_pairs(tmp_path / "d", count=3)
    run = run_for(data)
    assert len(run.val_data) == 1
    assert trained(run)[-1].val_dice is not None
    run = run_for(data)
    run = replace(run, val_data=SegmentationDataset([], run.val_data.preprocessing, run.val_data.labels))
    assert [(result.val_dice, result.is_best) for result in trained(run)] == [(None, True)] * 2
