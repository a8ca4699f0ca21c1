"""Batch size: free memory, the memory that a training step needs, and the search for the fastest batch size."""

from __future__ import annotations

import copy
import time
import weakref
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unet_cli.config.model import ModelConfig
from unet_cli.errors import is_out_of_memory
from unet_cli.models import Fitted, Network, build_model, parameter_count, weightless
from unet_cli.system import memory
from unet_cli.system.device import Compute, finish, free_memory
from unet_cli.system.distributed import processes_here
from unet_cli.training.optimizers import make_optimizer

CPU_SHARE = 0.8  # share of the free memory that a run may use
WEIGHT_COPIES = 5  # weights, gradient, Adam's two moments, averaged (EMA) weights
FACTOR, FIXED = 1.6, 256 * 2**20  # see step_bytes

WARMUP_STEPS, TIMED_STEPS = 2, 4  # the first steps select cuDNN algorithms and allocate memory
GPU_RESERVE = 0.1  # share of a GPU's memory that is left free
MIN_GAIN = 1.03  # throughput over that at a quarter of the batch size, below which the search ends
WORTHWHILE = 0.9  # share of the best throughput: a smaller batch size that reaches it is preferred


def available_bytes(device: torch.device) -> int:
    """Bytes that this process can still allocate: GPU memory on an NVIDIA GPU, else main memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return memory.unused_memory()


class _PeakMemory(TorchDispatchMode):
    """Tracks the bytes of all live tensors that are created within it, and their peak.

    Storages are counted rather than tensors, since views share one; a weak reference notices when one is freed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._living: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._now = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._note(value.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata  # identifies the storage while it is alive; a later one may have the same address
        if key not in self._living:
            self._living[key] = (weakref.ref(storage, lambda _: self._forget(key)), storage.nbytes())
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)

    def _forget(self, key: int) -> None:
        self._now -= self._living.pop(key)[1]


@cache
def activation_bytes(config: ModelConfig, shape: tuple[int, ...], gradient_checkpointing: bool = False) -> int:
    """Bytes that each further image (C, *spatial) of a batch adds to the peak memory of a float32 training step.

    Nothing is computed: forward, loss and backward run on torch's 'meta' device, whose tensors have shapes but no
    contents, and live tensors are counted: activations saved for backward, gradients in flight, and with gradient
    checkpointing the block that is recomputed.
    """
    # The difference of two batch sizes leaves out whatever doesn't grow with the batch, such as weight gradients.
    fewer, more = (_peak_bytes(config, (count, *shape), gradient_checkpointing) for count in (2, 4))
    return (more - fewer) // 2


def _peak_bytes(config: ModelConfig, shape: tuple[int, ...], gradient_checkpointing: bool) -> int:
    with torch.device("meta"):
        model = Fitted(build_model(config, gradient_checkpointing)).train()
    with torch.device("meta"), _PeakMemory() as memory_mode:
        loss = plain_loss(model(torch.empty(shape)), torch.empty(shape[0], *shape[2:], dtype=torch.int64))
        loss.backward()
    return memory_mode.peak


