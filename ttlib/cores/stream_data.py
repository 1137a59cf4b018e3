"""Sums over the blocks of an array, of numbers that neither overflow nor vanish in them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ttlib import _arrays
from ttlib._blocks import Merge, RowBlocks, ScaledRows, Work
from ttlib.cores.scaling import LARGEST_MEAN_SQUARE, LEAST_MEAN_SQUARE
from ttlib.errors import NonFiniteError

Numbers = np.ndarray[Any, Any]

# Entries whose squares are summed in the precision of the data; their sums are summed in double.
_SUMMED = 1024


class StreamData:
    """The blocks, times 2**-exponent from the first sum on that is not moderate.

    NaN and infinities show in the sum of squares of the first pass; only then is the data looked at entry by entry.
    """

    def __init__(self, blocks: RowBlocks) -> None:
        self.exponent, self.result_dtype = 0, blocks.result_dtype
        self._blocks, self._is_checked = blocks, False

    @property
    def dtype(self) -> np.dtype[Any]:
        """To calculate in."""
        return self._blocks.dtype

    def summed(self, columns: int, merge: Merge, work: Work, *operands: Any) -> tuple[Any, float]:
        """Return the merged answers of *work*, and ||A||^2: every answer is a pair (answer, energy)."""
        with np.errstate(over="ignore", invalid="ignore"):  # the energy tells
            answer, energy = self._blocks.reduced(columns, merge, work, *operands)
        if not self._is_checked:
            self._is_checked = True
            size = self._blocks.size
            if not LEAST_MEAN_SQUARE * size < energy < LARGEST_MEAN_SQUARE * size:
                self._scale()
                return self.summed(columns, merge, work, *operands)
        return answer, float(energy)

    def products(self, columns: int, basis: Numbers) -> Numbers:
        """Return A B (M, r) of A (M, m) and a *basis* B (m, r)."""
        products = np.empty((self._blocks.size // columns, basis.shape[1]), self.dtype)
        start = 0
        for part in self._blocks.mapped(columns, np.matmul, basis):
            products[start : start + len(part)] = part
            start += len(part)
        return products

    def residual(self, columns: int, basis: Numbers) -> float:
        """Return ||A - A P^* P^T||^2 for a *basis* P (m, r), without cancellation."""
        return float(self._blocks.reduced(columns, np.add, _residual, basis))

    def whole(self) -> Numbers:
        """Return all entries (N, 1): of an array that is its own only core."""
        self.summed(1, _added, _energy)
        return self.products(1, np.ones((1, 1), self.dtype))

    def _scale(self) -> None:
        """Take out the power of two of the largest magnitude, or raise NonFiniteError."""
        looked = list(self._blocks.mapped(1, _look))
        bad = sum(count for count, _, _ in looked)
        if bad:
            before = [sum(rows for _, _, rows in looked[:k]) for k, (count, _, _) in enumerate(looked) if count]
            row = before[0] // math.prod(self._blocks.shape[1:])
            msg = (
                f"the input of shape {self._blocks.shape} has {bad} non-finite value(s) (NaN or infinity), the first "
                f"in the block from row {row} on: a singular value decomposition of it is undefined; clean or mask "
                f"them first"
            )
            raise NonFiniteError(msg)
        self.exponent = _arrays.exponent(max(largest for _, largest, _ in looked))
        self._blocks = ScaledRows(self._blocks, self.exponent)


def energy_of(matrix: Numbers) -> float:
    """Return the squared norm of (rows, columns), summed in double precision of short sums."""
    flat = np.ascontiguousarray(matrix).reshape(-1)
    even = flat.size - flat.size % _SUMMED
    squares = np.vecdot(flat[:even].reshape(-1, _SUMMED), flat[:even].reshape(-1, _SUMMED)).real
    return float(squares.sum(dtype=np.float64) + np.vdot(flat[even:], flat[even:]).real)


def _energy(matrix: Numbers) -> tuple[float, float]:
    return 0.0, energy_of(matrix)


def _added(one: tuple[Any, float], other: tuple[Any, float]) -> tuple[Any, float]:
    return one[0] + other[0], one[1] + other[1]


def _residual(matrix: Numbers, basis: Numbers) -> float:
    return energy_of(matrix - (matrix @ basis.conj()) @ basis.T)


def _look(matrix: Numbers) -> tuple[int, float, int]:
    """Return how many entries are not finite, the largest magnitude, and how many there are."""
    bad = int(np.count_nonzero(~np.isfinite(matrix)))
    return bad, 0.0 if bad else _arrays.largest_magnitude(matrix), matrix.shape[0]
