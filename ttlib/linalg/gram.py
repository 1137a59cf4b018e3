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
from ttlib.linalg.eigen import leading_eigenpairs
from ttlib.linalg.protocol import PartialSVD
from ttlib.linalg.truncation_rule import TruncationRule

# Rounding perturbs the discarded energy by about (short side) * ulp * energy; 100 times that leaves two digits.
_NOISE_FACTOR = 100
# Numbers that are widened to double precision at a time: they stay in the cache.
_WIDENED = 1 << 18
# Columns whose products are summed in single precision, by the library; sums of more of them lose digits.
_SUMMED_IN_SINGLE = 2048
# Numbers that one call multiplies in blocks of so many columns.
_MULTIPLIED = 1 << 20


def driver(matrix: Array, rule: TruncationRule, /) -> PartialSVD:
    """Return the basis that *rule* keeps, and the spectrum."""
    rows, cols = _arrays.matrix_shape(matrix)
    wide = rows <= cols
    gram = _arrays.to_numpy(gram_matrix(matrix if wide else _arrays.adjoint(matrix)))  # (…, short, short)
    try:
        pairs = leading_eigenpairs(gram, rule.max_rank)
    except np.linalg.LinAlgError:
        return _exactly(matrix, rule, "the eigenvectors of a Gram matrix did not converge")
    values, tail = pairs.values, pairs.residual
    short = gram.shape[-1]
    perturbation = short * float(np.finfo(gram.dtype).eps) * rule.tails(values, tail)[..., 0]
    # As if the perturbation were lost too: the tolerance is kept all the same.
    rank = rule.rank(values, tail + perturbation)
    used = rule.tails(values, tail)[..., rank] if rank < short else values[..., -1] ** 2
    if bool(np.any(used < _NOISE_FACTOR * perturbation)):
        return _exactly(matrix, rule, "a Gram matrix was tried, but what is discarded lies in its noise")
    basis = _arrays.from_numpy(pairs.vectors[..., :rank], like=matrix, dtype=matrix.dtype)  # (…, short, r)
    if not wide:  # QR makes the long side orthonormal to the last digit, which dividing by the values would not
        basis, _ = _arrays.namespace(matrix).linalg.qr(matrix @ basis)  # (…, m, r)
    return PartialSVD(
        basis,
        values,
        _arrays.adjoint(basis) @ matrix,
        "gram",
        "eigenvectors of the Gram matrix of the short side",
        residual=tail,
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


def gram_matrix(wide: Array) -> Array:
    """Return A A^H (…, m, m) of A (…, m, n), m <= n, multiplied and summed in double precision."""
    double = _arrays.double_dtype(wide)
    rows, cols = _arrays.matrix_shape(wide)
    if wide.dtype == double:
        return wide @ _arrays.adjoint(wide)
    total = None
    step = max(_WIDENED // rows, rows)
    for start in range(0, cols, step):
        block = _arrays.astype(wide[..., :, start : min(start + step, cols)], double)
        if total is None:
            total = block @ _arrays.adjoint(block)
        else:
            total += block @ _arrays.adjoint(block)
    return total


def gram_matrix_in_single(wide: Array) -> Array:
    """Return A A^H (B, m, m), in double precision, of A (B, m, n): products of single precision, summed in double.

    Half the cost of `gram_matrix` and less; each entry is off by a few units of single precision.
    """
    xp, double = _arrays.namespace(wide), _arrays.double_dtype(wide)
    count, (rows, cols) = int(wide.shape[0]), _arrays.matrix_shape(wide)
    total = xp.zeros((count, rows, rows), dtype=double, device=_arrays.device(wide))
    blocks = max(1, _MULTIPLIED // (_SUMMED_IN_SINGLE * rows))
    even = cols - cols % _SUMMED_IN_SINGLE
    for start in range(0, even, blocks * _SUMMED_IN_SINGLE):
        part = _arrays.in_single(wide[:, :, start : min(start + blocks * _SUMMED_IN_SINGLE, even)])
        part = _arrays.reshape(part, (count, rows, -1, _SUMMED_IN_SINGLE))
        part = xp.permute_dims(part, (0, 2, 1, 3))  # (B, blocks, m, columns), a view
        product = part @ _arrays.adjoint(part)
        # one large product is added as it is, where a sum in double precision would be a second copy of it
        total += product[:, 0, ...] if blocks == 1 else xp.sum(product, axis=1, dtype=double)
    if even < cols:
        rest = _arrays.in_single(wide[:, :, even:])
        total += _arrays.astype(rest @ _arrays.adjoint(rest), double)
    return total


def _exactly(matrix: Array, rule: TruncationRule, reason: str) -> PartialSVD:
    return replace(exact.driver(matrix, rule), reason=reason)
