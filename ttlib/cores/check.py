"""What makes a sequence of arrays a train, and what its shape and ranks are."""

from __future__ import annotations

from collections.abc import Sequence

from ttlib import _arrays
from ttlib._types import Array, Cores, Ranks, Shape
from ttlib.errors import BackendError, RankError, ShapeError


def check_cores(cores: Cores, *, dimensions: int, axes: str) -> None:
    """Raise ShapeError, RankError or BackendError unless the cores, described by *axes*, form a train."""
    if not cores:
        msg = "a train needs at least one core, got none"
        raise ShapeError(msg)
    _arrays.namespace(*cores)
    left = 1
    for k, core in enumerate(cores):
        if not _arrays.is_floating(core) or core.dtype != _arrays.result_dtype(core):
            msg = (
                f"core {k} has dtype {core.dtype}: cores hold one of {', '.join(_arrays.FLOATING)}, in the byte order "
                f"of the machine; convert them first"
            )
            raise BackendError(msg)
        if core.ndim != dimensions or 0 in core.shape:
            msg = f"core {k} has shape {tuple(core.shape)}: cores are {axes}, no side empty"
            raise ShapeError(msg)
        if core.shape[0] != left:
            msg = f"core {k} has shape {tuple(core.shape)}, but the bond to its left has rank {left}"
            raise RankError(msg)
        if not _arrays.agree(core, cores[0]):
            msg = (
                f"core {k} is {_arrays.describe(core)}, core 0 is {_arrays.describe(cores[0])}: give all cores one "
                f"dtype and device"
            )
            raise BackendError(msg)
        left = int(core.shape[-1])
    if left != 1:
        msg = f"the last core has shape {tuple(cores[-1].shape)}: its right rank must be 1, got {left}"
        raise RankError(msg)


def shape_of(cores: Sequence[Array]) -> Shape:
    """Return the modes (n1, …, nd) of cores (r, n, r')."""
    return tuple(int(core.shape[1]) for core in cores)


def ranks_of(cores: Sequence[Array]) -> Ranks:
    """Return the d+1 bond dimensions, with a 1 at both ends."""
    return (1, *(int(core.shape[-1]) for core in cores))
