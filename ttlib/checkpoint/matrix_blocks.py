"""A matrix that may lie in a file, read in blocks of a few megabytes; its energy, and that it is finite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttlib.checkpoint.numbers import widen
from ttlib.cores.scaling import LARGEST_MEAN_SQUARE, LEAST_MEAN_SQUARE
from ttlib.errors import BackendError, NonFiniteError, ShapeError

Numbers = np.ndarray[Any, Any]

DTYPES = ("float16", "bfloat16", "float32", "float64")
_WORDS = np.dtype(np.uint16)
# Bytes of a block in the dtype of the products.
_BLOCK_BYTES = 1 << 25
# Numbers that are widened at a time when squares are summed: they stay in the cache.
_SUMMED = 1 << 18
# From here down sums of squares have lost digits to underflow.
_LEAST_ENERGY = 2.0**-960


@dataclass(frozen=True, slots=True, eq=False)
class MatrixBlocks:
    """The entries of a matrix in C order, times 2**-exponent; `energy` is the sum of their squares, in double."""

    entries: Numbers  # (size,), a view; of bfloat16 the words
    dtype: np.dtype[Any]  # float32 or float64, that of the blocks and of products with them
    exponent: int
    energy: float

    @property
    def norm(self) -> float:
        """The Frobenius norm of the matrix."""
        return self.in_its_unit(math.sqrt(self.energy))

    def in_its_unit(self, value: float) -> float:
        """Return a *value* of the scaled entries in the unit of the matrix; infinite where no float could say it."""
        with np.errstate(over="ignore", under="ignore"):
            return float(np.ldexp(value, self.exponent))

    def tall(self, left: int) -> Iterator[Numbers]:
        """Yield the unfolding (left, right) in blocks (n, short side) along its long side; of equals left is short."""
        unfolding = self.entries.reshape(left, -1)
        if left <= unfolding.shape[1]:
            unfolding = unfolding.T
        step = max(1, _BLOCK_BYTES // (self.dtype.itemsize * unfolding.shape[1]))
        for start in range(0, unfolding.shape[0], step):
            block = _numbers(unfolding[start : start + step], self.dtype)
            yield block if self.exponent == 0 else _scaled(block, -self.exponent)


def matrix_blocks(matrix: Numbers, /, *, name: str = "the matrix") -> MatrixBlocks:
    """Check a matrix (rows, cols) and return its blocks; *name* stands in the errors.

    A matrix that is not C-contiguous is copied; others, memory maps among them, are only looked at.  uint16 is taken
    for the words of bfloat16, which numpy does not have: so they need not be widened all at once.

    Raises:
        BackendError: not a numpy array of half, single or double precision or of words.
        ShapeError: not two-dimensional, or without entries.
        NonFiniteError: with the number of NaN and infinities and the index of the first.
    """
    if not isinstance(matrix, np.ndarray) or (matrix.dtype.name not in DTYPES and matrix.dtype != _WORDS):
        kind = matrix.dtype.name if hasattr(matrix, "dtype") else type(matrix).__name__
        msg = f"{name} must be a numpy array of {', '.join(DTYPES)}, got {kind}: convert it with .astype(numpy.float32)"
        raise BackendError(msg)
    if matrix.ndim != 2 or matrix.size == 0:
        msg = f"{name} must be a matrix with entries, got shape {matrix.shape}: reshape it to (rows, cols)"
        raise ShapeError(msg)
    entries = np.asarray(matrix).reshape(-1)
    dtype = np.dtype(np.float64 if matrix.dtype == np.float64 else np.float32)
    energy = _energy(entries, 0)
    if not math.isfinite(energy):
        _refuse_non_finite(entries, matrix.shape, name)
    exponent = 0
    if not _LEAST_ENERGY <= energy < math.inf:
        exponent = math.frexp(max(float(np.abs(block).max()) for block in _in_cache(entries)))[1]  # 0 for zeros
    elif not LEAST_MEAN_SQUARE <= energy / entries.size <= LARGEST_MEAN_SQUARE:
        exponent = math.frexp(math.sqrt(energy / entries.size))[1]
    return MatrixBlocks(entries, dtype, exponent, _energy(entries, exponent) if exponent else energy)


def _energy(entries: Numbers, exponent: int) -> float:
    """Return the sum of squares of the entries times 2**-exponent: each block in the cache, all in double."""
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for numbers in _in_cache(entries):
            block = _scaled(numbers, -exponent) if exponent else numbers
            total += float(block @ block)
    return total


def _in_cache(entries: Numbers) -> Iterator[Numbers]:
    """Yield the entries in double precision, as many at a time as stay in the cache."""
    for start in range(0, entries.size, _SUMMED):
        yield _numbers(entries[start : start + _SUMMED], np.dtype(np.float64))


def _numbers(block: Numbers, dtype: np.dtype[Any]) -> Numbers:
    """Return entries or words as numbers of *dtype*."""
    return (widen(block) if block.dtype == _WORDS else block).astype(dtype, copy=False)


def _scaled(block: Numbers, exponent: int) -> Numbers:
    """Return block * 2**exponent; exact, but for what leaves the range of the dtype."""
    with np.errstate(under="ignore"):
        return np.asarray(np.ldexp(block, exponent))


def _refuse_non_finite(entries: Numbers, shape: tuple[int, ...], name: str) -> None:
    count, first = 0, -1
    for number, block in enumerate(_in_cache(entries)):
        bad = ~np.isfinite(block)
        if first < 0 and bad.any():
            first = number * _SUMMED + int(np.argmax(bad))
        count += int(np.count_nonzero(bad))
    if count:
        index = tuple(int(i) for i in np.unravel_index(first, shape))
        msg = (
            f"{name} of shape {shape} has {count} non-finite value(s) (NaN or infinity), the first at {index}: it has "
            f"no singular values; clean or mask them first"
        )
        raise NonFiniteError(msg)
