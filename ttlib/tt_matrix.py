"""TTMatrix: a matrix whose row and column indices are split into modes, as a train of cores; an immutable value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, overload

from ttlib import _arrays
from ttlib._types import Array, Cores, Shape, ShapeLike
from ttlib.cores import matrix
from ttlib.cores.contraction import reconstruct
from ttlib.cores.scaling import balance, unscale, widen
from ttlib.errors import BackendError, ShapeError
from ttlib.indexing import expand_index
from ttlib.shapes import check_shape
from ttlib.tensor_train import TensorTrain
from ttlib.train import Train


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TTMatrix(Train):
    """A matrix A[i, j] = G1[:, i1, j1, :] … Gd[:, id, jd, :], row and column modes side by side (Oseledets 2010).

    >>> import ttlib
    >>> eye = ttlib.eye((2, 3, 4))
    >>> eye.shape, eye.ranks, (eye @ eye).parameters
    ((24, 24), (1, 1, 1, 1), 29)

    Unlike a `TensorTrain` over rows and then columns, whose middle rank bounds the rank of the matrix, it can have
    full matrix rank at small ranks: the identity has ranks of 1.

    Args:
        cores: arrays of one library, dtype and device, core k of shape (r[k-1], m[k], n[k], r[k]), r[0] = r[d] = 1.
            The tuple is kept, the arrays are not copied.

    Raises:
        ShapeError, RankError, BackendError: when the cores do not form a train.
    """

    _core_dimensions: ClassVar[int] = 4
    _core_axes: ClassVar[str] = "four-dimensional (r, m, n, r')"

    @property
    def row_shape(self) -> Shape:
        """The row modes (m1, …, md)."""
        return tuple(int(core.shape[1]) for core in self.cores)

    @property
    def col_shape(self) -> Shape:
        """The column modes (n1, …, nd)."""
        return tuple(int(core.shape[2]) for core in self.cores)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix."""
        return math.prod(self.row_shape), math.prod(self.col_shape)

    @property
    def T(self) -> TTMatrix:  # noqa: N802  # the name that arrays have for it
        """The transposed matrix."""
        return TTMatrix(matrix.transpose(self.cores))

    @property
    def H(self) -> TTMatrix:  # noqa: N802
        """The conjugate transposed matrix."""
        return self.T.conj()

    def to_matrix(self) -> Array:
        """Return the dense (rows, cols) matrix, calculated in at least float32, in the dtype of the cores."""
        cores, exponent = unscale(self._working())
        tensor = _arrays.ldexp(reconstruct(cores), exponent)
        return _arrays.astype(matrix.deinterleave(tensor, self.row_shape, self.col_shape), self.dtype)

    def to_tensor_train(self) -> TensorTrain:
        """Return the train over the modes m1 n1, …, md nd, with the same numbers."""
        return TensorTrain(self._fused())

    @classmethod
    def from_tensor_train(cls, tt: TensorTrain, /, *, row_shape: ShapeLike, col_shape: ShapeLike) -> TTMatrix:
        """Return the TT-matrix of a train whose k-th mode is row_shape[k] * col_shape[k]; undoes `to_tensor_train`.

        Raises ShapeError unless the modes multiply so.
        """
        if not isinstance(tt, TensorTrain):
            msg = f"from_tensor_train takes a TensorTrain, got {type(tt).__name__}"
            raise BackendError(msg)
        rows, cols = check_shape(row_shape), check_shape(col_shape)
        if len(rows) != len(cols) or tuple(m * n for m, n in zip(rows, cols, strict=True)) != tt.shape:
            msg = f"row modes {rows} times column modes {cols} must be, one by one, the modes {tt.shape} of the train"
            raise ShapeError(msg)
        return cls(matrix.unfuse(tt.cores, rows, cols))

    def trace(self) -> Array:
        """Return the sum of the diagonal, a scalar.

        Raises ShapeError unless rows and columns have the same modes.
        """
        if self.row_shape != self.col_shape:
            msg = f"the trace needs equal row and column modes, got {self.row_shape} and {self.col_shape}"
            raise ShapeError(msg)
        return _arrays.astype(matrix.trace(balance(widen(self.cores))), self.dtype)[()]

    def __getitem__(self, index: tuple[int, int]) -> Array:
        """Return the entry at (row, column), a scalar."""
        row, column = expand_index(index, self.shape)
        if isinstance(row, slice) or isinstance(column, slice):
            msg = f"index {index!r}: a TTMatrix is indexed by a row and a column; .to_tensor_train() has slices"
            raise BackendError(msg)
        rows, cols = _unravel(row, self.row_shape), _unravel(column, self.col_shape)
        return self.to_tensor_train()[tuple(i * n + j for i, j, n in zip(rows, cols, self.col_shape, strict=True))]

    @overload
    def __matmul__(self, other: TTMatrix) -> TTMatrix: ...
    @overload
    def __matmul__(self, other: TensorTrain) -> TensorTrain: ...
    @overload
    def __matmul__(self, other: Array) -> Array: ...
    def __matmul__(self, other: Any) -> Any:
        """Multiply by a TT-matrix, by a tensor train as a vector over the column modes, or by dense vectors.

        Ranks multiply (see `round`).  Dense vectors lie along the *last* axis: (A @ x)[…, i] = sum_j A[i, j] x[…, j].
        """
        if isinstance(other, TTMatrix):
            self._check_inner(other, other.row_shape)
            return TTMatrix(
                tuple(_arrays.astype(c, self.dtype) for c in matrix.multiply(widen(self.cores), widen(other.cores)))
            )
        if isinstance(other, TensorTrain):
            self._check_inner(other, other.shape)
            column = matrix.unfuse(other._working(), other.shape, (1,) * other.order)
            return other._like(matrix.fuse(matrix.multiply(widen(self.cores), column)))
        return self._apply(other, transposed=False) if hasattr(other, "shape") else NotImplemented

    def __rmatmul__(self, other: Any) -> Any:
        """Multiply a tensor train as a row vector, or dense row vectors x (…, rows), from the left."""
        if isinstance(other, TensorTrain):
            return self.T @ other
        return self._apply(other, transposed=True) if hasattr(other, "shape") else NotImplemented

    def _apply(self, x: Array, *, transposed: bool) -> Array:
        _arrays.namespace(self.cores[0], x)
        length = self.shape[0 if transposed else 1]
        if x.ndim == 0 or x.shape[-1] != length:
            rows, cols = self.shape
            msg = f"a {rows} x {cols} TT-matrix needs vectors of {length} along the last axis, got {tuple(x.shape)}"
            raise ShapeError(msg)
        if not _arrays.agree(x, self.cores[0]):
            msg = (
                f"the vectors are {_arrays.describe(x)}, the TT-matrix is {_arrays.describe(self.cores[0])}: convert "
                f"one of them"
            )
            raise BackendError(msg)
        cores = balance(widen(self.cores))
        result = matrix.apply(matrix.transpose(cores) if transposed else cores, _arrays.astype(x, cores[0].dtype))
        return _arrays.astype(result, self.dtype)

    def _check_inner(self, other: Train, modes: Shape) -> None:
        if self.col_shape != modes:
            msg = f"@ needs equal modes in between, got columns {self.col_shape} and {modes}"
            raise ShapeError(msg)
        self._check_backend(other, "@")

    def _fused(self) -> Cores:
        return matrix.fuse(self.cores)

    def _like(self, cores: Cores) -> TTMatrix:
        cast = tuple(_arrays.astype(core, self.dtype) for core in cores)
        return TTMatrix(matrix.unfuse(cast, self.row_shape, self.col_shape))

    def _modes(self) -> Shape:
        return tuple(m * n for m, n in zip(self.row_shape, self.col_shape, strict=True))

    def _layout(self) -> object:
        return self.row_shape, self.col_shape

    def __repr__(self) -> str:
        return (
            f"TTMatrix(row_shape={self.row_shape}, col_shape={self.col_shape}, ranks={self.ranks}, "
            f"parameters={self.parameters:,}, compression={self.compression:.1f}x, "
            f"{_arrays.library(self.cores[0])} {_arrays.dtype_name(self.dtype)})"
        )


def _unravel(index: int, modes: Shape) -> Shape:
    digits = []
    for mode in reversed(modes):
        index, digit = divmod(index, mode)
        digits.append(digit)
    return tuple(reversed(digits))
