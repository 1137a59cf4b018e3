"""Peak memory of a stretch of code, sampled from outside it."""

from __future__ import annotations

import gc
import threading
from typing import Self

import psutil
import torch

_MEGABYTE = 1e6


class PeakMemory:
    """Context manager: the highest memory use seen while it was open, in `peak_mb` (10**6 bytes).

    On a CUDA machine this is the peak of PyTorch's allocator. Elsewhere it is the highest resident set of the
    *whole process*, libraries and data included, sampled by a thread: compare methods of one run with each other,
    not with figures of another tool.
    """

    def __init__(self, *, interval_seconds: float = 0.02) -> None:
        self.peak_mb = 0.0
        self._interval_seconds = interval_seconds
        self._process = psutil.Process()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample_until_stopped, name="peak-memory", daemon=True)

    def __enter__(self) -> Self:
        gc.collect()  # what an earlier method left behind must not count for this one
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        else:
            self._sample()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if torch.cuda.is_available():
            self.peak_mb = torch.cuda.max_memory_allocated() / _MEGABYTE
            return
        self._stop.set()
        self._thread.join()
        self._sample()

    def _sample_until_stopped(self) -> None:
        while not self._stop.wait(self._interval_seconds):
            self._sample()

    def _sample(self) -> None:
        self.peak_mb = max(self.peak_mb, self._process.memory_info().rss / _MEGABYTE)
