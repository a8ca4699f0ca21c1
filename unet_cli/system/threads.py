"""How many threads the system lets us start: a container or `ulimit -u` may allow fewer than there are processors."""

from __future__ import annotations

import os
import threading

from unet_cli.system.prefetch import default_workers, usable_processors

POOLS = 3  # torch's, and those of the linear algebra in numpy and scipy, each with a thread for each processor
OTHERS = 4  # that hand on batches, and a few to spare
SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def compute_alone_where_limited(workers: int | None) -> bool:
    """Have torch and numpy compute in a single thread where the system doesn't allow all that they would start, and
    return whether that is so. They don't ask: the process ends, or is interrupted, where one can't be started.

    workers: threads that read, None for the default. Has to come before numpy and torch are loaded.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(asked) if asked.isdigit() else usable_processors()
    wanted = POOLS * (threads - 1) + (workers or default_workers()) + OTHERS
    if threads < 2 or startable(wanted) == wanted:
        return False
    os.environ |= dict.fromkeys(SETTINGS, "1")
    return True


def startable(wanted: int) -> int:
    """How many of so many threads can be started beside those that there are."""
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
