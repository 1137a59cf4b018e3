"""The first derivative of a dominant singular subspace, without dividing by gaps that do not matter.

Differentiating an SVD divides by the difference of every two singular values, so equal ones give NaN (torch, jax),
although the projection onto the kept subspace only depends on the gap between what is kept and what is dropped.
Here the SVD is taken of constants, and the derivative of the subspace is attached to it:

    dU = (I - U U^H) dA V S^-1  +  U_d [ ((U_d^H dA V) S + S_d (U^H dA V_d)^H) * 1 / (s_i^2 - s_j^2) ]

with kept triplets (U, S, V) and dropped ones (U_d, S_d, V_d); the part of dU inside the kept subspace is a rotation,
which no function of the product U (U^H A) sees.  First-order perturbation theory: Stewart & Sun, Matrix Perturbation
Theory (1990), section V.4.  The right-hand side is linear in dA, so evaluating it on the traced matrix and
subtracting its own value gives an array that is zero and has the right derivative, in any library.
"""

from __future__ import annotations

from ttlib import _arrays, _autograd
from ttlib._types import Array
from ttlib.errors import RankError
from ttlib.linalg.protocol import PartialSVD

# Gaps below this many units in the last place of the largest singular value are rounding.
_GAP_UNITS = 8


def follow(matrix: Array, found: PartialSVD, rank: int) -> Array:
    """Return the kept basis (…, m, r) with its derivative; *found* holds all min(m, n) triplets of *matrix*."""
    kept = found.basis[..., :rank]
    correction = _first_order(matrix, found, rank)
    return kept + (correction - _autograd.stop_gradient(correction))


def _first_order(matrix: Array, found: PartialSVD, rank: int) -> Array:
    xp = _arrays.namespace(matrix)
    basis = found.basis
    values = _arrays.from_numpy(_arrays.to_numpy(found.values), like=basis, dtype=_arrays.real_dtype(basis))
    inverse = _reciprocal(values)
    right = _arrays.adjoint(inverse[..., :, None] * found.remainder)  # V (…, n, k)
    image = matrix @ right[..., :rank]  # dA V (…, m, r)
    outside = (image - basis @ (_arrays.adjoint(basis) @ image)) * inverse[..., None, :rank]
    if rank == values.shape[-1]:
        return outside
    kept, dropped = values[..., None, :rank], values[..., rank:, None]
    _refuse_a_cut_between_equals(values, rank)
    gaps = _reciprocal((kept - dropped) * (kept + dropped))  # (…, d, r)
    crossing = (_arrays.adjoint(basis[..., rank:]) @ image) * kept
    crossing = crossing + dropped * _arrays.adjoint(_arrays.adjoint(basis[..., :rank]) @ matrix @ right[..., rank:])
    return xp.add(outside, basis[..., rank:] @ (crossing * _arrays.astype(gaps, matrix.dtype)))


def _reciprocal(x: Array) -> Array:
    """1 / x, and 0 where x is 0: directions that the matrix does not reach have no derivative to follow."""
    xp = _arrays.namespace(x)
    return xp.where(x == 0, xp.zeros_like(x), 1 / xp.where(x == 0, xp.ones_like(x), x))


def _refuse_a_cut_between_equals(values: Array, rank: int) -> None:
    host = _arrays.to_numpy(values)
    largest, last, first = host[..., 0], host[..., rank - 1], host[..., rank]
    threshold = _GAP_UNITS * _arrays.unit_roundoff(values) * largest
    split = (last - first <= threshold) & (first > threshold)
    if split.any():
        share = (last[split] / largest[split]).flat[0]
        msg = (
            f"rank {rank} cuts between two equal singular values ({share:.3g} times the largest): the truncation has "
            f"no gradient there; keep another rank, or detach the input"
        )
        raise RankError(msg)
