"""How many processors and how much memory this process may use: a container often has less than its machine."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
_UNKNOWN = 4 << 30  # bytes, where the system does not say: what the smallest machine for this has


def usable_processors(*, proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """The number of processors that this process may use, at least 1.

    On Linux, those that it may run on, and no more than the quotas of its control groups (version 1 and 2) pay for.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([count, *_quotas(proc, cgroups)]))


def available_memory(*, proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """The bytes of memory that this process may still take without swapping or being killed.

    On Linux, what the machine has available and what the limits of all its control groups (version 1 and 2) leave;
    files in the cache do not count as used, for the kernel drops them when memory is needed.
    """
    rooms = [*_machine(proc), *_rooms(proc, cgroups)]
    return max(0, min(rooms)) if rooms else _fallback()


def _machine(proc: Path) -> Iterator[int]:
    with suppress(OSError, ValueError, IndexError):
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024


def _rooms(proc: Path, cgroups: Path) -> Iterator[int]:
    for group, version in _groups("memory", proc, cgroups):
        limit, used = ("memory.max", "memory.current")
        if version == 1:
            limit, used = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        with suppress(OSError, ValueError):  # ValueError: "max"
            yield int((group / limit).read_text()) - int((group / used).read_text()) + _cached(group, version)


def _cached(group: Path, version: int) -> int:
    prefix = "total_" if version == 1 else ""
    with suppress(OSError, ValueError):
        sizes = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return sum(int(sizes.get(f"{prefix}{which}_file", 0)) for which in ("active", "inactive"))
    return 0


def _quotas(proc: Path, cgroups: Path) -> Iterator[int]:
    for group, version in _groups("cpu", proc, cgroups):
        with suppress(OSError, ValueError):  # ValueError: "max"
            if version == 1:
                quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            else:
                quota, period = (group / "cpu.max").read_text().split()
            if int(quota) > 0:
                yield math.ceil(int(quota) / int(period))


def _groups(controller: str, proc: Path, cgroups: Path) -> Iterator[tuple[Path, int]]:
    """Our control group and those around it, with their version.  In a container only the uppermost may be visible."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = cgroups / controller if controllers else cgroups
        folder = root / own.strip("/")
        for group in [folder, *folder.parents]:
            yield group, 1 if controllers else 2
            if group == root:
                break


def _fallback() -> int:
    with suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return _UNKNOWN
