"""One job in several processes, as torchrun starts them: https://docs.pytorch.org/docs/stable/elastic/run.html."""

from __future__ import annotations

import os
from datetime import timedelta


def this_process() -> tuple[int, int]:
    """Which of the processes this is, from 1, and how many there are."""
    return int(os.environ.get("RANK", 0)) + 1, int(os.environ.get("WORLD_SIZE", 1))


def local_number() -> int | None:
    """Which of torchrun's processes on this machine this is, from 0, and so the number of its GPU; None without it."""
    number = os.environ.get("LOCAL_RANK")
    return None if number is None else int(number)


def wait_for_all() -> None:
    """Return when every process has come here: torchrun stops the others as soon as one ends with an exit code."""
    if this_process()[1] == 1 or "MASTER_ADDR" not in os.environ:
        return
    from torch import distributed

    distributed.init_process_group("gloo", timeout=timedelta(days=30))
    distributed.barrier()
    distributed.destroy_process_group()
