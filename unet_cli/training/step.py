"""One optimizer step: forward, loss, backward, step, with gradient accumulation where a batch exceeds the memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from unet_cli.config.training import LRS, WEIGHT_DECAYS, TrainConfig
from unet_cli.errors import UserError, is_out_of_memory
from unet_cli.models import Fitted, Network
from unet_cli.system.console import Console
from unet_cli.system.device import Compute, compiling, free_memory, keep_freed_memory
from unet_cli.system.distributed import World
from unet_cli.training.ema import Average
from unet_cli.training.losses.loss import Denominators, Loss
from unet_cli.training.optimizers import make_optimizer

FIRST_LOSS_SCALE = 2.0**12  # for float16: low enough that few steps are skipped until the right scale is found

Result = TypeVar("Result")


@dataclass
class Learner:
    """The network with its optimizer, loss scaler and averaged (EMA) weights.

    micro_batch: images in one forward pass; a larger batch is split into micro-batches, whose gradients are
    accumulated. context: pixels of surroundings at either end of an image, see Fitted. lr_factor: multiple of the
    optimizer's default learning rate. step: optimizer steps so far, skipped ones included.
    """

    model: Network
    loss: Loss
    config: TrainConfig
    compute: Compute
    world: World
    console: Console
    micro_batch: int
    context: int = 0
    lr_factor: float = 1.0

    def __post_init__(self) -> None:
        keep_freed_memory(self.compute)
        self._memory_format = self.compute.memory_format(self.model.spatial_dims)
        self.model.to(self.compute.device).to(memory_format=self._memory_format)
        self._fitted = Fitted(self.model, self.context)
        self._network = self.world.distributed(self._fitted, self.compute.device)
        if self.config.compile:
            self._network.compile(dynamic=False)
        name, decay = self.config.optimizer, self.config.weight_decay
        self.lr = self.config.lr or LRS[name] * self.lr_factor
        self.weight_decay = WEIGHT_DECAYS[name] if decay is None else decay
        self.optimizer = make_optimizer(name, self.model.parameters(), self.lr, self.weight_decay, self.compute.device)
        self.scaler = torch.amp.GradScaler(
            self.compute.device.type, init_scale=FIRST_LOSS_SCALE, enabled=self.compute.precision == "float16"
        )
        self.average = Average(self.model)
        self.step = 0

    def train_step(self, image: Tensor, mask: Tensor, counted: int, lr: float) -> float:
        """Take a step. image: normalised (N, C, S, S), plus the context; mask: (N, S, S) class indices. counted:
        how many of the N images count in the loss.

        Returns the loss over the batches of all processes, or NaN where it or its gradient is not finite: then only the
        step number changes. Raises UserError where one image exceeds the memory.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self._seed_dropout()
        self.model.train()
        statistics = [buffer.clone() for buffer in self.model.buffers()]  # batch norm's running statistics
        loss = self._within_memory(lambda: self._backward(image, mask, counted), statistics)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)  # after unscaling only
        self.step += 1
        # The norm is checked as well: a finite loss may have an infinite gradient. One transfer from the GPU for both.
        is_finite = bool(torch.isfinite(loss) & torch.isfinite(norm))
        if is_finite:
            self.scaler.step(self.optimizer)
            self.average.update(self.model, self.step)
        else:
            self._restore(statistics)  # the forward pass may have made them non-finite
        self.scaler.update()  # after a skipped step too, since it lowers the loss scale
        return float(loss) if is_finite else math.nan

    @torch.inference_mode()
    def logits(self, image: Tensor) -> Tensor:
        """Normalised (N, C, S, S), plus the context -> float32 logits (N, K, S, S), in evaluation mode."""
        self.model.eval()
        return self._within_memory(
            lambda: torch.cat([self._logits_of(self._fitted, part)[0] for part in image.split(self.micro_batch)]), []
        )

    @torch.no_grad()
    def forward(self, image: Tensor) -> None:
        """Forward pass of normalised (N, C, S, S) in the modules' current modes, for its side effect on batch norm's
        statistics."""
        self._logits_of(self._fitted, image)

    def state(self) -> dict[str, Any]:
        """State for resuming, beside the weights, as stored in a checkpoint."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict(),
            "step": self.step,
            "at_once": self.micro_batch,  # the key of older checkpoints
            "gradient_checkpointing": self._checkpointing,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore `state`; the weights have been loaded already."""
        # load_state_dict restores the settings of the groups too.
        decays = [group["weight_decay"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, decay in zip(self.optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay  # --weight-decay of this call rather than the saved one
        self.scaler.load_state_dict(state["scaler"])
        self.average.load_state_dict(state["average"])
        self.step = state["step"]
        self.micro_batch = min(state["at_once"], self.micro_batch)
        self._checkpointing = self._checkpointing or state["gradient_checkpointing"]

    @property
    def _checkpointing(self) -> bool:
        return self.model.gradient_checkpointing

    @_checkpointing.setter
    def _checkpointing(self, wanted: bool) -> None:
        self.model.gradient_checkpointing = wanted

    def _backward(self, image: Tensor, mask: Tensor, counted: int) -> Tensor:
        """Compute the gradient of the loss over the batches of all processes, and return that loss."""
        self.optimizer.zero_grad(set_to_none=True)
        # The loss of each micro-batch is divided by the pixels and images of the global batch, so that the gradient
        # depends neither on the micro-batch size nor on the number of processes.
        local = self.loss.denominators(mask, counted)
        denominators = Denominators(self.world.sum(local.images), self.world.sum(local.weight))
        total = image.new_zeros(())
        micro_batches = list(zip(image.split(self.micro_batch), mask.split(self.micro_batch), strict=True))
        for number, (part, target) in enumerate(micro_batches, 1):
            # Gradients are reduced over the processes once, in the backward pass of the last micro-batch.
            with self.world.accumulating(self._network) if number < len(micro_batches) else nullcontext():
                logits = self._logits_of(self._network, part)
                loss = self.loss.deep(logits, self.model.head_weights, target, denominators)
                self.scaler.scale(loss * self.world.count).backward()  # DDP averages gradients where a sum is needed
            total += loss.detach()
        return self.world.sum(total)

    def _logits_of(self, network: nn.Module, image: Tensor) -> list[Tensor]:
        """Float32 logits of each head, finest first."""
        with self.compute.autocast():
            output = network(image.contiguous(memory_format=self._memory_format))
        return [logits.float() for logits in (output if isinstance(output, list) else [output])]

    def _within_memory(self, compute: Callable[[], Result], statistics: list[Tensor]) -> Result:
        """Call `compute`, and on out of memory repeat it with less memory. Raises UserError when nothing is left to
        reduce."""
        while True:
            try:
                with compiling() if self.config.compile else nullcontext():
                    return compute()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.world.count > 1:  # the other processes wait in a collective, so this one can't repeat the step
                    raise UserError(
                        f"out of memory with {self.micro_batch} images in each of {self.world.count} processes: use "
                        f"--resume with --batch-size {max(1, self.micro_batch // 2)}"
                    ) from error
            self._restore(statistics)  # outside the handler, whose traceback keeps the activations alive
            self._reduce_memory()

    def _reduce_memory(self) -> None:
        """Halve the micro-batch, then turn on gradient checkpointing. Raises UserError where both are exhausted."""
        self.optimizer.zero_grad(set_to_none=True)
        free_memory(self.compute.device)
        before = self.micro_batch
        if before > 1:
            self.micro_batch = -(-before // 2)
            self.console.say(
                f"Out of memory with {before} images at once: continuing with {self.micro_batch} at once and gradient "
                f"accumulation over the same batches. --batch-size {self.micro_batch} would avoid it"
            )
        elif not (self._checkpointing or self.config.compile):
            self._checkpointing = True
            self.console.say("Out of memory with one image: continuing with --gradient-checkpointing, which is slower")
        else:
            raise UserError(
                "there is not enough memory for one image, and nothing left to reduce it: try a smaller --size than "
                f"{self.config.size}, or a smaller --width"
            )

    def _restore(self, statistics: list[Tensor]) -> None:
        for buffer, before in zip(self.model.buffers(), statistics, strict=False):
            buffer.copy_(before)

    def _seed_dropout(self) -> None:
        """Seed dropout with (seed, step, process), so that a resumed run draws the same masks."""
        sequence = np.random.SeedSequence((self.config.seed, self.step, self.world.rank))
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
