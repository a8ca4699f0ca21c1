"""One optimisation step: forward, loss, backward, step; in smaller parts where the memory doesn't suffice for one."""

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

FIRST_LOSS_SCALE = 2.0**12  # of float16: low enough that the search for a scale takes few skipped steps

Result = TypeVar("Result")


@dataclass
class Learner:
    """The network, its averaged weights, and what changes them.

    at_once: images that go through the network together; a batch of more is computed in parts, whose gradients are
    added up. context: pixels at either end of an image that are its surroundings, as Fitted has it. lr_factor: of the
    optimizer's usual learning rate. step: optimiser updates so far, skipped ones included.
    """

    model: Network
    loss: Loss
    config: TrainConfig
    compute: Compute
    world: World
    console: Console
    at_once: int
    context: int = 0
    lr_factor: float = 1.0

    def __post_init__(self) -> None:
        keep_freed_memory(self.compute)
        self.model.to(self.compute.device).to(memory_format=self.compute.memory_format)
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

    def train_step(self, image: Tensor, mask: Tensor, images: int, lr: float) -> float:
        """Take a step. image: normalised (N, C, S, S), with the context beside it; mask: (N, S, S) class indices;
        `images` of them count.

        Returns the loss over the batches of all processes. Where it or its gradient is not finite nothing changes but
        the number of the step, and NaN is returned. Raises UserError where the memory doesn't suffice for one image.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self._seed_dropout()
        self.model.train()
        statistics = [buffer.clone() for buffer in self.model.buffers()]  # of batch norm
        loss = self._within_memory(lambda: self._backward(image, mask, images), statistics)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        self.step += 1
        is_finite = bool(torch.isfinite(loss) & torch.isfinite(norm))
        if is_finite:
            self.scaler.step(self.optimizer)
            self.average.update(self.model, self.step)
        else:
            self._restore(statistics)  # they have seen what was not finite
        self.scaler.update()
        return float(loss) if is_finite else math.nan

    @torch.inference_mode()
    def logits(self, image: Tensor) -> Tensor:
        """Normalised (N, C, S, S), with the context beside it -> float32 logits (N, K, S, S), as in prediction."""
        self.model.eval()
        return self._within_memory(
            lambda: torch.cat([self._through(self._fitted, part)[0] for part in image.split(self.at_once)]), []
        )

    @torch.no_grad()
    def forward(self, image: Tensor) -> None:
        """Normalised (N, C, S, S) through the network as its modules are, for what it leaves in them."""
        self._through(self._fitted, image)

    def state(self) -> dict[str, Any]:
        """What goes on from here need beside the weights, as a checkpoint keeps it."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict(),
            "step": self.step,
            "at_once": self.at_once,
            "gradient_checkpointing": self._checkpointing,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; the weights have been loaded already."""
        decays = [group["weight_decay"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, decay in zip(self.optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay  # as told now
        self.scaler.load_state_dict(state["scaler"])
        self.average.load_state_dict(state["average"])
        self.step = state["step"]
        self.at_once = min(state["at_once"], self.at_once)
        self._checkpointing = self._checkpointing or state["gradient_checkpointing"]

    @property
    def _checkpointing(self) -> bool:
        return self.model.gradient_checkpointing

    @_checkpointing.setter
    def _checkpointing(self, wanted: bool) -> None:
        self.model.gradient_checkpointing = wanted

    def _backward(self, image: Tensor, mask: Tensor, images: int) -> Tensor:
        """Leave the gradient of the loss over the batches of all processes, and return that loss."""
        self.optimizer.zero_grad(set_to_none=True)
        here = self.loss.whole(mask, images)
        whole = Denominators(self.world.sum(here.images), self.world.sum(here.weight))
        total = image.new_zeros(())
        parts = list(zip(image.split(self.at_once), mask.split(self.at_once), strict=True))
        for number, (some, target) in enumerate(parts, 1):
            with self.world.accumulating(self._network) if number < len(parts) else nullcontext():
                loss = self.loss.deep(self._through(self._network, some), self.model.head_weights, target, whole)
                self.scaler.scale(loss * self.world.count).backward()  # the processes' gradients are averaged
            total += loss.detach()
        return self.world.sum(total)

    def _through(self, network: nn.Module, image: Tensor) -> list[Tensor]:
        """The logits of each head that answers, finest first."""
        with self.compute.autocast():
            answer = network(image.contiguous(memory_format=self.compute.memory_format))
        return [logits.float() for logits in (answer if isinstance(answer, list) else [answer])]

    def _within_memory(self, compute: Callable[[], Result], statistics: list[Tensor]) -> Result:
        """Call it, and where the memory doesn't suffice again with less need of it. Raises UserError at the end."""
        while True:
            try:
                with compiling() if self.config.compile else nullcontext():
                    return compute()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.world.count > 1:  # the others wait for this one's gradient
                    raise UserError(
                        f"out of memory with {self.at_once} images at once in each of {self.world.count} processes: go "
                        f"on with --batch-size {max(1, self.at_once // 2)} beside --resume"
                    ) from error
            self._restore(statistics)  # outside the handler, whose traceback holds on to activations
            self._need_less_memory()

    def _need_less_memory(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        free_memory(self.compute.device)
        before = self.at_once
        if before > 1:
            self.at_once = -(-before // 2)
            self.console.say(
                f"Out of memory with {before} images at once: going on with {self.at_once} at once, whose gradients "
                f"are added up to those of the same batches. --batch-size {self.at_once} would avoid it"
            )
        elif not (self._checkpointing or self.config.compile):
            self._checkpointing = True
            self.console.say(
                "Out of memory with one image at once: going on with --gradient-checkpointing, which takes longer"
            )
        else:
            raise UserError(
                "the memory doesn't suffice for one image, and there is nothing left to save: try a smaller --size "
                f"than {self.config.size}, or a smaller --width"
            )

    def _restore(self, statistics: list[Tensor]) -> None:
        for buffer, before in zip(self.model.buffers(), statistics, strict=False):
            buffer.copy_(before)

    def _seed_dropout(self) -> None:
        """Make dropout a function of seed, step and process."""
        sequence = np.random.SeedSequence((self.config.seed, self.step, self.world.rank))
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
