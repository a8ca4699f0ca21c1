"""Total and available memory: of the machine, the container, the batch job."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
OWN_CGROUP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")
UNKNOWN = 8 * 2**30  # bytes assumed where the system doesn't report them

# Files of a control group (version 2 and 1) with its limit and usage, and the entry of memory.stat for the inactive
# page cache: it counts as used, but the kernel reclaims it on demand.
VERSION_2 = ("memory.max", "memory.current", "inactive_file")
VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def total_memory() -> int:
    """Bytes that all processes here may use together: the machine's memory, or the lowest limit of the enclosing
    control groups."""
    return min([_physical(), *(allowed for allowed, _ in _limits())])


def unused_memory() -> int:
    """Bytes of the machine's memory that this process can still allocate."""
    return max(0, min([_available(), *(allowed - used for allowed, used in _limits())]))


def _physical() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return UNKNOWN


def _available() -> int:
    """MemAvailable of /proc/meminfo; without it, the machine's total memory."""
    lines = MEMINFO.read_text().splitlines() if MEMINFO.is_file() else []
    sizes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return sizes[0] * 1024 if sizes else _physical()


def _limits() -> Iterator[tuple[int, int]]:
    """Limit and usage of this process's control groups and of their ancestors."""
    for line in OWN_CGROUP.read_text().splitlines() if OWN_CGROUP.is_file() else ():
        _, controllers, own = line.split(":", 2)
        if not controllers:
            yield from _limits_from(CGROUPS, own, *VERSION_2)
        elif "memory" in controllers.split(","):
            yield from _limits_from(CGROUPS / "memory", own, *VERSION_1)


def _limits_from(root: Path, own: str, limit: str, used: str, reclaimable: str) -> Iterator[tuple[int, int]]:
    """Limit and usage of the group `own` below `root`, and of each ancestor. Within a container the path may be that of
    the host, and the root is the container's own group."""
    inner = root / own.strip("/")
    for folder in (inner, *inner.parents):
        allowed = _text(folder / limit).strip()
        if allowed.isdigit():
            statistics = dict(line.split(None, 1) for line in _text(folder / "memory.stat").splitlines())
            yield int(allowed), int(_text(folder / used) or 0) - int(statistics.get(reclaimable, 0))
        if folder == root:
            return


def _text(path: Path) -> str:
    """The file's text; '' where the system doesn't expose it."""
    try:
        return path.read_text()
    except OSError:
        return ""
