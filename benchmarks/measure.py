"""Ours and its peers in turn, by the CPU clock of the process: a peer, then ours, then the next peer, then ours …

Every peer's time is divided by that of ours right after it, so a drift of the machine's speed meets both.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.memory import PeakMemory
from benchmarks.records import Measure, Record

Work = Callable[[], Any]
# A peer whose first run takes longer is not run again, and where ours does there is one round.
SLOW_SECONDS = 1.0
NOT_INSTALLED = "not installed"


class Entrant:
    """One way to do the work, and what was seen of it."""

    def __init__(self, work: Work, sample_seconds: float) -> None:
        self.work = work
        self.sample_seconds = sample_seconds
        self.calls = 1  # in a sample
        self.seconds: list[float] = []
        self.ratios: list[float] = []
        self.peak_bytes: int | None = None
        self.result: Any = None
        self.error: float | None = None
        self.failure: str | None = None

    def run(self) -> None:
        """Do the work as often as a sample wants."""
        for _ in range(self.calls):
            self.result = self.work()

    def sample(self) -> None:
        """Time a run and keep the seconds of one call."""
        start = time.process_time()
        self.run()
        self.seconds.append((time.process_time() - start) / self.calls)

    def first_run(self, *, memory: bool) -> float:
        """Do the work once, see what memory it takes if asked, and decide how often a sample repeats it."""
        self.result = None  # an old one is no part of the peak
        if memory:
            with PeakMemory() as peak:
                self.sample()
            self.peak_bytes = peak.bytes
        else:
            self.sample()
        (seconds,) = self.seconds
        self.calls = max(1, math.ceil(self.sample_seconds / max(seconds, 1e-7)))
        return seconds

    def judge(self, error: Callable[[Any], float | None]) -> None:
        """Keep the error of the last result, and let the result go."""
        self.error = error(self.result)
        self.result = None
        if self.error is not None and not math.isfinite(self.error):
            msg = f"the error is {self.error}"
            raise ArithmeticError(msg)

    def measure(self) -> Measure:
        """What there is to tell."""
        if self.failure is not None:
            return Measure(missing=self.failure)
        return Measure(
            seconds=statistics.median(self.seconds),
            ratio=statistics.median(self.ratios) if self.ratios else None,
            rounds=len(self.seconds),
            error=self.error,
            peak_bytes=self.peak_bytes,
        )


class Peer(Entrant):
    """A peer: one that is slow runs once, one that fails is told of, and neither holds up anybody."""

    started = finished = False

    def attempt(self, action: Callable[[], None]) -> None:
        """Do it unless an earlier attempt failed."""
        if self.failure is None:
            try:
                action()
            except Exception as error:
                self.failure = f"failed: {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:80]}"
                self.finished = True

    def take_turn(self, *, memory: bool) -> None:
        """Warm up in the first turn, whose time counts only where there will be no other; then add a sample."""
        if self.finished:
            return
        if self.started:
            if memory:
                self.work()  # see _take_turns
            self.sample()
            return
        self.started = True
        self.finished = self.first_run(memory=memory) > SLOW_SECONDS
        if not self.finished:
            self.seconds.clear()


def race(
    benchmark: Any,
    *,
    table: str,
    case: str,
    ours: Work,
    peers: Mapping[str, Work | None],
    rounds: int,
    error: Callable[[Any], float | None] | None = None,
    memory: bool = False,
    sample_seconds: float = 0.02,
) -> Record:
    """Time ours (through pytest-benchmark's fixture) and the peers in turn, and return the record.

    Args:
        benchmark: the fixture of pytest-benchmark, whose timer must be `time.process_time`.
        peers: None stands for one that is not installed.
        rounds: samples of every peer; one that takes more than a second runs once in all, and where ours does so
            every peer has one.
        error: of a result, measured after the race.
        memory: whether to measure the peak of memory too.
        sample_seconds: shorter work is repeated until a sample takes about this long, so that neither the clock nor one
            interruption counts.
    """
    leader = Entrant(ours, sample_seconds)
    runners = {name: Peer(work, sample_seconds) for name, work in peers.items() if work is not None}
    ours()  # what a library does once and for all: imports, pools of threads
    if leader.first_run(memory=memory) > SLOW_SECONDS:
        rounds = 1
    gc.collect()
    _take_turns(benchmark, leader, list(runners.values()), rounds=rounds, memory=memory)
    if error is not None:
        leader.judge(error)
        for peer in runners.values():
            peer.attempt(lambda peer=peer: peer.judge(error))
    absent = Measure(missing=NOT_INSTALLED)
    seen = {name: runners[name].measure() if name in runners else absent for name in peers}
    return Record(table=table, case=case, ours=leader.measure(), peers=seen)


def _take_turns(benchmark: Any, leader: Entrant, peers: list[Peer], *, rounds: int, memory: bool) -> None:
    """Run a peer and then ours until every peer had its rounds, pytest-benchmark timing ours."""
    turns = peers * (1 + rounds)
    upcoming = iter(turns)
    timed: list[Peer | None] = []

    def a_peer_first() -> None:
        peer = next(upcoming, None)
        before = len(peer.seconds) if peer else 0
        if peer is not None:
            peer.attempt(lambda: peer.take_turn(memory=memory))
        timed.append(peer if peer and len(peer.seconds) > before else None)
        if memory:
            # Work on much memory first pays for getting back what went to the system when the other was done.
            leader.work()

    benchmark.pedantic(leader.run, setup=a_peer_first, rounds=max(len(turns), rounds))
    leader.seconds = [seconds / leader.calls for seconds in benchmark.stats.stats.data]
    for peer, seconds in zip(timed, leader.seconds, strict=True):
        if peer is not None:
            peer.ratios.append(peer.seconds[len(peer.ratios)] / seconds)
