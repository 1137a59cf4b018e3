"""The peak of resident memory that a call adds, whoever allocates: numpy, torch or a BLAS.

Linux keeps the high-water mark of a process in /proc/self/status and resets it through /proc/self/clear_refs.  Freed
memory that the C library has kept would be used again unseen, so it is handed back first.  Elsewhere: not measured.
"""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path
from typing import Self

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


class PeakMemory:
    """A block of work whose peak of added memory is `bytes` afterwards, what it leaves behind included."""

    bytes: int | None = None

    def __enter__(self) -> Self:
        hand_back_freed_memory()
        try:
            _RESET.write_text(_RESET_PEAK)
        except OSError:
            self._before = None
        else:
            self._before = _status_bytes("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            self.bytes = max(0, _status_bytes("VmHWM") - self._before)


def hand_back_freed_memory() -> None:
    """Return to the system what was freed but is kept for later: pieces of it, where glibc allocates."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


def _status_bytes(name: str) -> int:
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
