"""Driver 'gram': eigenvectors of the small Gram matrix, checked, with QR where it cannot see.

A A^H costs one pass of matrix multiplication, ten to a hundred times faster than LAPACK on a long matrix.  But its
eigenvalues are squares, so singular values below about the square root of the machine precision times the largest
are noise.  The driver therefore looks at what the rule makes it discard: where that is well above the noise the
answer stands, with a true error; elsewhere it starts again by QR.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ttlib import _arrays
from ttlib._types import Array
from ttlib.linalg import qr
from ttlib.linalg.protocol import PartialSVD
from ttlib.linalg.truncation_rule import TruncationRule

# Rounding perturbs the discarded energy by about (short side) * ulp * energy; 100 times that leaves two digits.
_NOISE_FACTOR = 100


def driver(matrix: Array, rule: TruncationRule, /) -> PartialSVD:
    """Return the basis that *rule* keeps, and the whole spectrum."""
    rows, cols = _arrays.matrix_shape(matrix)
    xp = _arrays.namespace(matrix)
    wide = rows <= cols
    double = _arrays.astype(matrix, _arrays.double_dtype(matrix))  # squares of single precision keep all their digits
    flat = double if wide else _arrays.adjoint(double)  # (…, short, long)
    try:
        energies, vectors = xp.linalg.eigh(flat @ _arrays.adjoint(flat))  # ascending (…, short), (…, short, short)
    except Exception as error:
        if not _arrays.is_linalg_error(error):
            raise
        return _by_qr(matrix, rule, "the eigenvectors of a Gram matrix did not converge")
    values = xp.sqrt(xp.flip(xp.where(energies > 0, energies, xp.zeros_like(energies)), axis=-1))
    spectrum = _arrays.to_numpy(values)
    rank = rule.rank(spectrum)
    tails = rule.tails(spectrum)
    smallest_used = tails[..., rank] if rank < spectrum.shape[-1] else spectrum[..., -1] ** 2
    noise = _NOISE_FACTOR * spectrum.shape[-1] * _arrays.unit_roundoff(double) * tails[..., 0]
    if bool(np.any(smallest_used < noise)):
        return _by_qr(matrix, rule, "a Gram matrix was tried, but what is discarded lies in its noise")
    basis = xp.flip(vectors, axis=-1)[..., :rank]  # (…, short, r)
    if not wide:  # QR makes the long side orthonormal to the last digit, which dividing by the values would not
        basis, _ = xp.linalg.qr(double @ basis)  # (…, m, r)
    remainder = _arrays.adjoint(basis) @ double  # (…, r, n)
    return PartialSVD(
        _arrays.astype(basis, matrix.dtype),
        values,  # in double precision: rounded to single, they could ask for another rank
        _arrays.astype(remainder, matrix.dtype),
        "gram",
        "eigenvectors of the Gram matrix of the short side",
    )


def _by_qr(matrix: Array, rule: TruncationRule, reason: str) -> PartialSVD:
    return replace(qr.driver(matrix, rule), reason=reason)
