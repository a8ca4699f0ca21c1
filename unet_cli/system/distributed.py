"""One job in several processes, as torchrun starts them: https://docs.pytorch.org/docs/stable/elastic/run.html."""

from __future__ import annotations

import inspect
import os
import socket
import time
from collections.abc import Callable, Iterator
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

LONGEST_WAIT = timedelta(days=30)  # of one process for another: torchrun itself sees to those that have ended
POLL_SECONDS = 0.1

T = TypeVar("T")


def this_process() -> tuple[int, int]:
    """Which of the processes this is, from 1, and how many there are."""
    return int(os.environ.get("RANK", 0)) + 1, int(os.environ.get("WORLD_SIZE", 1))


def local_number() -> int | None:
    """Which of torchrun's processes on this machine this is, from 0, and so the number of its GPU; None without it."""
    number = os.environ.get("LOCAL_RANK")
    return None if number is None else int(number)


def processes_here() -> int:
    """How many of the job's processes share this machine and its memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def elastic_identity() -> str | None:
    """What names this torchrun job and stays the same when it restarts its processes; None without torchrun.

    Its --rdzv-id, else this machine and the process that started this one, which on several machines differs between
    them. Only of use where restarts() is not 0: both may have been those of an earlier job.
    """
    job = os.environ.get("TORCHELASTIC_RUN_ID")
    return f"{socket.gethostname()}-{os.getppid()}" if job == "none" else job


def restarts() -> int:
    """How often torchrun has started the processes of this job again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def wait_for_all() -> None:
    """Return when every process has come here: torchrun stops the others as soon as one ends with an exit code."""
    if not _several():
        return
    from torch import distributed

    with _explaining_failure():
        _join("gloo")
        distributed.barrier()
    distributed.destroy_process_group()


@contextmanager
def together(device: torch.device) -> Iterator[World]:
    """Join the processes that torchrun started, each with its own device; without it, a world of one.

    They have to leave together too, at the end of the block. An exception leaves at once, and is to end the process:
    the others then fail at what they wait for, with a UserError, or torchrun stops them.
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
    distributed.destroy_process_group()  # after an exception it would wait for what the others no longer answer


@dataclass(frozen=True)
class World:
    """The processes of a job, seen from one of them: its rank, from 0, and their count.

    All but `share` and `accumulating` have to be called by every process, in the same order. What isn't a tensor on a
    GPU is exchanged between the processors, so no GPU waits. A world of one does nothing.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Over all processes, on the tensor's device; gradients do not pass."""
        if self.count == 1:
            return tensor.detach()
        from torch import distributed

        total = tensor.detach().clone()
        distributed.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
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
        """The first process's plain value, for all."""
        if self.count == 1:
            return value
        from torch import distributed

        values = [value]
        distributed.broadcast_object_list(values)
        return values[0]

    def lowest(self, number: int) -> int:
        return min(self.gathered(number))

    def wait(self) -> None:
        """Return when every process has come here."""
        self.any(False)

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """What the first process does within it, and leaves on the disk, the others find done."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def share(self, batch: list[int]) -> list[int]:
        """What of a batch of all processes is for this one; empty where there are more processes than samples left."""
        return batch[self.rank :: self.count]

    def distributed(self, model: nn.Module, device: torch.device) -> nn.Module:
        """What to call in training instead of the model: it averages the gradients over the processes in backward().

        All start with the first process's weights. Parameters, buffers and their names stay those of the model, on the
        device and in the memory format that they have. Batch norms become synchronised ones, on GPUs only: on CPUs
        each process takes the statistics of its own part. See `average_buffers`.
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
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # its older name
        return parallel(model, device_ids=ids, gradient_as_bucket_view=True, **{buffers: False})

    def accumulating(self, model: nn.Module) -> AbstractContextManager[None]:
        """Of what `distributed` gave: within it, forward and backward pass add to this process's gradients only.

        For all parts of a batch but the last one, whose backward pass averages the sums.
        """
        from torch.nn.parallel import DistributedDataParallel

        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

    def average_buffers(self, model: nn.Module) -> None:
        """Make running statistics the same in all processes, their mean, before they are used or saved."""
        if self.count == 1:
            return
        import torch

        with torch.no_grad():
            for buffer in model.buffers():
                total = self.sum(buffer)
                buffer.copy_(total / self.count if total.is_floating_point() else total // self.count)


def _join(backend: str) -> None:
    """Meet the other processes under a name that no start of the job had before.

    torchrun keeps what the processes before a restart left in its store, such as addresses at which nobody answers.
    """
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, rank, count = next(rendezvous("env://", timeout=LONGEST_WAIT))
    store = PrefixStore(agreed_name(store, rank, count), store)
    distributed.init_process_group(backend, timeout=LONGEST_WAIT, store=store, rank=rank, world_size=count)


def agreed_name(store: Store, rank: int, count: int) -> str:
    """A new name, the same for all processes: the first one's, once it has answered to this one's own.

    A name in the store may be that of a first process that has ended; that one answers no more.
    """
    mine = uuid4().hex
    if rank == 0:
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
    """Raises UserError where the exchange fails, as it does when another process has gone."""
    from torch import distributed

    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error).lower():
            raise
        raise UserError(
            "the exchange with the other processes of the job failed; if one has ended, look for what it said, and let "
            f"torchrun --max-restarts 3 start them again ({shorten(str(error), 200)})"
        ) from error


def _several() -> bool:
    """Whether this process has others to find; RANK and WORLD_SIZE alone only divide a job."""
    return this_process()[1] > 1 and "MASTER_ADDR" in os.environ
