"""Pivot rows: the coefficients are bounded, exact, and the start does not matter."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ttlib
from ttlib.linalg.maxvol import maxvol


def orthonormal(rows, cols, seed, *, is_complex=False):
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((rows, cols))
    return np.linalg.qr(matrix + 1j * rng.standard_normal((rows, cols)) if is_complex else matrix)[0]


@given(st.integers(1, 60), st.integers(1, 12), st.booleans(), st.integers(0, 2**31))
def test_every_row_is_a_bounded_combination_of_the_pivots(rows, cols, is_complex, seed):
    matrix = orthonormal(rows, min(rows, cols), seed, is_complex=is_complex)
    pivots = maxvol(matrix)
    assert len(set(pivots.rows.tolist())) == matrix.shape[1]
    assert np.abs(pivots.coefficients).max() <= 1.05 + 1e-9
    np.testing.assert_allclose(pivots.coefficients @ matrix[pivots.rows], matrix, atol=1e-12)
    np.testing.assert_allclose(pivots.coefficients[pivots.rows], np.eye(matrix.shape[1]), atol=1e-12)


def test_the_volume_is_close_to_the_largest():
    for seed in range(20):
        matrix = orthonormal(10, 3, seed)
        volume = abs(np.linalg.det(matrix[maxvol(matrix, tolerance=1.0).rows]))
        largest = max(abs(np.linalg.det(matrix[list(rows)])) for rows in combinations(range(10), 3))
        assert volume >= largest / 2  # the bound is 3^(3/2); no exchange of one row can gain anything
        assert volume > 0


def test_a_large_tolerance_exchanges_nothing_and_a_small_one_does():
    matrix = orthonormal(500, 20, 0)
    loose, tight = (maxvol(matrix, tolerance=tolerance) for tolerance in (1e9, 1.05))
    assert np.abs(loose.coefficients).max() > 1.05
    assert abs(np.linalg.det(matrix[tight.rows])) > abs(np.linalg.det(matrix[loose.rows]))


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((2, 3)), "3 pivot rows of a 2 x 3 matrix"),
        (np.ones((4, 2)), "column 1 of the 4 x 2 matrix depends on those before"),
        (np.full((4, 2), np.nan), "pivot nan"),
    ],
)
def test_matrices_without_pivot_rows(matrix, message):
    with pytest.raises(ttlib.RankError, match=message):
        maxvol(matrix)


def test_the_input_is_only_read():
    matrix = orthonormal(30, 4, 0)
    matrix.flags.writeable = False
    maxvol(matrix)
