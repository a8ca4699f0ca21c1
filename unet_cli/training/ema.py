"""The exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

MAX_DECAY = 0.999  # an average over about the last thousand updates
WARMUP = 10.0  # the larger, the less the first, untrained weights count in the average


def decay_at(step: int) -> float:
    """Decay at an optimizer step, counted from 1, skipped ones included: 2/11 at first, growing to MAX_DECAY."""
    return min(MAX_DECAY, (1 + step) / (WARMUP + step))


class Average:
    """Averaged (EMA) weights of a network: average <- decay * average + (1 - decay) * weights.

    Batch-norm statistics are averaged too; integer buffers are copied. Strides, dtypes and device are those of the
    network when the average was created.

    Source: Polyak, Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J. Control Optim. 30 (1992).
    It differs: recent weights count exponentially more than old ones, and the decay grows from 2/11 to MAX_DECAY.
    """

    def __init__(self, model: nn.Module) -> None:
        self._state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self._averaged = [name for name, value in self._state.items() if value.is_floating_point()]
        self._copied = [name for name, value in self._state.items() if not value.is_floating_point()]
        self.is_swapped = False

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Update the average with the network's weights after this optimizer step, see decay_at."""
        assert not self.is_swapped
        state = model.state_dict()
        averages, weights = self._lists(self._averaged, state)
        torch._foreach_lerp_(averages, weights, 1 - decay_at(step))
        if self._copied:
            torch._foreach_copy_(*self._lists(self._copied, state))

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights under the names of the network's state_dict: the tensors themselves, no copy."""
        assert not self.is_swapped
        return dict(self._state)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the averaged weights of a state_dict(). Raises ValueError where names or shapes differ."""
        assert not self.is_swapped
        shapes = {name: value.shape for name, value in self._state.items()}
        if {name: value.shape for name, value in state.items()} != shapes:
            raise ValueError("these averaged weights are not those of this network")
        for name, value in self._state.items():
            value.copy_(state[name])

    @contextmanager
    def swapped_in(self, model: nn.Module) -> Iterator[None]:
        """Context in which the network has the averaged weights; on exit its own are restored bit for bit.

        Contents are swapped in place, a tensor at a time, so that the optimizer and a compiled or distributed network
        keep their references. Within the context the average can't be updated, saved or loaded.
        """
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    @torch.no_grad()
    def _exchange(self, model: nn.Module) -> None:
        self.is_swapped = not self.is_swapped
        state = model.state_dict()
        for name, average in self._state.items():
            # One tensor is copied at a time, so the swap needs no second copy of the whole network.
            copy = average.clone()
            average.copy_(state[name])
            state[name].copy_(copy)

    def _lists(self, names: list[str], state: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        return [self._state[name] for name in names], [state[name] for name in names]
