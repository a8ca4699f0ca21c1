"""Distributed data parallel training under torchrun: https://docs.pytorch.org/docs/stable/elastic/run.html."""

from __future__ import annotations

import inspect
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from textwrap import shorten
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

from unet_cli.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.distributed.distributed_c10d import Store

LONGEST_WAIT = timedelta(days=30)  # timeout of collectives: torchrun itself detects processes that have ended
POLL_SECONDS = 0.1

T = TypeVar("T")


def this_process() -> tuple[int, int]:
    """The number of this process, from 1 (rank + 1), and the world size."""
    return int(os.environ.get("RANK", 0)) + 1, int(os.environ.get("WORLD_SIZE", 1))


def local_number() -> int | None:
    """The local rank of this process, from 0, which is also the index of its GPU; None without torchrun."""
    number = os.environ.get("LOCAL_RANK")
    return None if number is None else int(number)


def processes_here() -> int:
    """The number of the job's processes on this machine, which share its memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def elastic_identity() -> str | None:
    """An identifier of this torchrun job that stays the same when it restarts its processes; None without torchrun.

    It is --rdzv-id, else host name and parent process id, which differ between machines. Only meaningful if restarts()
    is not 0: an earlier job may have had the same.
    """
    job = os.environ.get("TORCHELASTIC_RUN_ID")
    return f"{socket.gethostname()}-{os.getppid()}" if job == "none" else job


def restarts() -> int:
    """How often torchrun has restarted the processes of this job."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def wait_for_all() -> None:
    """Barrier at the end of the command: torchrun stops the other processes as soon as one ends with an exit code."""
    if not _several():
        return
    from torch import distributed

    with _explaining_failure():
        _join("gloo")
        distributed.barrier()
    distributed.destroy_process_group()


@contextmanager
def together(device: torch.device) -> Iterator[World]:
    """Join the process group of torchrun, each process with its own device; without torchrun, a world of size one.

    All processes must also leave together, at the end of the block. An exception leaves at once and should end the
    process: the others then fail in their next collective, with a UserError, or torchrun stops them.
    """
    if not _several():
        yield World()
        return
    import torch
    from torch import distributed

    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _explaining_failure():
        _join("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        yield World(distributed.get_rank(), distributed.get_world_size())
    distributed.destroy_process_group()  # not after an exception: it would hang, since the others no longer answer


@dataclass(frozen=True)
class World:
    """The process group as seen from one process: its rank, from 0, and the world size.

    All methods but `share` and `accumulating` are collective: every process must call them, in the same order. Values
    other than CUDA tensors are exchanged over gloo, so no GPU waits. A world of size one does nothing.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The all-reduced sum, on the tensor's device, detached from the graph."""
        if self.count == 1:
            return tensor.detach()
        from torch import distributed

        total = tensor.detach().clone()
        distributed.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.count == 1:
            return flag
        import torch

        return bool(self.sum(torch.tensor(int(flag))))

    def gathered(self, value: T) -> list[T]:
        """The plain values of all processes, in order of rank, for all."""
        if self.count == 1:
            return [value]
        from torch import distributed

        values = [value] * self.count
        distributed.all_gather_object(values, value)
        return values

    def first(self, value: T) -> T:
        """The plain value of rank 0, for all."""
        if self.count == 1:
            return value
        from torch import distributed

        values = [value]
        distributed.broadcast_object_list(values)
        return values[0]

    def lowest(self, number: int) -> int:
        return min(self.gathered(number))

    def wait(self) -> None:
        """Barrier."""
        self.any(False)

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Rank 0 runs the block before the others, which find its files on the disk."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def share(self, batch: list[int]) -> list[int]:
        """The samples of a global batch that this process takes; empty if fewer samples than processes are left."""
        return batch[self.rank :: self.count]

    def distributed(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Wrap the model for training: backward() averages the gradients over the processes.

        All start with the weights of rank 0. Parameters, buffers and their names stay those of the model, on their
        device and in their memory format. Batch norm becomes synchronized on GPUs; on CPUs each process uses the
        statistics of its own samples. See `average_buffers`.
        """
        if self.count == 1:
            return model
        from torch import nn

        ids = None
        if device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
            ids = [device]
        parallel: Callable[..., nn.Module] = nn.parallel.DistributedDataParallel
        known = inspect.signature(parallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # in old torch
        return parallel(model, device_ids=ids, gradient_as_bucket_view=True, **{buffers: False})

    def accumulating(self, model: nn.Module) -> AbstractContextManager[None]:
        """Context for gradient accumulation with a `distributed` model: forward and backward pass don't synchronize
        gradients.

        Used for all parts of a batch but the last one, whose backward pass averages the sums.
        """
        from torch.nn.parallel import DistributedDataParallel

        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

    def average_buffers(self, buffers: Iterable[Tensor]) -> None:
        """Average these running statistics over the processes, before they are used or saved."""
        if self.count == 1:
            return
        import torch

        with torch.no_grad():
            for buffer in buffers:
                total = self.sum(buffer)
                buffer.copy_(total / self.count if total.is_floating_point() else total // self.count)


def _join(backend: str) -> None:
    """Initialize the process group under a name that no earlier start of the job had.

    torchrun keeps the store over a restart, with entries of the earlier processes, such as addresses that no longer
    answer.
    """
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, rank, count = next(rendezvous("env://", timeout=LONGEST_WAIT))
    store = PrefixStore(agreed_name(store, rank, count), store)
    distributed.init_process_group(backend, timeout=LONGEST_WAIT, store=store, rank=rank, world_size=count)


def agreed_name(store: Store, rank: int, count: int) -> str:
    """A new name, the same for all processes: that of rank 0, once it has acknowledged this process.

    A name in the store may be that of an earlier rank 0, which acknowledges nothing.
    """
    mine = uuid4().hex
    if rank == 0:
        # Handshake: every other rank writes its own fresh id under the name that it found, and rank 0 of this start
        # echoes the id. Without an echo the name is stale, and the rank reads it again.
        store.set("unet", mine)
        for other in range(1, count):
            while not store.check([f"{mine}/{other}"]):
                time.sleep(POLL_SECONDS)
            store.set(f"{mine}/{store.get(f'{mine}/{other}').decode()}", "")
        return mine
    while True:
        name = store.get("unet").decode()
        store.set(f"{name}/{rank}", mine)
        if store.check([f"{name}/{mine}"]):
            return name
        time.sleep(POLL_SECONDS)


@contextmanager
def _explaining_failure() -> Iterator[None]:
    """Raises UserError where communication fails, as it does when another process has ended."""
    from torch import distributed

    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error).lower():
            raise
        raise UserError(
            "communication with the other processes of the job failed; if one has ended, look for its error, and let "
            f"torchrun --max-restarts 3 start them again ({shorten(str(error), 200)})"
        ) from error


def _several() -> bool:
    """Whether there are other processes to join; RANK and WORLD_SIZE without MASTER_ADDR only divide a job."""
    return this_process()[1] > 1 and "MASTER_ADDR" in os.environ
