"""Driver 'qr': QR of the long side first, then the SVD of a small square factor.

For an m x n matrix with m << n this costs 2 m^2 n for the QR and O(m^3) for the SVD, against several times m^2 n
for the SVD of the whole; the singular values are as accurate (R is backward stable).  Chan 1982, 'An improved
algorithm for computing the SVD'.
"""

from __future__ import annotations

from ttlib._arrays import matrix_shape, namespace
from ttlib._types import Array
from ttlib.linalg import lapack
from ttlib.linalg.protocol import PartialSVD
from ttlib.linalg.truncation_rule import TruncationRule


def driver(matrix: Array, rule: TruncationRule, /) -> PartialSVD:  # noqa: ARG001  # finds all, whatever the rule
    """Return all singular triplets."""
    u, values, vh = svd(matrix)
    reason = "QR of the long side, then the SVD of the small factor"
    return PartialSVD(u, values, values[..., :, None] * vh, "qr", reason)


def svd(matrix: Array) -> tuple[Array, Array, Array]:
    """Return U (…, m, k), s (…, k), V^H (…, k, n) with k = min(m, n)."""
    rows, cols = matrix_shape(matrix)
    if cols > rows:
        left, values, right = svd(matrix.mT)
        return right.mT, values, left.mT
    q, r = namespace(matrix).linalg.qr(matrix)  # (m, n) (n, n)
    u, values, vh = lapack.svd(r)
    return q @ u, values, vh
