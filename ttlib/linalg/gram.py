"""Driver 'gram': eigenvectors of the small Gram matrix, checked, with an exact decomposition where it cannot see.

A A^H costs one pass of matrix multiplication, ten to a hundred times faster than LAPACK on a long matrix.  But its
eigenvalues are squares, so singular values below about the square root of the machine precision times the largest
are noise.  The driver therefore looks at what the rule makes it discard: where that is well above the noise the
answer stands, with a true error; elsewhere it starts again.  Products of single precision are summed in double, block
by block, so that no second copy of the matrix is made.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ttlib import _arrays
from ttlib._types import Array
from ttlib.linalg import exact
from ttlib.linalg.protocol import PartialSVD
from ttlib.linalg.truncation_rule import TruncationRule

# Rounding perturbs the discarded energy by about (short side) * ulp * energy; 100 times that leaves two digits.
_NOISE_FACTOR = 100
# Columns that are widened at a time, in numbers: they stay in the cache.
_BLOCK = 1 << 17


def driver(matrix: Array, rule: TruncationRule, /) -> PartialSVD:
    """Return the basis that *rule* keeps, and the whole spectrum."""
    xp = _arrays.namespace(matrix)
    rows, cols = _arrays.matrix_shape(matrix)
    wide = rows <= cols
    gram = _gram(matrix if wide else _arrays.adjoint(matrix))  # (…, short, short)
    try:
        energies, vectors = xp.linalg.eigh(gram)  # ascending (…, short), (…, short, short)
    except Exception as error:
        if not _arrays.is_linalg_error(error):
            raise
        return _exactly(matrix, rule, "the eigenvectors of a Gram matrix did not converge")
    values = xp.sqrt(xp.flip(xp.where(energies > 0, energies, xp.zeros_like(energies)), axis=-1))
    spectrum = _arrays.to_numpy(values).astype(np.float64)
    short = spectrum.shape[-1]
    perturbation = short * _arrays.unit_roundoff(gram) * rule.tails(spectrum)[..., 0]
    rank = rule.rank(spectrum, perturbation)  # as if that much more were lost: the tolerance is kept all the same
    smallest_used = rule.tails(spectrum)[..., rank] if rank < short else spectrum[..., -1] ** 2
    if bool(np.any(smallest_used < _NOISE_FACTOR * perturbation)):
        return _exactly(matrix, rule, "a Gram matrix was tried, but what is discarded lies in its noise")
    basis = _arrays.astype(xp.flip(vectors, axis=-1)[..., :rank], matrix.dtype)  # (…, short, r)
    if not wide:  # QR makes the long side orthonormal to the last digit, which dividing by the values would not
        basis, _ = xp.linalg.qr(matrix @ basis)  # (…, m, r)
    return PartialSVD(
        basis,
        values,  # in double precision: rounded to single, they could ask for another rank
        _arrays.adjoint(basis) @ matrix,
        "gram",
        "eigenvectors of the Gram matrix of the short side",
        rank=rank,
    )


def can_see(matrix: Array, rule: TruncationRule) -> bool:
    """Return whether trying is worth it: a rule that keeps all, or nearly, discards nothing but noise.

    A guess, from the largest energy that entries of magnitude 1 can have; `driver` looks at the energy there is.
    """
    rows, cols = _arrays.matrix_shape(matrix)
    unit = _arrays.unit_roundoff(matrix, _arrays.double_dtype(matrix))
    noise = _NOISE_FACTOR * min(rows, cols) * unit * rows * cols
    return rule.max_rank < min(rows, cols) or bool(np.all(np.asarray(rule.budget) >= noise))


def _gram(wide: Array) -> Array:
    """Return A A^H (…, m, m) of A (…, m, n), m <= n, summed in double precision."""
    double = _arrays.double_dtype(wide)
    rows, cols = _arrays.matrix_shape(wide)
    if wide.dtype == double:
        return wide @ _arrays.adjoint(wide)
    step = max(1, _BLOCK // rows)
    total = None
    for start in range(0, cols, step):
        block = _arrays.astype(wide[..., :, start : min(start + step, cols)], double)
        product = block @ _arrays.adjoint(block)
        total = product if total is None else total + product
    return total


def _exactly(matrix: Array, rule: TruncationRule, reason: str) -> PartialSVD:
    return replace(exact.driver(matrix, rule), reason=reason)
