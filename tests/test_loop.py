"""Training itself: it learns, it is the same twice, and nothing that isn't finite is stepped on or saved."""

import math
import time
from dataclasses import replace

import pytest
import torch
from conftest import write_pairs
from test_card import card_of

from unet_cli.config import ModelConfig, TrainConfig
from unet_cli.console import Console
from unet_cli.data.dataset import SegmentationDataset
from unet_cli.device import Compute
from unet_cli.errors import Stopped, UserError
from unet_cli.models import build_model
from unet_cli.signals import StopRequest
from unet_cli.training.loop import EpochResult, Trainer, to_classes
from unet_cli.training.schedule import Budget

QUIET = Console(quiet=True)


def trainer_for(data, epochs: int = 2, seconds: float | None = None, precision: str = "float32", **settings) -> Trainer:
    config = TrainConfig(data=data, size=32, depth=2, lr=1e-2, workers=2, **settings)
    card = card_of(data)
    pairs = card.pairs("train")
    held = max(1, len(pairs) // 3)
    train, val = pairs[held:], pairs[:held]
    preprocessing = card.preprocessing(train, config.size)
    torch.manual_seed(config.seed)
    model = build_model(ModelConfig(base_channels=4, depth=2))
    start = time.monotonic()
    end = None if seconds is None else start + seconds
    return Trainer(
        model,
        SegmentationDataset(train, preprocessing, card.labels),
        SegmentationDataset(val, preprocessing, card.labels),
        config,
        batch_size=2,
        compute=Compute(torch.device("cpu"), precision),
        budget=Budget(None if seconds else epochs, steps_per_epoch=-(-len(train) // 2), start=start, end=end),
        console=QUIET,
    )


def run(trainer: Trainer) -> list[EpochResult]:
    return list(trainer.fit(StopRequest()))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_loss_falls_and_scores_are_those_of_the_model(data, precision):
    results = run(trainer := trainer_for(data, epochs=20, precision=precision, augment="none"))
    assert results[-1].train_loss < 0.6 * results[0].train_loss
    assert results[-1].step == 40
    scores = trainer.validate()
    assert (results[-1].val_dice, results[-1].val_iou) == (scores["dice"], scores["iou"])
    best = [result for result in results if result.is_best][-1]
    assert best.val_dice == max(result.val_dice for result in results if result.val_dice is not None)


def test_the_same_seed_gives_the_same_weights(data):
    weights = []
    for seed in (3, 3, 4):
        run(trainer := trainer_for(data, seed=seed))
        weights.append(torch.cat([value.flatten().float() for value in trainer.model.state_dict().values()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_run_without_time_still_takes_a_step_and_validates(data):
    results = run(trainer_for(data, seconds=0.001))
    assert [(result.epoch, result.step) for result in results] == [(1, 1)]
    assert results[0].val_dice is not None


def test_a_loss_that_is_not_finite_is_not_stepped_on(data):
    trainer = trainer_for(data)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.loss = lambda logits, mask: logits.mean() * math.nan
    for batch in trainer.train_data.batches([0, 1], 2):
        assert math.isnan(trainer.train_one_step(batch, epoch=1))
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.named_parameters())


def test_activations_that_are_not_finite_leave_no_trace_in_the_running_statistics(data):
    trainer = trainer_for(data)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train_data.preprocessing = replace(trainer.train_data.preprocessing, mean=(math.nan,) * 3)
    for batch in trainer.train_data.batches([0, 1], 2):
        trainer.train_one_step(batch, epoch=1)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def test_ten_such_steps_in_a_row_end_the_run_with_a_reason(data):
    trainer = trainer_for(data, epochs=6)
    trainer.loss = lambda logits, mask: logits.mean() * math.inf
    with pytest.raises(UserError, match="10 steps in a row.*lower --lr"):
        run(trainer)


def test_a_stop_ends_the_epoch_logs_it_and_leaves(data):
    trainer, stop = trainer_for(data, epochs=50), StopRequest()
    epochs = trainer.fit(stop)
    assert [next(epochs).epoch, next(epochs).epoch] == [1, 2]
    stop.signum = 15
    with pytest.raises(Stopped):
        next(epochs)


def test_a_stop_before_the_first_step_leaves_nothing_to_save(data):
    trainer, stop = trainer_for(data), StopRequest()
    stop.signum = 2
    with pytest.raises(Stopped):
        next(trainer.fit(stop))


def test_weights_that_a_stop_left_unvalidated_are_not_called_the_best(data):
    trainer, stop = trainer_for(data), StopRequest()
    step = trainer.train_one_step

    def step_and_stop(*arguments):
        stop.signum = 15
        return step(*arguments)

    trainer.train_one_step = step_and_stop
    result = next(trainer.fit(stop))
    assert (result.step, result.val_dice, result.is_best) == (1, None, False)


def test_scores_of_a_loss_that_is_not_finite_are_not_called_the_best(data):
    trainer = trainer_for(data)
    trainer.validate = lambda: {"loss": math.nan, "dice": 1.0, "iou": 1.0}
    assert [result.is_best for result in trainer.fit(StopRequest())] == [False, False]


def test_classes_from_logits():
    assert to_classes(torch.tensor([[[[-0.1, 0.1]]]])).tolist() == [[[0, 1]]]
    assert to_classes(torch.tensor([[[[3.0]], [[1.0]], [[4.0]]]])).tolist() == [[[2]]]


def test_an_epoch_without_time_for_a_step_is_not_logged(data):
    trainer = trainer_for(data, seconds=60)
    allowed = iter([True, True, True] + [False] * 10)  # two steps of the first epoch, and then a second one begins
    trainer.budget.allows_step = lambda step: next(allowed)
    assert [(result.epoch, result.step) for result in run(trainer)] == [(1, 2)]


def test_validation_smaller_than_a_batch_and_none_at_all(tmp_path):
    data = write_pairs(tmp_path / "d", count=3)
    trainer = trainer_for(data)
    assert len(trainer.val_data) == 1
    assert run(trainer)[-1].val_dice is not None
    trainer = trainer_for(data)
    trainer.val_data = SegmentationDataset([], trainer.train_data.preprocessing, trainer.train_data.labels)
    assert [(result.val_dice, result.is_best) for result in run(trainer)] == [(None, True)] * 2
