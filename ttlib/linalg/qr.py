"""Driver 'qr': QR of the long side first, block by block and without its Q, then the SVD of a small square factor.

For an m x n matrix with m << n the triangular factor costs 2 m^2 n and the SVD O(m^3), against several times m^2 n for
the SVD of the whole; the singular values are as accurate (the factor is backward stable).  Chan 1982, 'An improved
algorithm for computing the SVD'; blocks: Demmel, Grigori, Hoemmen, Langou, 'Communication-optimal parallel and
sequential QR and LU factorizations', SIAM J. Sci. Comput. 34 (2012), the sequential TSQR.
"""

from __future__ import annotations

from ttlib import _arrays
from ttlib._arrays import adjoint, matrix_shape, namespace
from ttlib._types import Array
from ttlib.linalg import lapack
from ttlib.linalg.protocol import PartialSVD
from ttlib.linalg.truncation_rule import TruncationRule

# Columns of a block as a multiple of the rows: large enough that what is factorised twice does not matter.
_BLOCK_ASPECT = 16
_LEAST_BLOCK = 2048


def driver(matrix: Array, rule: TruncationRule, /) -> PartialSVD:
    """Return the triplets that *rule* keeps, and the whole spectrum."""
    rows, cols = matrix_shape(matrix)
    wide = rows <= cols
    vectors, values, _ = lapack.svd(lower_factor(matrix if wide else adjoint(matrix)))  # of the short side
    rank = rule.rank(_arrays.to_numpy(values))
    basis = vectors[..., :rank]
    if not wide:  # as the Gram driver: orthonormal to the last digit
        basis, _ = namespace(matrix).linalg.qr(matrix @ basis)
    reason = "QR of the long side, then the SVD of the small factor"
    return PartialSVD(basis, values, adjoint(basis) @ matrix, "qr", reason, rank=rank)


def svd(matrix: Array) -> tuple[Array, Array, Array]:
    """Return U (…, m, k), s (…, k), V^H (…, k, n) with k = min(m, n)."""
    rows, cols = matrix_shape(matrix)
    if cols > rows:
        left, values, right = svd(matrix.mT)
        return right.mT, values, left.mT
    q, r = namespace(matrix).linalg.qr(matrix)  # (m, n) (n, n)
    u, values, vh = lapack.svd(r)
    return q @ u, values, vh


def lower_factor(wide: Array) -> Array:
    """Return L (…, m, m) with A = L Q and Q Q^H = I, of A (…, m, n) with m <= n; Q is never formed."""
    rows, cols = matrix_shape(wide)
    step = max(_BLOCK_ASPECT * rows, _LEAST_BLOCK)
    factor = None
    for start in range(0, cols, step):
        block = adjoint(wide[..., start : min(start + step, cols)])  # (…, columns, m)
        stacked = block if factor is None else namespace(wide).concat([factor, block], axis=-2)
        factor = _arrays.triangular_factor(stacked)
    return adjoint(factor)
