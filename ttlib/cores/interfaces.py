"""The right interfaces of a train, each as a small factor X_k with W_k = X_k Q_k and orthonormal rows in Q_k.

W_k (r_k, n_{k+1} … n_d) is what stands right of bond k, and (L_k G_k) X_k has the singular values of the unfolding: the
rows of Q_k are never needed.  X_k is found by whichever of three is cheapest and safe:

- W_k itself, where it is no wider than it is high;
- the Cholesky factor of the Gram matrix sum_i (G_{k+1}[:, i, :] X_{k+1}) (G_{k+1}[:, i, :] X_{k+1})^H: two products and
  no QR.  Rounding perturbs X_k X_k^H by a fraction nu of itself (in the order of positive semidefinite matrices), and
  so every singular value, small ones too, by nu / 2 of *itself*.  nu is computed from the factor; where it is not
  far below every other rounding, as in trains of redundant ranks, whose Gram matrices are singular, it is not taken;
- the R of a QR, always safe.

Al Daas, Ballard, Manning, 'Parallel tensor train rounding using Gram SVD' (2022), for the structured Gram matrices;
Yamamoto, Nakatsukasa, Yanagisawa, Fukaya, 'Roundoff error analysis of the CholeskyQR2 algorithm' (2015), for what
rounding does to them; van der Sluis 1969 for why the scale of single rows does not matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttlib import _arrays, _autograd
from ttlib._types import Array
from ttlib.cores.scaling import Exponents, Stack, squared_norms, tame_each

# The largest nu at which a Cholesky factor is as good as a QR: reported singular values are then true to 5e-11.
_MOST_NOISE = 1e-10
# Products of long rows are off by a few units, at random: the error matrix then has a norm of a few sqrt(r) units.
_UNITS_PER_PRODUCT = 4
# Below this many rows a QR costs less than three calls for a Cholesky factor and its certificate (measured).
_LEAST_ROWS = 32
# Triangles up to this side are inverted by the library, larger ones by halves, which is mostly multiplication.
_LARGEST_TRIANGLE = 64


@dataclass(frozen=True, slots=True, eq=False)
class RightInterface:
    """X_k (B, r_k, q) times 2**exponent, one a stack of trains; `noise` is nu, summed over the bonds it is made of."""

    factors: tuple[Array, ...]
    exponent: Exponents
    noise: float
    reason: str


def right_interfaces(cores: Stack, *, every_digit: bool) -> list[RightInterface]:
    """Return the interfaces at bonds 1, …, d-1 of a stack of trains with cores (B, r, n, r') of moderate size.

    With *every_digit* nothing is taken from a Gram matrix, which costs nu of every singular value.
    """
    count = int(cores[0].shape[0])
    traced = any(_autograd.is_traced(core) for core in cores)
    factor, exponent, noise = None, np.zeros(count, dtype=np.int64), 0.0
    use_gram = not (every_digit or traced)
    found: list[RightInterface] = []
    for core in reversed(cores[1:]):
        _, left, mode, right = core.shape
        wide = _arrays.reshape(core, (count, left * mode, right))
        wide = _arrays.reshape(wide if factor is None else wide @ factor, (count, left, -1))  # (B, r, n q')
        wide, power = tame_each(wide)
        exponent = exponent + power
        triangle = None
        if left >= wide.shape[2]:
            factor, reason = wide, "as it is"
        elif use_gram and left >= _LEAST_ROWS and (triangle := _cholesky(wide)):
            factor, noise, reason = triangle[0], noise + triangle[1], "by the Cholesky factor of its Gram matrix"
        else:
            use_gram = use_gram and left < _LEAST_ROWS  # redundant ranks seldom end with a bond, and trials cost
            factor, reason = _by_qr(wide, traced=traced), "by QR"
        found.append(RightInterface((factor,), exponent, noise, f"right interface {reason}"))
    return found[::-1]


def _by_qr(wide: Array, *, traced: bool) -> Array:
    """Return W Q^H (…, r, q) of W (…, r, n) = (W Q^H) Q: the R of a QR, unless autograd has to follow W."""
    if not traced:
        return _arrays.adjoint(_arrays.triangular_factor(_arrays.adjoint(wide)))
    q, _ = _arrays.namespace(wide).linalg.qr(_arrays.adjoint(_autograd.stop_gradient(wide)))  # (…, n, q)
    return wide @ q


def _cholesky(wide: Array) -> tuple[Array, float] | None:
    """Return C (B, r, r) with C C^H = W W^H up to the fraction nu, and nu; None where nu is too large."""
    long = _arrays.astype(wide, _arrays.double_dtype(wide))
    once = _UNITS_PER_PRODUCT * math.sqrt(wide.shape[1]) * _arrays.unit_roundoff(long)
    most = max(_MOST_NOISE, _arrays.unit_roundoff(wide)) / once
    gram = long @ _arrays.adjoint(long)
    try:
        lower = _arrays.namespace(gram).linalg.cholesky(gram)
    except Exception as error:
        if not _arrays.is_linalg_error(error):
            raise
        return None
    squares = np.diagonal(_arrays.to_numpy(gram), axis1=-2, axis2=-1).real  # (B, r): of the norms of the rows of W
    pivots = np.diagonal(_arrays.to_numpy(lower), axis1=-2, axis2=-1).real
    if not bool((pivots * pivots * most > squares).all()):  # NaN, where a library does not raise, ends here too
        return None
    # ||E||_2 of the inverse of the scaled factor is at most its Frobenius norm
    inverse = _arrays.to_numpy(_inverse(lower)) * np.sqrt(squares)[:, None, :]
    noise = once * max(squared_norms(inverse))
    return (_arrays.astype(lower, wide.dtype), noise) if noise <= most * once else None


def _inverse(lower: Array) -> Any:
    """Return the inverse of lower triangles (B, r, r)."""
    xp, side = _arrays.namespace(lower), int(lower.shape[-1])
    if side <= _LARGEST_TRIANGLE:
        return xp.linalg.inv(lower)
    half = side // 2
    first, last = _inverse(lower[:, :half, :half]), _inverse(lower[:, half:, half:])
    below = -(last @ (lower[:, half:, :half] @ first))
    corner = xp.zeros((lower.shape[0], half, side - half), dtype=lower.dtype, device=_arrays.device(lower))
    return xp.concat([xp.concat([first, corner], axis=-1), xp.concat([below, last], axis=-1)], axis=-2)
