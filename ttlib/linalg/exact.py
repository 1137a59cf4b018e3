"""The decomposition that is exact to the last digits, by whichever of LAPACK and QR first is cheaper for the shape.

What every driver that cannot see small singular values falls back to.
"""

from __future__ import annotations

from ttlib._arrays import matrix_shape
from ttlib._types import Array
from ttlib.linalg import lapack, qr
from ttlib.linalg.protocol import PartialSVD
from ttlib.linalg.truncation_rule import TruncationRule

# From this aspect ratio on a QR of the long side pays for itself (measured on numpy and torch, 64 to 4096 wide).
_QR_ASPECT_RATIO = 3


def driver(matrix: Array, rule: TruncationRule, /) -> PartialSVD:
    """Take QR first on long matrices, LAPACK's SVD otherwise."""
    return qr.driver(matrix, rule) if is_long(matrix) else lapack.driver(matrix, rule)


def triplets(matrix: Array) -> PartialSVD:
    """Return all singular triplets: what a derivative needs."""
    long = is_long(matrix)
    u, values, vh = qr.svd(matrix) if long else lapack.svd(matrix)
    reason = "all singular triplets, for the derivative"
    return PartialSVD(u, values, values[..., :, None] * vh, "qr" if long else "lapack", reason)


def is_long(matrix: Array) -> bool:
    """Return whether a QR of the long side comes first."""
    rows, cols = matrix_shape(matrix)
    return max(rows, cols) >= _QR_ASPECT_RATIO * min(rows, cols)
