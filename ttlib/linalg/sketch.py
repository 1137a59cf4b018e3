"""Driver 'sketch': a randomised range finder with an exact certificate.

A block Krylov space on the short side: a few random vectors are multiplied by A A^H, and the result again, and the SVD
is taken inside the span of both.  At the cost of two subspace iterations it is closer to the best basis, because no
product is thrown away (Musco, Musco, 'Randomized block Krylov methods for stronger and faster approximate singular
value decomposition', NeurIPS 2015, Algorithm 2; after Halko, Martinsson, Tropp 2011, 'Finding structure with
randomness').  What lies outside is measured, not estimated.  Where the rule still asks for more, the range grows; where
it would span much of the matrix, its Gram matrix is cheaper.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ttlib import _arrays
from ttlib._types import Array, Shape
from ttlib.linalg import auto
from ttlib.linalg.protocol import PartialSVD
from ttlib.linalg.truncation_rule import TruncationRule

Numbers = np.ndarray[Any, Any]

_OVERSAMPLING = 10
_BLOCKS = 2
_FIRST_WIDTH = 16
_SEED = 0  # the same matrix gives the same answer every time
# From this size of the short side on, and down to this share of it, a sketch is cheaper than the Gram matrix.
_LEAST_SIZE = 384
_LARGEST_SHARE = 1 / 4
# Entries of the difference from the matrix that are formed at a time.
_SUBTRACTED = 1 << 18
# A difference of two energies is trusted down to this many units in the last place of the larger one.
_TRUSTED_UNITS = 2_000


def driver(matrix: Array, rule: TruncationRule, /) -> PartialSVD:
    """Return the singular triplets inside the range found, and the energy outside it."""
    short = min(_arrays.matrix_shape(matrix))
    width = _OVERSAMPLING + (rule.max_rank if _fits(rule.max_rank, short) else _FIRST_WIDTH)
    while short >= _LEAST_SIZE and 2 * _BLOCKS * width <= short:
        found = _inside(matrix, width, rule)
        rank = int(found.basis.shape[-1])
        lost = rule.tails(found.values, found.residual)[..., rank]
        if rank == rule.max_rank or bool(np.all(lost <= rule.budget)):
            return found
        width = min(2 * width, rule.max_rank + _OVERSAMPLING)
    reason = "a sketch would span too much of the matrix to pay; "
    found = auto.driver(matrix, rule)
    return replace(found, reason=reason + found.reason)


def pays(shape: Shape, wanted: int) -> bool:
    """Return whether sketching *wanted* vectors of a matrix is cheaper than its Gram matrix."""
    return min(shape) >= _LEAST_SIZE and _fits(wanted, min(shape))


def _fits(wanted: int, short: int) -> bool:
    return wanted + _OVERSAMPLING <= _LARGEST_SHARE * short


def _inside(matrix: Array, width: int, rule: TruncationRule) -> PartialSVD:
    """Return the leading triplets of A (…, m, n) inside a range of *width* vectors."""
    basis = _range(matrix, width)  # (…, m, l)
    inside = _arrays.adjoint(basis) @ matrix  # (…, l, n)
    residual = _energy_outside(matrix, basis, inside)
    left = TruncationRule(rule.max_rank, np.maximum(0.0, np.asarray(rule.budget) - residual))
    found = auto.driver(inside, left)
    rank = found.rank or left.rank(_arrays.to_numpy(found.values))
    return PartialSVD(
        basis @ found.basis[..., :rank],
        _arrays.to_numpy(found.values),
        found.remainder[..., :rank, :],
        "sketch",
        f"block Krylov space of {width} random vectors, residual measured",
        residual=residual + found.residual,
        rank=rank,
    )


def _range(matrix: Array, width: int) -> Array:
    """Return an orthonormal basis (…, m, l) of about the range of A, iterated on the short side."""
    qr, (rows, cols) = _arrays.namespace(matrix).linalg.qr, _arrays.matrix_shape(matrix)
    wide = matrix if rows <= cols else _arrays.adjoint(matrix)
    noise = np.random.default_rng(_SEED).standard_normal((min(rows, cols), width))
    vectors, _ = qr(_apply(wide, _arrays.from_numpy(noise, like=matrix)))
    basis = vectors
    for _ in range(1, _BLOCKS):
        vectors = _apply(wide, vectors)
        for _ in range(2):  # once leaves rounding of the size of what was taken away
            vectors, _ = qr(vectors - basis @ (_arrays.adjoint(basis) @ vectors))
        basis = _arrays.namespace(matrix).concat([basis, vectors], axis=-1)
    return basis if rows <= cols else qr(matrix @ basis)[0]


def _apply(wide: Array, vectors: Array) -> Array:
    return wide @ (_arrays.adjoint(wide) @ vectors)


def _energy_outside(matrix: Array, basis: Array, inside: Array) -> Numbers:
    """Return ||A - Q Q^H A||^2 (…): the difference of the energies, or summed where that would have no digits."""
    whole, part = _energies(matrix), _energies(inside)
    outside: Numbers = np.maximum(0.0, whole - part)
    if bool(np.all(outside >= _TRUSTED_UNITS * _arrays.unit_roundoff(matrix) * whole)):
        return outside
    step = max(1, _SUBTRACTED // _arrays.matrix_shape(matrix)[0])
    blocks = [slice(start, start + step) for start in range(0, _arrays.matrix_shape(matrix)[1], step)]
    parts = [_energies(matrix[..., block] - basis @ inside[..., block]) for block in blocks]
    return np.asarray(np.sum(parts, axis=0))


def _energies(stack: Array) -> Numbers:
    rows, cols = _arrays.matrix_shape(stack)
    sums = _arrays.energies(_arrays.reshape(stack, (-1, rows * cols)))
    return np.asarray(sums.reshape(stack.shape[:-2]))
