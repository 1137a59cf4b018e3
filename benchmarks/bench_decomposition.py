"""TT-SVD: dense tensors to trains, by rank and by tolerance, and how the time grows with the tensor."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
import torch

import ttlib
from benchmarks import data
from benchmarks.peers import NUMPY_PEERS, TORCH_PEERS, library_of, load, peers_beside
from benchmarks.records import quotient

AUTO_ERROR, SKETCH_ERROR, MEMORY, GROWTH = 1.001, 1.005, 0.5, 1.10
PRODUCT = "skinny product"
# What the specialised C++ library pitts takes for [2]*24, as multiples of the same product on the same machine
# (0.086 s and 0.252 s beside 0.0185 s).
PITTS = {10: 4.7, 50: 13.6}
SPECTRA = {"Gaussian": data.gaussian, "decaying": data.decaying}


@dataclass(frozen=True)
class Case:
    """One tensor, one question, and how many times faster than which peer the answer is wanted."""

    name: str
    modes: tuple[int, ...]
    faster: Mapping[str, float]
    dtype: str = "float32"
    spectrum: Literal["Gaussian", "decaying"] = "Gaussian"
    rank: int | None = None
    eps: float | None = None
    driver: Literal["auto", "sketch"] = "auto"
    others: tuple[str, ...] = ()  # peers without a target
    rounds: int = 3

    def __str__(self) -> str:
        question = f"rank {self.rank}" if self.eps is None else f"eps {self.eps:g}"
        sketch = ", sketch" if self.driver == "sketch" else ""
        return f"{self.name} {self.dtype} {self.spectrum}, {question}{sketch}"


SQUARE = functools.partial(Case, "4096 x 4096 as [16]*6", (16,) * 6)
WEIGHT = functools.partial(Case, "768 x 768 as [8, 8, 12, 12, 8, 8]", (8, 8, 12, 12, 8, 8), rounds=7)
BINARY = functools.partial(Case, "[2]*24", (2,) * 24, dtype="float64")
CUBE = functools.partial(Case, "[32]*5", (32,) * 5, dtype="float64")
EVERYONE = (*NUMPY_PEERS, *TORCH_PEERS)
FIVE = {"torchTT": 50, "tensorly": 110, "teneva": 110}

CASES = [
    pytest.param(SQUARE(FIVE, rank=5, others=EVERYONE), marks=pytest.mark.quick),
    SQUARE({"torchTT": 60}, rank=16, others=("tensorly",)),
    SQUARE({"torchTT": 14}, rank=64, others=("tensorly",)),
    SQUARE({"torchTT": 40}, rank=64, driver="sketch"),
    SQUARE(FIVE, rank=5, spectrum="decaying"),
    SQUARE({"torchTT": 60}, rank=16, spectrum="decaying"),
    SQUARE({"torchTT": 14}, rank=64, spectrum="decaying"),
    SQUARE({"torchTT": 40}, rank=64, spectrum="decaying", driver="sketch"),
    SQUARE({"torchTT": 30}, eps=1e-1, spectrum="decaying", others=("quimb",)),
    SQUARE({"torchTT": 30}, eps=1e-2, spectrum="decaying", others=("quimb",)),
    pytest.param(WEIGHT({"torchTT": 10, "tensorly": 20}, rank=5, others=EVERYONE), marks=pytest.mark.quick),
    WEIGHT({"torchTT": 10, "tensorly": 20}, rank=5, spectrum="decaying", others=EVERYONE),
    BINARY({"torchTT": 60}, rank=10, others=("tensorly", PRODUCT)),
    BINARY({"torchTT": 60}, rank=50, others=(PRODUCT,)),
    CUBE({"torchTT": 30}, rank=10, others=("tensorly",)),
    CUBE({"torchTT": 12}, rank=50),
]


@functools.lru_cache(maxsize=1)  # the cases that share a tensor stand together
def _tensor(spectrum: str, modes: tuple[int, ...], dtype: str) -> np.ndarray:
    tensor = SPECTRA[spectrum](modes, np.dtype(dtype).type)
    tensor.flags.writeable = False
    return tensor


def _peers(case: Case, tensor: np.ndarray, library: data.Library) -> dict[str, Any]:
    """The peers of the case that work on this library's arrays."""
    peers: dict[str, Any] = {}
    for name, peer in peers_beside(library).items():
        if name in case.faster or name in case.others:
            array = data.as_library(tensor, library_of(name))
            work = functools.partial(peer.decompose, array, case.rank, case.eps)
            peers[name] = work if load(peer.module) else None
    if PRODUCT in case.others:
        operands = (
            tensor.reshape(-1, 16),
            np.ones((16, 4), tensor.dtype),
            np.empty((tensor.size // 16, 4), tensor.dtype),
        )
        tall, thin, product = (data.as_library(operand, library) for operand in operands)
        multiply = np.matmul if library == "numpy" else torch.matmul
        peers[PRODUCT] = lambda: multiply(tall, thin, out=product)
    return peers


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("case", CASES, ids=str)
def bench_tt_svd(case: Case, library: data.Library, race, scale) -> None:
    """One tensor by one library, beside the peers that work on its arrays."""
    tensor = _tensor(case.spectrum, scale.modes(case.modes), case.dtype)
    array = data.as_library(tensor, library)
    record = race(
        table="TT-SVD",
        case=f"{case}, {library}",
        ours=lambda: ttlib.decompose(array, ranks=case.rank, eps=case.eps, driver=case.driver).cores,
        peers=_peers(case, tensor, library),
        rounds=case.rounds,
        # the skinny product is no train
        error=lambda found: data.relative_error(found, tensor) if isinstance(found, (list, tuple)) else None,
        memory=True,
    )
    for peer, limit in case.faster.items():
        record.speed_up(peer, limit)
    if case.rank in PITTS and PRODUCT in case.others:
        record.cost(PRODUCT, PITTS[case.rank])
    _ask_for_accuracy(case, record, tensor.nbytes)


def _ask_for_accuracy(case: Case, record, size: int) -> None:
    extra = quotient(record.ours.peak_bytes, size)
    record.facts["extra memory / input: ttlib, torchTT"] = [extra, quotient(record.peers["torchTT"].peak_bytes, size)]
    record.at_most("extra memory", extra, MEMORY)
    best = record.least_peer_error
    record.facts["error: ttlib, best peer"] = [record.ours.error, best]
    if case.eps is not None:
        record.at_most("error / eps", record.ours.error / case.eps, 1.0)
    else:
        limit = SKETCH_ERROR if case.driver == "sketch" else AUTO_ERROR
        record.at_most("error / LAPACK's", quotient(record.ours.error, best), limit)


@pytest.mark.parametrize("library", [pytest.param("numpy", marks=pytest.mark.quick), "torch"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def bench_growth(dtype: str, library: data.Library, race, scale) -> None:
    """From 2^24 to 2^27 entries (2^20 to 2^23 for a quick look): the time an entry takes stays."""
    least = {"full": 24, "quick": 20, "tiny": 4}[scale.name]
    orders = range(least, least + 4)
    entries = data.as_library(data.gaussian((2 ** orders[-1],), np.dtype(dtype).type), library)

    def work(order: int):
        tensor = entries[: 2**order].reshape((2,) * order)
        return lambda: ttlib.decompose(tensor, ranks=10)

    first, *larger = orders
    record = race(
        table="Growth",
        case=f"{dtype}, {library}, rank 10, beside [2]*{first}",
        ours=work(first),
        peers={f"[2]*{order}": work(order) for order in larger},
        rounds=3,
        memory=True,
    )
    record.facts["ns an entry"] = 1e9 * record.ours.seconds / 2**first
    for order in larger:
        name = f"[2]*{order}"
        record.at_most(f"an entry of {name}", quotient(record.peers[name].ratio, 2 ** (order - first)), GROWTH)
