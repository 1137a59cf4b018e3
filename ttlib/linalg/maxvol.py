"""Pivot rows of a tall matrix: a square submatrix of almost the largest volume, and the matrix in terms of it.

The volume of a square submatrix is the magnitude of its determinant.  Finding the largest is NP-hard; a *dominant*
submatrix, one that no exchange of a single row enlarges by more than a few per cent, is cheap and as good for
interpolation: every other row is then a combination of the chosen ones with coefficients of about 1 at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ttlib.errors import RankError

Matrix = np.ndarray[Any, Any]

# An exchange multiplies the volume by more than the tolerance, so they end by themselves: a few r of them (measured on
# orthonormal bases).  The cap is for matrices whose coefficients rounding has spoilt.
_EXCHANGES_PER_COLUMN = 50


@dataclass(frozen=True, slots=True, eq=False)
class PivotRows:
    """The chosen `rows` (r,) of a matrix A (m, r), and `coefficients` C (m, r) with A = C A[rows], C[rows] = I."""

    rows: Matrix
    coefficients: Matrix


def maxvol(matrix: Matrix, /, *, tolerance: float = 1.05) -> PivotRows:
    """Choose r rows of a tall matrix (m, r) such that no coefficient exceeds *tolerance* in magnitude.

    >>> import numpy as np
    >>> maxvol(np.array([[1.0, 0.0], [0.0, 3.0], [2.0, 1.0]])).rows
    array([2, 1])

    Args:
        matrix: real or complex (m, r), m >= r, of full column rank; best with orthonormal columns.
        tolerance: where the exchanges stop, above 1.  The volume is then within tolerance^r r^(r/2) of the largest.

    Raises:
        RankError: more columns than rows, or columns that depend on each other.

    Source: Goreinov, Oseledets, Savostyanov, Tyrtyshnikov, Zamarashkin, 'How to find a good submatrix', in Matrix
        Methods: Theory, Algorithms and Applications (2010), Algorithm 1.
    """
    rows = _elimination_pivots(matrix)
    # C = A A[rows]^-1, solved from the left: A[rows]^T C^T = A^T
    coefficients = np.linalg.solve(matrix[rows].T, matrix.T).T
    for _ in range(_EXCHANGES_PER_COLUMN * max(1, rows.size)):
        row, column = np.unravel_index(np.argmax(np.abs(coefficients)), coefficients.shape)
        pivot = coefficients[row, column]
        if np.abs(pivot) <= tolerance:
            break
        # Row `row` takes the place of pivot number `column`; Sherman and Morrison's formula for the new inverse.
        change = coefficients[row].copy()
        change[column] -= 1
        coefficients -= np.outer(coefficients[:, column] / pivot, change)  # (m, r) -= (m,) (r,)
        rows[column] = row
    return PivotRows(rows, coefficients)


def _elimination_pivots(matrix: Matrix) -> Matrix:
    """Return the pivot rows of Gaussian elimination with partial pivoting: a start that is seldom far from dominant.

    Written out, for numpy has no LU and importing scipy.linalg takes three times as long as importing ttlib.
    """
    count, rank = matrix.shape
    if rank > count:
        msg = f"{rank} pivot rows of a {count} x {rank} matrix: it needs at least as many rows as columns"
        raise RankError(msg)
    rest = np.array(matrix)
    rows = np.zeros(rank, dtype=np.int64)
    for column in range(rank):
        row = int(np.argmax(np.abs(rest[:, column])))
        pivot = rest[row, column]
        if pivot == 0 or not np.isfinite(pivot):
            msg = (
                f"column {column} of the {count} x {rank} matrix depends on those before it (pivot {pivot}): "
                "choose pivot rows of an orthonormal basis of its columns"
            )
            raise RankError(msg)
        rows[column] = row
        factors = rest[:, column] / pivot
        rest[:, column:] -= np.outer(factors, rest[row, column:])  # (m, r - column)
        rest[row] = 0.0  # rounding must not choose a row twice
    return rows
