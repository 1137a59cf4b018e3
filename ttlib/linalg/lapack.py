"""Driver 'lapack': the library's own thin SVD of the whole matrix."""

from __future__ import annotations

from ttlib._arrays import matrix_shape, namespace
from ttlib._types import Array


def svd(matrix: Array) -> tuple[Array, Array, Array]:
    """Return U (m, k), s (k,), V^H (k, n) with k = min(m, n).

    A wide matrix is decomposed through its transpose: every LAPACK seen is faster on the tall form.
    """
    xp = namespace(matrix)
    rows, cols = matrix_shape(matrix)
    if cols > rows:
        left, values, right = xp.linalg.svd(matrix.mT, full_matrices=False)
        return right.mT, values, left.mT
    u, values, vh = xp.linalg.svd(matrix, full_matrices=False)
    return u, values, vh