def plain_loss(output: Tensor | list[Tensor], target: Tensor) -> Tensor:
    """Cross-entropy, binary at K = 1, summed over the heads; a scalar.

    output: logits (N, K, *spatial), or with deep supervision a list of them, some of them coarser. target: (N,
    *spatial) class indices.
    """
    total = torch.zeros((), device=target.device)
    for logits in output if isinstance(output, list) else [output]:
        factors = [-(-side // fewer) for side, fewer in zip(target.shape[1:], logits.shape[2:], strict=True)]
        coarse = target[(slice(None), *[slice(None, None, factor) for factor in factors])]
        if logits.shape[1] == 1:
            total = total + F.binary_cross_entropy_with_logits(logits.float(), coarse[:, None].float())
        else:
            total = total + F.cross_entropy(logits.float(), coarse)
    return total


def step_bytes(config: ModelConfig, shape: tuple[int, ...], batch_size: int, gradient_checkpointing: bool) -> int:
    """Estimated bytes of a float32 training step on a CPU, beyond those of a process that has imported torch.

    The sum of five copies of the weights, 1.6 times the activations of each image, and 256 MiB. The factor covers
    fragmentation in glibc's allocator and the workspaces of convolutions; it varies, so the estimate is on the high
    side. Peak resident memory in MiB, on Linux with torch 2.15 and 2 threads, for batches of 1, 2 and 4 images with 3
    channels (four copies of the weights; tests/test_memory.py measures it again):

        width  side   measured             estimated            measured, checkpointing   estimated
        16     256     341   467   720      438   582   871     292   378   528            373   452   611
        16     512     694  1129  1951      871  1450  2607     532   744  1506            611   928  1563
        32     256     525   773  1279      692   980  1556     429   583   862            562   719  1034
        32     512    1308  2316  4362     1556  2708  5012     862  1524  2888           1034  1665  2926
    """
    weights = 4 * parameter_count(weightless(config))
    activations = activation_bytes(config, shape, gradient_checkpointing)
    return int(WEIGHT_COPIES * weights + FACTOR * batch_size * activations + FIXED)


def cpu_batch_size(
    config: ModelConfig, shape: tuple[int, ...], usual: int, gradient_checkpointing: bool, reserved: int = 0
) -> int:
    """Batch size for images (C, *spatial) on a CPU: `usual`, or smaller where memory is short, at least 1.

    reserved: bytes that are needed for other purposes.
    """
    limit = CPU_SHARE * (available_bytes(torch.device("cpu")) / processes_here() - reserved)
    fitting = (size for size in range(usual, 0, -1) if step_bytes(config, shape, size, gradient_checkpointing) <= limit)
    return next(fitting, 1)


def fastest_batch_size(throughput: Callable[[int], float | None], most: int) -> int:
    """The smallest of 1, 2, 4, ... up to `most` whose throughput is within 10 % of the best.

    The search ends where doubling twice gains less than 3 %.
    throughput: images a second at a batch size, or None on out of memory, which ends the search. Returns 1 where even
    one image doesn't fit.
    """
    # Throughput saturates with the batch size, and larger batches mean fewer steps: the smallest near-best one wins.
    speeds: dict[int, float] = {}
    size = 1
    while size <= most:
        speed = throughput(size)
        if speed is None:
            break
        if speed < MIN_GAIN * speeds.get(size // 4, 0.0):
            break
        speeds[size] = speed
        size *= 2
    best = max(speeds.values(), default=0.0)
    return next((size for size, speed in speeds.items() if speed >= WORTHWHILE * best), 1)


def trial(
    model: Network,
    compute: Compute,
    shape: tuple[int, ...],
    out_channels: int,
    optimizer_factory: Callable[[Iterable[nn.Parameter]], Optimizer],
) -> Callable[[int], float | None]:
    """A function from batch size to training throughput (images a second) on this device, for fastest_batch_size().

    It trains a copy of the network for a few steps on noise, images of `shape` (C, *spatial), then runs a forward pass
    as in validation. It returns None where either runs out of memory, or leaves less than 10 % of an NVIDIA GPU's
    memory free. The network and torch's random state on the CPU and that GPU are unchanged; the copy's memory is freed.
    """

    def throughput(batch_size: int) -> float | None:
        devices = [compute.device] if compute.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            speed = _speed(model, compute, (batch_size, *shape), out_channels, optimizer_factory)
        free_memory(compute.device)
        return speed

    return throughput


def _speed(
    model: Network,
    compute: Compute,
    shape: tuple[int, ...],
    out_channels: int,
    optimizer_factory: Callable[[Iterable[nn.Parameter]], Optimizer],
) -> float | None:
    limit = _reservable_bytes(compute.device)
    try:
        network = Fitted(copy.deepcopy(model))  # the steps change its weights and batch norm statistics
        optimizer = optimizer_factory(network.parameters())
        memory_format = compute.memory_format(model.spatial_dims)
        image = torch.rand(shape, device=compute.device).contiguous(memory_format=memory_format)
        target = torch.randint(max(out_channels, 2), (shape[0], *shape[2:]), device=compute.device)
        network.train()
        _train_steps(WARMUP_STEPS, network, optimizer, image, target, compute)
        start = _time(compute.device)
        _train_steps(TIMED_STEPS, network, optimizer, image, target, compute)
        seconds = _time(compute.device) - start
        network.eval()
        with torch.inference_mode(), compute.autocast():
            network(image)
        _time(compute.device)  # CUDA reports an error when the kernel is done, so wait for it within the try
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    if compute.device.type == "cuda" and torch.cuda.max_memory_reserved(compute.device) > limit:
        return None
    return TIMED_STEPS * shape[0] / seconds


def step_seconds(model: ModelConfig, compute: Compute, sides: tuple[int, ...], batch_size: int) -> float:
    """Duration of one training step of a fresh network on noise, images of these sides; torch's random state is
    unchanged."""
    with torch.random.fork_rng([]):
        network = Fitted(build_model(model)).train()
        memory_format = compute.memory_format(network.network.spatial_dims)
        network.to(memory_format=memory_format)
        image = torch.rand(batch_size, model.in_channels, *sides).contiguous(memory_format=memory_format)
        target = torch.randint(max(model.out_channels, 2), (batch_size, *sides))
    optimizer = make_optimizer("adam", network.parameters(), 1e-4, 0.0, compute.device)
    start = _time(compute.device)
    _train_steps(1, network, optimizer, image, target, compute)
    return _time(compute.device) - start


def _train_steps(
    count: int, network: nn.Module, optimizer: Optimizer, image: Tensor, target: Tensor, compute: Compute
) -> None:
    for _ in range(count):
        optimizer.zero_grad(set_to_none=True)
        with compute.autocast():
            output = network(image)
        plain_loss(output, target).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()


def _reservable_bytes(device: torch.device) -> int:
    """Bytes of GPU memory that torch may reserve in all, allocations so far included; 0 on other devices. Other
    processes may be using the GPU too."""
    if device.type != "cuda":
        return 0
    free_memory(device)
    torch.cuda.reset_peak_memory_stats(device)
    _, total = torch.cuda.mem_get_info(device)
    return available_bytes(device) + torch.cuda.memory_allocated(device) - int(GPU_RESERVE * total)


def _time(device: torch.device) -> float:
    """Clock time in seconds, after all queued work on the device is done."""
    finish(device)
    return time.perf_counter()
