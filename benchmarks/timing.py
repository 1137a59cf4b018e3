"""Time two things in turn, so that a drift of the machine's speed hits both; what counts is the ratio."""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """Median CPU seconds of ours and of the peer, and the median of the pairwise ratios ours / peer."""

    ours: float
    peer: float
    ratio: float


def compare(ours: Callable[[], object], peer: Callable[[], object], *, rounds: int = 7) -> Ratio:
    """Run both in turn, after one warm-up each."""
    ours(), peer()
    pairs = [(_cpu_seconds(ours), _cpu_seconds(peer)) for _ in range(rounds)]
    return Ratio(
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(a / b for a, b in pairs),
    )


def peak_megabytes(work: Callable[[], object]) -> float:
    """Peak of what Python's allocator (numpy included, torch not) gave out on top of what was there."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def _cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
