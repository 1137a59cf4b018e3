"""The other libraries: how each decomposes a tensor and rounds a train.  None of them has to be there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from benchmarks.data import Cores, Library

EXACT = 1e-14  # for a library that always wants a tolerance


def load(module: str) -> bool:
    """Tell whether a module is there, and import it, so that no import is timed.

    One that is there but cannot be imported will say so when it is used: that is where failures are recorded.
    """
    if find_spec(module.partition(".")[0]) is None:
        return False
    with suppress(Exception):
        import_module(module)
    return True


@dataclass(frozen=True)
class Peer:
    """A library: its module, and its own words for the two operations."""

    module: str
    decompose: Callable[[Any, int | None, float | None], Cores]
    # Takes cores, returns the train as the library has it, so that conversion is not timed …
    train: Callable[[Cores], Any] | None = None
    round: Callable[[Any, int], Any] | None = None
    # … and this gives its cores.
    cores: Callable[[Any], Cores] = lambda train: train.cores


def _torchtt_decompose(tensor: Any, rank: int | None, eps: float | None) -> Cores:
    options = {} if rank is None else {"rmax": rank}
    return import_module("torchtt").TT(tensor, eps=EXACT if eps is None else eps, **options).cores


def _tensorly_decompose(tensor: Any, rank: int | None, eps: float | None, *, backend: str) -> Cores:
    if eps is not None:
        msg = "tensorly's TT-SVD takes ranks, no tolerance"
        raise NotImplementedError(msg)
    tensorly = import_module("tensorly")
    inner = [rank] * (tensor.ndim - 1)
    with tensorly.backend_context(backend, local_threadsafe=True):
        return import_module("tensorly.decomposition").tensor_train(tensor, rank=[1, *inner, 1]).factors


def _teneva_decompose(tensor: Any, rank: int | None, eps: float | None) -> Cores:
    return import_module("teneva").svd(tensor, e=EXACT if eps is None else eps, r=rank or 1e12)


def _quimb_state(train: Any) -> Any:
    state = train.copy()
    state.permute_arrays("lpr")
    return state


def _quimb_cores(train: Any) -> Cores:
    first, *inner, last = _quimb_state(train).arrays
    return [first[None], *inner, last[..., None]]


def _quimb_decompose(tensor: Any, rank: int | None, eps: float | None) -> Cores:
    product_state = import_module("quimb.tensor").MatrixProductState
    options = {"cutoff": 0.0} if eps is None else {"cutoff": eps**2 / (tensor.ndim - 1), "cutoff_mode": "rsum2"}
    return _quimb_cores(product_state.from_dense(tensor, dims=tensor.shape, max_bond=rank, **options))


def _quimb_train(cores: Cores) -> Any:
    first, *inner, last = cores
    return import_module("quimb.tensor").MatrixProductState([first[0], *inner, last[..., 0]], shape="lpr")


def _quimb_round(train: Any, rank: int) -> Any:
    copy = train.copy()
    copy.compress(max_bond=rank, cutoff=0.0)
    return copy


def _tntorch_decompose(tensor: Any, rank: int | None, eps: float | None) -> Cores:
    options = {"ranks_tt": rank} if eps is None else {"eps": eps}
    return import_module("tntorch").Tensor(tensor, **options).cores


NUMPY_PEERS = {
    "tensorly": Peer("tensorly.decomposition", partial(_tensorly_decompose, backend="numpy")),
    "teneva": Peer(
        "teneva",
        _teneva_decompose,
        train=list,
        round=lambda train, rank: import_module("teneva").truncate(train, EXACT, rank),
        cores=list,
    ),
    "quimb": Peer("quimb.tensor", _quimb_decompose, train=_quimb_train, round=_quimb_round, cores=_quimb_cores),
}
TORCH_PEERS = {
    "torchTT": Peer(
        "torchtt",
        _torchtt_decompose,
        train=lambda cores: import_module("torchtt").TT(list(cores)),
        round=lambda train, rank: train.round(EXACT, rank),
    ),
    "tensorly (torch)": Peer("tensorly.decomposition", partial(_tensorly_decompose, backend="pytorch")),
    "tntorch": Peer(
        "tntorch",
        _tntorch_decompose,
        train=lambda cores: import_module("tntorch").Tensor(list(cores)),
        round=lambda train, rank: import_module("tntorch").round_tt(train, rmax=rank),
    ),
}


def peers_beside(library: Library) -> dict[str, Peer]:
    """The peers that work on a library's arrays, and torchTT, which every case is measured by."""
    return TORCH_PEERS if library == "torch" else {**NUMPY_PEERS, "torchTT": TORCH_PEERS["torchTT"]}


def library_of(peer: str) -> Library:
    """Whose arrays a peer takes."""
    return "torch" if peer in TORCH_PEERS else "numpy"
