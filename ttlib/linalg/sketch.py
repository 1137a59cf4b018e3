"""Driver 'sketch': a randomised range finder with an exact certificate.

Halko, Martinsson, Tropp 2011, 'Finding structure with randomness', Algorithms 4.4 and 5.1: multiply by a few random
vectors, improve them by two subspace iterations, take the SVD inside the range found.  What lies outside the range is
measured, not estimated: the difference is formed and its squares are summed.  Where the rule still asks for more, the
range grows; where it would span more than half of the matrix, the exact drivers are cheaper.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ttlib import _arrays
from ttlib._types import Array
from ttlib.linalg import exact, qr
from ttlib.linalg.protocol import PartialSVD
from ttlib.linalg.truncation_rule import TruncationRule

_OVERSAMPLING = 10
_SUBSPACE_ITERATIONS = 2
_FIRST_WIDTH = 16
_SEED = 0  # the same matrix gives the same answer every time


def driver(matrix: Array, rule: TruncationRule, /) -> PartialSVD:
    """Return the singular triplets inside the range found, and the energy outside it."""
    short = min(_arrays.matrix_shape(matrix))
    width = min(rule.max_rank, _FIRST_WIDTH) + _OVERSAMPLING
    while 2 * width <= short:
        found = _sketched(matrix, width)
        spectrum = _arrays.to_numpy(found.values)
        rank = rule.rank(spectrum, found.residual)
        enough = rule.tails(spectrum, found.residual)[..., rank] <= rule.budget
        if rank == rule.max_rank or bool(np.all(enough)):
            return found
        width = min(2 * width, rule.max_rank + _OVERSAMPLING)
    reason = "the range wanted is more than half of the matrix, so a sketch would not pay"
    return replace(exact.driver(matrix, rule), reason=reason)


def _sketched(matrix: Array, width: int) -> PartialSVD:
    rows, cols = _arrays.matrix_shape(matrix)
    noise = np.random.default_rng(_SEED).standard_normal((cols, width))
    basis = _orthonormal(matrix @ _arrays.from_numpy(noise, like=matrix))  # (…, m, l)
    for _ in range(_SUBSPACE_ITERATIONS):
        basis = _orthonormal(matrix @ _orthonormal(_arrays.adjoint(matrix) @ basis))
    inside = _arrays.adjoint(basis) @ matrix  # (…, l, n)
    u, values, vh = qr.svd(inside)
    outside = matrix - basis @ inside  # (…, m, n)
    residual = _arrays.energies(_arrays.reshape(outside, (-1, rows * cols))).reshape(matrix.shape[:-2])
    reason = f"random range of {width} vectors, {_SUBSPACE_ITERATIONS} subspace iterations, residual measured"
    return PartialSVD(basis @ u, values, values[..., :, None] * vh, "sketch", reason, residual)


def _orthonormal(columns: Array) -> Array:
    return _arrays.namespace(columns).linalg.qr(columns)[0]
