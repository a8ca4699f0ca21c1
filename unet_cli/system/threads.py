"""The number of threads that can be started: a container or `ulimit -u` may allow fewer than there are processors."""

from __future__ import annotations

import os
import threading

from unet_cli.system.prefetch import default_workers, usable_processors

POOLS = 3  # thread pools of torch, and of the BLAS of numpy and of scipy, each with a thread per processor
OTHERS = 4  # threads that prefetch batches, and a reserve
SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def compute_alone_where_limited(workers: int | None) -> bool:
    """Restrict torch and numpy to a single thread if the system does not allow all threads that they would start;
    returns whether that is so. They do not handle the failure: the process ends or hangs.

    workers: number of reading threads, None for the default. Must be called before numpy and torch are imported.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(asked) if asked.isdigit() else usable_processors()
    wanted = POOLS * (threads - 1) + (workers or default_workers()) + OTHERS
    if threads < 2 or startable(wanted) == wanted:
        return False
    os.environ |= dict.fromkeys(SETTINGS, "1")
    return True


def startable(wanted: int) -> int:
    """How many of `wanted` threads can be started beside the present ones."""
    done = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(wanted):
            thread = threading.Thread(target=done.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:  # can't start new thread
        pass
    finally:
        done.set()
        for thread in started:
            thread.join()
    return len(started)
