"""TensorTrain: a tensor as a train of cores, an immutable value."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ttlib import _arrays
from ttlib._types import Array, Cores, Ranks, Shape
from ttlib.cores.contraction import factor_pair, reconstruct
from ttlib.errors import BackendError, RankError, ShapeError
from ttlib.shapes import check_integer, find_split


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TensorTrain:
    """A tensor A[i1, …, id] = G1[:, i1, :] G2[:, i2, :] … Gd[:, id, :] (Oseledets 2011).

    >>> import numpy as np, ttlib
    >>> tt = ttlib.decompose(np.ones((768, 64)), shape=[8, 8, 12, 8, 8], ranks=5)
    >>> tt.ranks, tt.to_matrix(768, 64).shape
    ((1, 1, 1, 1, 1, 1), (768, 64))

    Args:
        cores: arrays of one library, dtype and device, core k of shape (r[k-1], n[k], r[k]), r[0] = r[d] = 1.
            The tuple is kept, the arrays are not copied.

    Raises:
        ShapeError, RankError, BackendError: when the cores do not form a train.
    """

    cores: Cores

    def __post_init__(self) -> None:
        if not isinstance(self.cores, Iterable) or hasattr(self.cores, "dtype"):
            msg = f"cores must be a sequence of three-dimensional arrays, got {type(self.cores).__name__}"
            raise ShapeError(msg)
        object.__setattr__(self, "cores", tuple(self.cores))
        _check_cores(self.cores)

    @property
    def shape(self) -> Shape:
        """The modes (n1, …, nd) of the tensor."""
        return tuple(int(core.shape[1]) for core in self.cores)

    @property
    def ranks(self) -> Ranks:
        """The d+1 bond dimensions, with a 1 at both ends."""
        return (1, *(int(core.shape[2]) for core in self.cores))

    @property
    def order(self) -> int:
        """The number of modes d."""
        return len(self.cores)

    @property
    def parameters(self) -> int:
        """Numbers stored, over all cores."""
        return sum(math.prod(core.shape) for core in self.cores)

    @property
    def size(self) -> int:
        """Numbers stored, as scipy's sparse arrays count: `nbytes` is `size` times the item size.

        The dense tensor has `math.prod(tt.shape)` entries.
        """
        return self.parameters

    @property
    def nbytes(self) -> int:
        """Bytes stored, over all cores."""
        return sum(_arrays.nbytes(core) for core in self.cores)

    @property
    def compression(self) -> float:
        """Entries of the dense tensor per stored number."""
        return math.prod(self.shape) / self.parameters

    @property
    def dtype(self) -> Any:
        """The dtype of the cores."""
        return self.cores[0].dtype

    @property
    def device(self) -> Any:
        """The device of the cores, in the words of their library."""
        return _arrays.device(self.cores[0])

    def to_tensor(self) -> Array:
        """Return the dense tensor (n1, …, nd), calculated in at least float32, in the dtype of the cores."""
        return _arrays.astype(reconstruct(self._working_cores()), self.dtype)

    def to_matrix(self, rows: int, cols: int) -> Array:
        """Return the dense (rows, cols) matrix, the row-major reshape of the tensor.

        Raises ShapeError unless rows * cols is the number of entries.
        """
        rows, cols = check_integer(rows, name="rows"), check_integer(cols, name="cols")
        if rows * cols != math.prod(self.shape):
            msg = f"a {rows} x {cols} matrix has {rows * cols} entries, this tensor {math.prod(self.shape)}"
            raise ShapeError(msg)
        return _arrays.reshape(self.to_tensor(), (rows, cols))

    def factor_pair(self, rows: int, cols: int) -> tuple[Array, Array]:
        """Return U (rows, r) and V (r, cols) with U V the (rows, cols) matrix, without forming it.

        Raises ShapeError when no mode boundary lies between rows and columns.
        """
        split = find_split(self.shape, rows=rows, cols=cols)
        if split == self.order:  # one column: the right factor is the last bond, which is 1
            xp = _arrays.namespace(*self.cores)
            column = _arrays.reshape(self.to_tensor(), (rows, 1))
            return column, xp.ones((1, 1), dtype=self.dtype, device=self.device)
        left, right = factor_pair(self._working_cores(), split)
        return _arrays.astype(left, self.dtype), _arrays.astype(right, self.dtype)

    def _working_cores(self) -> Cores:
        dtype = _arrays.compute_dtype(self.cores[0])
        return tuple(_arrays.astype(core, dtype) for core in self.cores)

    def __repr__(self) -> str:
        return (
            f"TensorTrain(shape={self.shape}, ranks={self.ranks}, parameters={self.parameters:,}, "
            f"compression={self.compression:.1f}x, {_arrays.library(self.cores[0])} "
            f"{_arrays.dtype_name(self.dtype)})"
        )


def _check_cores(cores: Cores) -> None:
    if not cores:
        msg = "a tensor train needs at least one core, got none"
        raise ShapeError(msg)
    _arrays.namespace(*cores)
    left = 1
    for k, core in enumerate(cores):
        if core.ndim != 3 or 0 in core.shape:
            msg = f"core {k} has shape {tuple(core.shape)}: cores are three-dimensional (r, n, r'), no side empty"
            raise ShapeError(msg)
        if core.shape[0] != left:
            msg = f"core {k} has shape {tuple(core.shape)}, but the bond to its left has rank {left}"
            raise RankError(msg)
        if core.dtype != cores[0].dtype or _arrays.device(core) != _arrays.device(cores[0]):
            msg = (
                f"core {k} is {core.dtype} on {_arrays.device(core)}, core 0 is {cores[0].dtype} on "
                f"{_arrays.device(cores[0])}: give all cores one dtype and device"
            )
            raise BackendError(msg)
        left = int(core.shape[2])
    if left != 1:
        msg = f"the last core has shape {tuple(cores[-1].shape)}: its right rank must be 1, got {left}"
        raise RankError(msg)
