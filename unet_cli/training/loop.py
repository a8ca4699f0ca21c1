"""Training: one epoch, one validation, and the run that alternates them until the budget is spent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unet_cli.config import TrainConfig
from unet_cli.console import Console, duration
from unet_cli.data.augment import AUGMENTATIONS, augment
from unet_cli.data.dataset import Batch, SegmentationDataset, epoch_order
from unet_cli.data.preprocess import normalize
from unet_cli.device import Compute, keep_freed_memory
from unet_cli.errors import UserError
from unet_cli.metrics import count_pixels, summarize
from unet_cli.signals import StopRequest
from unet_cli.training.losses import Loss, loss_for
from unet_cli.training.schedule import Budget, lr_factor

MOST_BAD_STEPS = 10  # in a row, before the run is given up
FIRST_LOSS_SCALE = 2.0**12  # of float16: low enough that the search for a scale takes fewer bad steps than that
STEPS_BEFORE_ESTIMATE = 3


@dataclass(frozen=True)
class EpochResult:
    """One row of the log. Losses are means over images; dice and iou are of the validation part, at network size.

    seconds: since the command began. The val_ fields are None where nothing was validated. val_classes: Dice of each
    class by name, where there are several foreground classes.
    """

    epoch: int
    step: int
    seconds: float
    lr: float
    train_loss: float
    val_loss: float | None
    val_dice: float | None
    val_iou: float | None
    is_best: bool
    val_classes: dict[str, float] = field(default_factory=dict)

    def describe(self) -> str:
        """A line for the log."""
        line = f"epoch {self.epoch:3d} ({duration(self.seconds)}): loss {self.train_loss:.4f}"
        if self.val_dice is not None:
            line += f", validation loss {self.val_loss:.4f}, Dice {self.val_dice:.4f}, IoU {self.val_iou:.4f}"
            line += " (best)" if self.is_best else ""
        if self.val_classes:
            line += "\n  Dice of " + ", ".join(f"{name} {dice:.3f}" for name, dice in self.val_classes.items())
        return line

    def plain(self) -> dict[str, Any]:
        """As a row of a table: a column for each class."""
        row = asdict(self)
        classes = row.pop("val_classes")
        return row | {f"val_dice_{name}": dice for name, dice in classes.items()}


@dataclass
class Trainer:
    """What stays the same during a run, and the state that a checkpoint keeps: model, optimizer, scaler, step."""

    model: nn.Module
    train_data: SegmentationDataset
    val_data: SegmentationDataset
    config: TrainConfig
    batch_size: int
    compute: Compute
    budget: Budget
    console: Console

    def __post_init__(self) -> None:
        keep_freed_memory(self.compute)
        self.model.to(self.compute.device).to(memory_format=torch.channels_last)
        fused = self.compute.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.config.lr, fused=fused)
        self.scaler = torch.amp.GradScaler(
            self.compute.device.type, init_scale=FIRST_LOSS_SCALE, enabled=self.compute.precision == "float16"
        )
        self.loss: Loss = loss_for(self.train_data.labels.num_classes)
        self.step = 0
        self.bad_steps = 0
        self.validated = False

    def fit(self, stop: StopRequest) -> Iterator[EpochResult]:
        """Train until the budget is spent, yielding each epoch's result for the caller to log and save.

        A stop that is asked for ends the epoch at hand; it is not validated, and the best weights stay what they were.
        Raises Stopped after that, and UserError where training has diverged.
        """
        self.budget.begin = time.monotonic()
        best = -1.0
        for epoch in count(1):
            step_before = self.step
            train_loss = self.train_one_epoch(epoch, stop)
            if self.step == step_before:  # the time was up, or a stop asked for, before its first step
                stop.check()
                return
            scores = self.validate() if len(self.val_data) and stop.signum is None else {}
            score = scores.get("dice", -1.0) if np.isfinite(scores.get("loss", 0.0)) else -1.0
            is_best = not len(self.val_data) or (bool(scores) and score >= max(best, 0.0))
            best = max(best, score)
            finished = time.monotonic()
            yield EpochResult(
                epoch=epoch,
                step=self.step,
                seconds=finished - self.budget.start,
                lr=self.optimizer.param_groups[0]["lr"],
                train_loss=train_loss,
                val_loss=scores.get("loss"),
                val_dice=scores.get("dice"),
                val_iou=scores.get("iou"),
                is_best=is_best,
                val_classes={
                    key.removeprefix("dice_"): value for key, value in scores.items() if key.startswith("dice_")
                },
            )
            self.budget.saving_seconds = time.monotonic() - finished
            stop.check()
            if not self.budget.allows_step(self.step):
                return

    def train_one_epoch(self, epoch: int, stop: StopRequest) -> float:
        """One pass over the training part, or what the budget leaves of it; returns the mean loss over its images."""
        self.model.train()
        order = epoch_order(len(self.train_data), self.config.seed, epoch)
        batches = self.train_data.batches(order, self.batch_size, self.config.workers)
        steps = self.budget.steps_per_epoch
        total, images = 0.0, 0
        start = time.monotonic()
        for batch in self.console.progress(batches, steps, f"epoch {epoch}", "steps"):
            if stop.signum is not None or not self.budget.allows_step(self.step):
                break
            loss = self.train_one_step(batch, epoch)
            if np.isfinite(loss):
                total, images = total + loss * len(batch.indices), images + len(batch.indices)
            start, step_start = time.monotonic(), start  # waiting for the batch is part of a step's time
            self._time_step(start - step_start)
        batches.close()
        return total / images if images else float("nan")

    def train_one_step(self, batch: Batch, epoch: int) -> float:
        """Forward, loss, backward, step; a loss or gradient that isn't finite is not stepped on. Returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * lr_factor(self.budget.progress(self.step))
        image, mask = self._to_device(batch)
        strength = AUGMENTATIONS[self.config.augment]
        if strength is not None:
            keys = [(self.config.seed, epoch, index) for index in batch.indices]
            image, mask = augment(image, mask, strength, keys)

        statistics = [buffer.clone() for buffer in self.model.buffers()]
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.logits(image), mask)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        self.step += 1
        if torch.isfinite(loss) & torch.isfinite(norm):
            self.scaler.step(self.optimizer)
            self.bad_steps = 0
        else:
            for buffer, before in zip(self.model.buffers(), statistics, strict=True):
                buffer.copy_(before)  # batch norm has seen what was not finite
            self._count_bad_step(batch)
        self.scaler.update()
        return float(loss.detach())

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Loss, Dice and IoU over the whole validation part, at network size."""
        self.model.eval()
        start = time.monotonic()
        num_classes = self.val_data.labels.num_classes
        losses, counts = [], []
        batches = self.val_data.batches(range(len(self.val_data)), self.batch_size, self.config.workers)
        steps = -(-len(self.val_data) // self.batch_size)
        for batch in self.console.progress(batches, steps, "validating", "steps"):
            image, mask = self._to_device(batch)
            logits = self.logits(image)
            losses.append(float(self.loss(logits, mask)) * len(batch.indices))
            counts.append(count_pixels(to_classes(logits), mask, num_classes).cpu())
        self.budget.validation_seconds, self.validated = time.monotonic() - start, True
        return {
            "loss": sum(losses) / len(self.val_data),
            **summarize(torch.cat(counts).numpy(), self.val_data.labels.names),
        }

    def logits(self, image: Tensor) -> Tensor:
        """Normalised (N, C, H, W) -> float32 logits (N, K, H, W)."""
        with self.compute.autocast():
            return self.model(image.contiguous(memory_format=torch.channels_last)).float()

    def _to_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        image = batch.image.to(self.compute.device, non_blocking=True)
        return normalize(image, self.train_data.preprocessing), batch.mask.to(self.compute.device, non_blocking=True)

    def _count_bad_step(self, batch: Batch) -> None:
        self.bad_steps += 1
        names = ", ".join(str(self.train_data.pairs[index].image) for index in batch.indices)
        self.console.say(
            f"step {self.step}: the loss or its gradient is not finite, the step is skipped; images: {names}"
        )
        if self.bad_steps == MOST_BAD_STEPS:
            raise UserError(
                f"the loss was not finite for {MOST_BAD_STEPS} steps in a row: training has diverged. "
                f"Try a lower --lr than {self.config.lr:g}, or --precision float32"
            )

    def _time_step(self, seconds: float) -> None:
        """Keep a running mean of a step's time, guess a validation's until one was timed, and say what to expect."""
        budget = self.budget
        warming_up = self.step <= 2  # the first step allocates memory and chooses algorithms
        budget.step_seconds = seconds if warming_up else 0.7 * budget.step_seconds + 0.3 * seconds
        if not self.validated:  # a forward pass is a third of a step
            budget.validation_seconds = budget.step_seconds * len(self.val_data) / self.batch_size / 3
        if self.step == STEPS_BEFORE_ESTIMATE:
            epoch = budget.steps_per_epoch * budget.step_seconds + budget.validation_seconds
            self.console.say(
                f"One step takes {budget.step_seconds:.2g} s, an epoch {duration(epoch)}; "
                f"the run ends in about {duration(budget.remaining(self.step))}."
            )


def to_classes(logits: Tensor) -> Tensor:
    """(N, K, *spatial) logits -> (N, *spatial) class indices: sigmoid at 0.5 for K = 1, else the largest."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)
