"""Training: one epoch, one validation, and the run that alternates them until the budget is spent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice, repeat
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from unet_cli.config.model import IGNORED
from unet_cli.config.training import TrainConfig
from unet_cli.data.objects import parted
from unet_cli.data.preprocess import normalize
from unet_cli.data.samples.augment import Augmentation, augment, augmentation_of
from unet_cli.data.samples.cutting import Cutting
from unet_cli.data.samples.dataset import Batch, SegmentationDataset, epoch_order
from unet_cli.data.samples.warp import middle
from unet_cli.data.source import spread
from unet_cli.errors import UserError
from unet_cli.metrics.overlap import count_pixels, summarize
from unet_cli.models.classes import to_classes
from unet_cli.system.console import Console, counted, duration
from unet_cli.system.distributed import World
from unet_cli.system.pace import Pace
from unet_cli.system.signals import StopRequest
from unet_cli.training.budget import Budget
from unet_cli.training.diagnostics import BadStep, describe_blank, is_blank, slow_loader
from unet_cli.training.plan import FORWARD, Plan
from unet_cli.training.progress import EpochResult, Progress
from unet_cli.training.schedule import cooldown_epochs, has_settled, lr_factor, open_progress
from unet_cli.training.statistics import STATISTICS_DRAWS, recompute_statistics
from unet_cli.training.step import Learner

MOST_BAD_STEPS = 10  # in a row, before the run is given up
STEPS_BEFORE_ESTIMATE = 3
LONG_EPOCH = 120.0  # seconds

SomeBatch = TypeVar("SomeBatch", Batch, Batch | None)


@dataclass
class Trainer:
    """What a run trains with, and where it is.

    batch_size: samples of a step, in each process. cut: the training samples of a side that the plan names.
    """

    learner: Learner
    train_data: SegmentationDataset
    val_data: SegmentationDataset
    config: TrainConfig
    batch_size: int
    budget: Budget
    world: World
    console: Console
    progress: Progress = field(default_factory=Progress)
    plan: Plan = field(default_factory=Plan)
    cut: Callable[[int], Cutting] | None = None

    def __post_init__(self) -> None:
        self._steps = 0  # of this process
        self._whole_step = 0
        self._validated = False
        self._told_of_loader = False

    @property
    def done(self) -> float:
        """Epochs that are behind, such as 2.5."""
        return self.progress.epoch - 1 + self.progress.seen / max(1, len(self._order()))

    @property
    def course(self) -> float:
        """How much of the run is behind, 0 to 1."""
        if self.plan.is_open:
            return open_progress(self.done, self.progress.cooling)
        return self.budget.progress(self.done)

    @property
    def strength(self) -> Augmentation | None:
        """Of the augmentation, when it has come to its full one."""
        return augmentation_of(self.config.augment, self.train_data.preprocessing.orientation)

    @property
    def is_whole(self) -> bool:
        """Whether weights, optimizer and progress belong together, as everywhere but within a step's end and while
        averaged weights are judged."""
        return self._whole_step == self.learner.step and not self.learner.average.is_swapped

    def go_on_from(self, progress: Progress) -> None:
        """Be where a run was interrupted."""
        self.progress = progress
        if self.plan.is_open and progress.cooling is not None:
            self.budget.epochs = progress.cooling + cooldown_epochs(progress.cooling)

    def rescore_best(self, weights: dict[str, Tensor]) -> None:
        """Validate the best weights so far, of a run that was begun when another score chose them."""
        model, rows = self.learner.model, self.progress.rows
        own = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(weights)
        scores = self.validate()
        model.load_state_dict(own)
        assert scores
        (place,) = [place for place, row in enumerate(rows) if row.is_best][-1:]
        rows[place] = replace(rows[place], val_set_dice=scores["set_dice"])

    def fit(self, stop: StopRequest) -> Iterator[EpochResult | None]:
        """Train until the budget is spent, or for --patience epochs in vain.

        Yields None after each step and an epoch's result at its end: moments at which everything can be saved. A stop
        that is asked for ends it after the step at hand. Raises UserError where training has diverged, or a file can't
        be read any more; what is saved then is what was good before.
        """
        progress, self._whole_step = self.progress, self.learner.step
        if progress.began is None:
            progress.began = time.monotonic() - self.budget.start
        self.budget.begin = self.budget.start + progress.began
        while progress.seen or self.may_go_on():
            self._begin_epoch()
            yield from self._train_epoch(stop)
            if self.world.any(stop.signum is not None):
                return
            if not progress.seen:  # the time was up
                break
            result = self._end_epoch(stop)
            if result is None:
                return
            finished = time.monotonic()
            yield result
            # Not every epoch saves, but the first one does, and the last.
            self.budget.saving_seconds = max(self.budget.saving_seconds, time.monotonic() - finished)
        if progress.rows and not progress.rows[-1].averaged:  # the time was up sooner than it had seemed
            scores = self._judge(stop)
            if scores is None:
                return
            progress.rows[-1] = self._scored(progress.rows[-1], scores)
            yield progress.rows[-1]
        if self.learner.step and self.learner.step == sum(row.skipped for row in progress.rows):
            raise UserError(
                "the loss was not finite in any step, so nothing was learned: try a lower --lr, other factors in "
                "--loss or --class-weights, or --precision float32"
            )
        if self.is_in_vain:
            waited = counted(progress.epochs_since_best, "epoch")
            self.console.say(f"The validation score hasn't improved for {waited} (--patience): the run ends here")

    def _begin_epoch(self) -> None:
        """Let the network see what the plan has for this epoch; one that was begun goes on with what it saw."""
        is_last = self.progress.epoch == self.budget.epochs  # which sees what prediction sees
        planned = self.plan.last_side if is_last else self.plan.side_at(self.course)
        before, side = self.train_data.side, self.progress.side or self.world.first(planned)
        self.progress.side = side
        if side is not None and side != before and self.cut is not None:
            self.train_data.cut_by(self.cut(side))
            self.budget.step_seconds *= (side / before) ** 2
        self.budget.steps_per_epoch = -(-len(self._order()) // (self.batch_size * self.world.count))

    def _train_epoch(self, stop: StopRequest) -> Iterator[None]:
        """The rest of an epoch, or what the budget leaves of it."""
        progress, pace = self.progress, Pace("the network")
        groups = self._groups()
        batches = self._batches(groups)
        images, start = 0, time.monotonic()
        timed = pace.waiting("reading", batches)
        for group, batch in zip(groups, self._shown(timed, len(groups), f"epoch {progress.epoch}"), strict=False):
            lr = self._next_lr()
            if lr is None or self.world.any(stop.signum is not None):
                break
            self._train_step(group, batch, lr)
            images += len(group)
            start, step_start = time.monotonic(), start  # waiting for the batch is part of a step's time
            self._time_step(start - step_start)
            yield None
            start = time.monotonic()  # saving is no part of it
        batches.close()
        self._watch(images, pace)

    def _train_step(self, group: list[int], batch: Batch, lr: float) -> None:
        progress = self.progress
        image, mask = self.network_input(batch, progress.epoch)
        here = len(self.world.share(group))
        if not here:  # the last batch of an epoch may have fewer samples than there are processes
            mask = torch.full_like(mask, IGNORED)
        loss = self.learner.learn(image, mask, here, lr)
        progress.seen += len(group)
        self._whole_step = self.learner.step
        if math.isnan(loss):
            self._count_bad_step(batch, image)
        else:
            progress.bad_steps = 0
            progress.loss_sum += loss * len(group)
            progress.loss_images += len(group)

    def _end_epoch(self, stop: StopRequest) -> EpochResult | None:
        """Validate the averaged weights where that is due, and close the epoch; None where a stop was asked for on the
        way."""
        progress = self.progress
        is_due = progress.epoch % self.plan.validate_every == 0 or self._next_lr() is None
        scores = self._judge(stop) if is_due else {}
        if scores is None:
            return None
        result = EpochResult(
            epoch=progress.epoch,
            step=self.learner.step,
            seconds=time.monotonic() - self.budget.start,
            lr=self.learner.optimizer.param_groups[0]["lr"],
            train_loss=progress.loss_sum / progress.loss_images if progress.loss_images else float("nan"),
            skipped=progress.skipped,
        )
        result = self._scored(result, scores) if is_due else result
        progress.end_epoch(result)
        self._cool_down_where_settled()
        if scores and is_blank(progress.rows) and not is_blank(progress.rows[:-1]):
            self.console.say(describe_blank(result, self.train_data.preprocessing.mode))
        return result

    def _scored(self, row: EpochResult, scores: dict[str, float]) -> EpochResult:
        """An epoch with the scores of its averaged weights; without any where there is no validation part."""
        return replace(
            row,
            val_loss=scores.get("loss"),
            val_dice=scores.get("dice"),
            val_set_dice=scores.get("set_dice"),
            val_iou=scores.get("iou"),
            val_mean_iou=scores.get("mean_iou"),
            val_foreground=scores.get("foreground"),
            averaged=True,
            is_best=not scores or _score(scores) > self.progress.best,
            val_classes={key.removeprefix("dice_"): value for key, value in scores.items() if key.startswith("dice_")},
        )

    @property
    def schedule(self) -> str:
        return self.config.schedule or ("cooldown" if self.plan.is_open else "cosine")

    def may_go_on(self) -> bool:
        """Whether the budget allows another step, and --patience another epoch; of all processes together."""
        return self._next_lr() is not None and not self.is_in_vain

    @property
    def is_in_vain(self) -> bool:
        """Whether --patience has come to its end."""
        return self.config.patience is not None and self.progress.epochs_since_best >= self.config.patience

    def _cool_down_where_settled(self) -> None:
        """Of a run without a fixed end, when it has stopped learning, or has gone on for long enough."""
        progress, most = self.progress, self.budget.epochs
        if not self.plan.is_open or progress.cooling is not None or most is None:
            return
        done = progress.epoch - 1
        if has_settled(progress.scores) or done + cooldown_epochs(done + 1) >= most:
            progress.cooling = done
            self.go_on_from(progress)
            length = counted(cooldown_epochs(done), "epoch")
            self.console.say(f"Learning has slowed down: the rate falls to zero over the last {length}")

    def _judge(self, stop: StopRequest) -> dict[str, float] | None:
        """See `validate`, of the averaged weights with batch norm's statistics of their own, which they keep."""
        start = time.monotonic()
        self.world.average_buffers(self.learner.model)
        with self.learner.average.swapped_in(self.learner.model):
            recompute_statistics(self.learner.model, self.learner.forward, self._statistics_batches(), self.world)
            scores = self.validate(stop)
        self.budget.validation_seconds, self._validated = time.monotonic() - start, True
        return scores

    def _statistics_batches(self) -> Iterator[Tensor]:
        """Normalised training samples as the network has seen them lately, but not augmented; evenly from all images,
        in batches of one size, as many in each process."""
        data, count = self.train_data, self.world.count
        as_large = max(1, round((data.preprocessing.size / data.side) ** 2))
        drawn = spread(range(len(data)), self.plan.statistics * as_large)
        np.random.default_rng((self.config.seed, STATISTICS_DRAWS)).shuffle(drawn)
        size = max(1, min(self.learner.at_once, len(drawn) // count))
        rounds = max(1, len(drawn) // (size * count))
        mine = [drawn[(number * count + self.world.rank) % len(drawn)] for number in range(rounds * size)]
        for batch in data.batches(mine, size, self.config.workers):
            yield middle(self.to_device(batch)[0], data.side + 2 * self.learner.context)

    def validate(self, stop: StopRequest | None = None) -> dict[str, float] | None:
        """Scores over the whole validation part at network size, of the weights that the network has; nothing where
        there is no such part, None where a stop was asked for on the way.

        Several processes share the samples; the counts of all are added up, so the scores are those of one process.
        """
        data = self.val_data
        if not len(data):
            return {}
        num_classes = data.labels.num_classes
        indices = range(self.world.rank, len(data), self.world.count)
        batches = data.batches(indices, self.batch_size, self.config.workers)
        rounds = -(-len(data) // (self.batch_size * self.world.count))  # in the last one some may have nothing
        counts = np.zeros((len(data.pairs), num_classes, 3), dtype=np.int64)
        loss = 0.0
        for batch in self._shown(islice(chain(batches, repeat(None)), rounds), rounds, "validating"):
            if self.world.any(stop is not None and stop.signum is not None):
                batches.close()
                return None
            if batch is None:
                continue
            image, mask = self.to_device(batch)
            mask = middle(mask, self.val_data.preprocessing.size)
            logits = self.learner.logits(image)
            # Of each alone, so that the mean doesn't depend on which are in a batch together.
            losses = [self.learner.loss(one[None], target[None]) for one, target in zip(logits, mask, strict=True)]
            loss += float(torch.stack(losses).sum())
            found = count_pixels(to_classes(logits), mask, num_classes).cpu().numpy()
            np.add.at(counts, [data.image_numbers[index] for index in batch.indices], found)
        everything = self.world.gathered((counts, loss))
        counts = np.sum([part for part, _ in everything], axis=0)
        return {
            "loss": sum(part for _, part in everything) / len(data),
            **({"foreground": _share_of_foreground(counts)} if data.labels.background else {}),
            **summarize(counts, data.labels.names, data.labels.scored.start),
        }

    def network_input(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """A batch as the network sees it in training: normalised and augmented (N, C, S, S) with the context of the
        learner beside it, and (N, S, S)."""
        image, mask = self.to_device(batch)
        size, strength = self.train_data.side, self.strength
        seen = size + 2 * self.learner.context
        if strength is None:
            return middle(image, seen), self._classes(middle(mask, size))
        keys = [(self.config.seed, epoch, index) for index in batch.indices]
        image, mask = augment(image, mask, strength.at(self.plan.passes(epoch)), keys, seen)
        return image, self._classes(middle(mask, size))

    def _classes(self, mask: Tensor) -> Tensor:
        """With background between touching objects, where they are numbered: drawn here, since a warp may lose a thin
        line."""
        return parted(mask) if self.train_data.numbered else mask

    def to_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Normalised (N, C, P, P), and (N, P, P)."""
        device = self.learner.compute.device
        image = batch.image.to(device, non_blocking=True)
        image = normalize(image, self.train_data.preprocessing, batch.intensities)
        return image, batch.mask.to(device, non_blocking=True)

    def state(self) -> dict[str, Any]:
        """What a resumed run needs beside the weights."""
        return {
            "learner": self.learner.state(),
            "progress": self.progress.plain(),
            "seconds": time.monotonic() - self.budget.start,
            "batch_size": self.batch_size,
            "plan": self.plan.plain(),
        }

    def _order(self) -> tuple[int, ...]:
        """The samples of this epoch."""
        return epoch_order(len(self.train_data), self.config.seed, self.progress.epoch, self.plan.parts)

    def _groups(self) -> list[list[int]]:
        """The samples of each step that is left of this epoch, over all processes."""
        progress, size = self.progress, self.batch_size * self.world.count
        order = list(self._order()[progress.seen :])
        return [order[start : start + size] for start in range(0, len(order), size)]

    def _batches(self, groups: list[list[int]]) -> Generator[Batch]:
        """This process's part of each group; where there is none, one sample for the shape of it."""
        order = [index for group in groups for index in self.world.share(group) or group[:1]]
        return self.train_data.batches(
            order, self.batch_size, self.config.workers, self.progress.epoch, self.learner.compute.device.type == "cuda"
        )

    def _shown(self, batches: Iterator[SomeBatch], steps: int, what: str) -> Iterator[SomeBatch]:
        return self.console.progress(batches, steps, what, "steps")

    def _next_lr(self) -> float | None:
        """The learning rate of the next step, None where the budget allows none. The first process decides for all."""
        lr = None
        if self.budget.allows_step(self.done):
            lr = self.learner.lr * lr_factor(self.schedule, self.course, self.progress.scores)
        return self.world.first(lr)

    def _count_bad_step(self, batch: Batch, image: Tensor) -> None:
        """Name the images of a step that was skipped; of ten in a row, raise UserError with the likely reason."""
        progress = self.progress
        progress.skipped, progress.bad_steps = progress.skipped + 1, progress.bad_steps + 1
        mine = [
            (str(self.train_data.pair_of(index).image), not bool(torch.isfinite(one).all()))
            for index, one in zip(batch.indices, image, strict=True)
        ]
        bad = BadStep(self.learner.step, [pair for part in self.world.gathered(mine) for pair in part])
        is_trying = self.learner.scaler.is_enabled() and progress.bad_steps == 1  # how far float16 reaches
        if bad.spoiled or not is_trying:
            self.console.say(bad.describe())
        if progress.bad_steps == MOST_BAD_STEPS:
            progress.bad_steps = 0  # of a run that goes on from here
            reason = bad.likely_reason(self.learner.compute.precision, self.learner.lr)
            raise UserError(f"the loss was not finite for {MOST_BAD_STEPS} steps in a row: {reason}")

    def _watch(self, images: int, pace: Pace) -> None:
        """Say, once, that reading sets the pace; not of an epoch that reads files for the first time."""
        is_first = self.progress.epoch == 1 and pace.seconds < LONG_EPOCH
        if self._told_of_loader or is_first or images < 2 * self.batch_size:
            return
        warning = slow_loader(images, pace.spent("reading"), pace.seconds, self.learner.compute.kind)
        if warning:
            self._told_of_loader = True
            self.console.say(warning)

    def _time_step(self, seconds: float) -> None:
        """Keep a running mean of a step's time, guess a validation's until one was timed, and say what to expect."""
        self._steps += 1
        budget = self.budget
        warming_up = self._steps <= 2  # the first step allocates memory and chooses algorithms
        budget.step_seconds = seconds if warming_up else 0.7 * budget.step_seconds + 0.3 * seconds
        if not self._validated:
            seen = len(self.val_data) + self.plan.statistics
            full = budget.step_seconds * (self.train_data.preprocessing.size / self.train_data.side) ** 2
            budget.validation_seconds = FORWARD * full * seen / self.batch_size / self.world.count
        if self._steps == STEPS_BEFORE_ESTIMATE:
            epoch = budget.steps_per_epoch * budget.step_seconds + budget.validation_seconds / self.plan.validate_every
            ends = (
                f"in {duration(budget.remaining(self.done))} at the latest"
                if self.plan.is_open
                else (f"in about {duration(budget.remaining(self.done))}")
            )
            self.console.say(
                f"One step takes {budget.step_seconds:.2g} s, an epoch {duration(epoch)}; the run ends {ends}."
            )


def _share_of_foreground(counts: np.ndarray) -> float:
    """(images, classes, 3) counts -> of all pixels, those that are predicted to be foreground."""
    return float(counts[:, 1:, :2].sum() / max(1, counts[:, :, [0, 2]].sum()))


def _score(scores: dict[str, float]) -> float:
    """What weights are compared by; the worst where their loss is not finite."""
    return scores["set_dice"] if scores and math.isfinite(scores["loss"]) else -1.0
