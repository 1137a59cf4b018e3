"""Driver 'lapack': the library's own thin SVD of the whole matrix."""

from __future__ import annotations

import numpy as np

from ttlib._arrays import from_numpy, is_linalg_error, matrix_shape, namespace, real_dtype, to_numpy
from ttlib._types import Array
from ttlib.linalg.protocol import PartialSVD
from ttlib.linalg.truncation_rule import TruncationRule


def driver(matrix: Array, rule: TruncationRule, /) -> PartialSVD:  # noqa: ARG001  # finds all, whatever the rule
    """Return all singular triplets."""
    u, values, vh = svd(matrix)
    return PartialSVD(u, values, values[..., :, None] * vh, "lapack", "the library's own SVD")


def svd(matrix: Array) -> tuple[Array, Array, Array]:
    """Return U (…, m, k), s (…, k), V^H (…, k, n) with k = min(m, n).

    A wide matrix is decomposed through its transpose: every LAPACK seen is faster on the tall form.
    """
    rows, cols = matrix_shape(matrix)
    if cols > rows:
        left, values, right = svd(matrix.mT)
        return right.mT, values, left.mT
    try:
        u, values, vh = namespace(matrix).linalg.svd(matrix, full_matrices=False)
    except Exception as error:
        if not is_linalg_error(error):
            raise
        return _gesvd(matrix)
    return u, values, vh


def _gesvd(matrix: Array) -> tuple[Array, Array, Array]:
    """Use the slow and steady LAPACK routine, for the rare matrix on which divide and conquer does not converge."""
    from scipy.linalg import svd as scipy_svd  # noqa: PLC0415  # a tenth of a second, for a case that hardly occurs

    host = to_numpy(matrix)
    stack = host.reshape(-1, *host.shape[-2:])
    parts = zip(*(scipy_svd(one, full_matrices=False, lapack_driver="gesvd") for one in stack), strict=True)
    u, values, vh = (np.stack(part).reshape(*host.shape[:-2], *part[0].shape) for part in parts)
    return (
        from_numpy(u, like=matrix),
        from_numpy(values, like=matrix, dtype=real_dtype(matrix)),
        from_numpy(vh, like=matrix),
    )
