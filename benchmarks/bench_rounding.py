"""Rounding: a train to smaller ranks, and a sum of trains without forming it."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

import ttlib
from benchmarks import data
from benchmarks.peers import Peer, library_of, load, peers_beside
from benchmarks.records import quotient

ROUNDS, DECAY = 9, 0.8
SAME_ERROR = {"auto": 1.001, "sketch": 1.005}


@dataclass(frozen=True)
class Case:
    """A train of d modes of n and rank `rank`, rounded to `target`."""

    order: int
    mode: int
    rank: int
    target: int
    driver: Literal["auto", "sketch"]
    faster: float | None

    def __str__(self) -> str:
        return f"d={self.order} n={self.mode}, {self.rank} -> {self.target}, {self.driver}"


CASES = [
    pytest.param(Case(10, 20, 50, 10, "auto", 1.6), marks=pytest.mark.quick),
    pytest.param(Case(10, 20, 50, 10, "sketch", 2.2), marks=pytest.mark.quick),
    Case(20, 4, 200, 20, "auto", None),
    Case(20, 4, 200, 20, "sketch", 4.0),
]


def _rounding(peer: Peer, cores: list[Any], target: int) -> Callable[[], data.Cores]:
    train = functools.cache(lambda: peer.train(cores))  # made at its first use, where a failure is only reported
    return lambda: peer.cores(peer.round(train(), target))


def _peers(case: Case, cores: list[np.ndarray], library: data.Library) -> dict[str, Any]:
    """The peers that can round and work on this library's arrays, each with the train as it has it."""
    peers: dict[str, Any] = {}
    for name, peer in peers_beside(library).items():
        if peer.round is not None:
            own = [data.as_library(core, library_of(name)) for core in cores]
            peers[name] = _rounding(peer, own, case.target) if load(peer.module) else None
    return peers


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("case", CASES, ids=str)
def bench_round(case: Case, library: data.Library, race, scale) -> None:
    """A train with decaying spectra to a fixed rank."""
    modes = scale.modes((case.mode,) * case.order)
    cores = data.decaying_cores(modes, rank=case.rank, decay=DECAY)
    exact = ttlib.TensorTrain(cores)
    ours = ttlib.TensorTrain([data.as_library(core, library) for core in cores])

    def error(found: Any) -> float:
        return float((exact - ttlib.TensorTrain([np.asarray(core) for core in found])).norm() / exact.norm())

    record = race(
        table="Rounding",
        case=f"{case}, {library}",
        ours=lambda: ours.round(ranks=case.target, driver=case.driver).cores,
        peers=_peers(case, cores, library),
        rounds=ROUNDS,
        error=error,
    )
    best = record.least_peer_error
    record.facts["error: ttlib, best peer"] = [record.ours.error, best]
    if case.faster is not None:
        record.speed_up("torchTT", case.faster)
    record.at_most("error / the exact one's", quotient(record.ours.error, best), SAME_ERROR[case.driver])


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("count", [pytest.param(4, marks=pytest.mark.quick), 16])
def bench_round_sum(count: int, library: data.Library, race, scale) -> None:
    """`round_sum` beside rounding the sum that has been formed, both ours."""
    modes = scale.modes((20,) * 10)
    like = data.as_library(np.zeros(1), library)
    terms = [ttlib.random(modes, ranks=5, seed=k, like=like) / 4.0**k for k in range(count)]
    total = functools.reduce(operator.add, terms)
    formed = "round of the formed sum"
    record = race(
        table="Sums",
        case=f"{count} terms, d=10 n=20 rank 5, to rank 10, {library}",
        ours=lambda: ttlib.round_sum(terms, ranks=10),
        peers={formed: lambda: functools.reduce(operator.add, terms).round(ranks=10)},
        rounds=ROUNDS,
        error=lambda train: float((train - total).norm() / total.norm()),
    )
    record.facts["error: sketched, formed"] = [record.ours.error, record.peers[formed].error]
