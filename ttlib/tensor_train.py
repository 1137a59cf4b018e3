"""TensorTrain: a tensor as a train of cores, an immutable value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ttlib import _arrays
from ttlib._types import Array, Cores, Shape
from ttlib.cores import algebra
from ttlib.cores.check import shape_of
from ttlib.cores.contraction import factor_pair, reconstruct
from ttlib.cores.scaling import unscale
from ttlib.errors import ShapeError
from ttlib.indexing import check_indices, expand_index
from ttlib.shapes import check_axes, check_integer, find_split
from ttlib.train import Train


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TensorTrain(Train):
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

    _core_dimensions: ClassVar[int] = 3
    _core_axes: ClassVar[str] = "three-dimensional (r, n, r')"

    @property
    def shape(self) -> Shape:
        """The modes (n1, …, nd) of the tensor."""
        return shape_of(self.cores)

    @property
    def T(self) -> TensorTrain:  # noqa: N802  # the name that arrays have for it
        """The tensor with its modes in reverse order, as `numpy.ndarray.T`."""
        return TensorTrain(algebra.reverse(self.cores))

    def to_tensor(self) -> Array:
        """Return the dense tensor (n1, …, nd), calculated in at least float32, in the dtype of the cores."""
        cores, exponent = unscale(self._working())
        return _arrays.astype(_arrays.ldexp(reconstruct(cores), exponent), self.dtype)

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
        if rows == 1 or cols == 1:  # one of the factors is an outer bond, which is 1
            one = _arrays.namespace(*self.cores).ones((1, 1), dtype=self.dtype, device=self.device)
            matrix = self.to_matrix(rows, cols)
            return (one, matrix) if rows == 1 else (matrix, one)
        split = find_split(self.shape, rows=rows, cols=cols)
        left, right = factor_pair(self._balanced(), split)
        left = _arrays.copied(left) if split == 1 else left  # one core is only reshaped
        right = _arrays.copied(right) if split == self.order - 1 else right
        return _arrays.astype(left, self.dtype), _arrays.astype(right, self.dtype)

    def __getitem__(self, index: Any) -> TensorTrain | Array:
        """Return an entry for d ints, a smaller train where slices remain; as numpy, without None and masks.

        >>> import ttlib
        >>> tt = ttlib.ones((3, 4, 5))
        >>> float(tt[0, -1, 2]), tt[0, ..., 1:3].shape
        (1.0, (4, 2))

        Raises ShapeError for an index out of range, BackendError for one that is neither int nor slice.
        """
        picks = expand_index(index, self.shape)
        cores = tuple(
            core[:, pick, :] if isinstance(pick, slice) else core
            for core, pick in zip(self._balanced(), picks, strict=True)
        )
        fixed = {k: core[:, picks[k], :] for k, core in enumerate(cores) if isinstance(picks[k], int)}
        return self._contract(cores, fixed)

    def sum(self, axis: int | Sequence[int] | None = None) -> TensorTrain | Array:
        """Return the sum over the modes *axis* (all by default): a smaller train, the marginal, or a scalar.

        >>> import ttlib
        >>> tt = ttlib.ones((3, 4, 5))
        >>> float(tt.sum()), tt.sum(axis=(0, -1)).shape
        (60.0, (4,))
        """
        xp = _arrays.namespace(*self.cores)
        cores = self._balanced()
        summed = {k: xp.sum(cores[k], axis=1) for k in check_axes(axis, order=self.order)}
        return self._contract(cores, summed) if summed else self

    def elements(self, indices: Any) -> Array:
        """Return the entries (B,) at the rows of an integer index array (B, d); negative indices count from the end.

        >>> import numpy as np, ttlib
        >>> ttlib.rank_one([np.arange(3.0), np.arange(4.0)]).elements(np.array([[2, 3], [-1, 1]])).tolist()
        [6.0, 2.0]

        Differentiable in the cores.  Raises ShapeError, BackendError.
        """
        checked = check_indices(indices, self.shape)
        columns = [_arrays.as_indices(checked[:, k], like=self.cores[0]) for k in range(self.order)]
        cores, exponent = unscale(self._working())
        return _arrays.astype(_arrays.ldexp(algebra.entries(cores, columns), exponent), self.dtype)

    def __matmul__(self, other: TensorTrain) -> Array:
        """Return the sum over all entries of the product of two trains, without conjugation, as for two vectors."""
        if not isinstance(other, TensorTrain):
            return NotImplemented
        return self.conj().dot(other)

    def _contract(self, cores: Cores, matrices: dict[int, Array]) -> TensorTrain | Array:
        result = algebra.contract_modes(cores, matrices)
        if isinstance(result, tuple):
            return self._like(result)
        return _arrays.astype(result, self.dtype)[()]

    def _fused(self) -> Cores:
        return self.cores

    def _like(self, cores: Cores) -> TensorTrain:
        return TensorTrain(tuple(_arrays.astype(core, self.dtype) for core in cores))

    def _modes(self) -> Shape:
        return self.shape

    def _layout(self) -> object:
        return self.shape

    def __repr__(self) -> str:
        return (
            f"TensorTrain(shape={self.shape}, ranks={self.ranks}, parameters={self.parameters:,}, "
            f"compression={self.compression:.1f}x, {_arrays.library(self.cores[0])} "
            f"{_arrays.dtype_name(self.dtype)})"
        )
