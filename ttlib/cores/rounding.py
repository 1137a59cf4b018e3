"""Rounding: the same tensor, to a tolerance or a cap, with smaller ranks and the exact error.

Oseledets 2011, Algorithm 2, in the form that never builds the orthogonalised train: the right-to-left sweep only keeps
the small factors X_k = W_k Q_k^H of the right interfaces W_k, and the left-to-right sweep takes the SVD of
(L_k G_k) X_k, which has the singular values of the unfolding.  The orthogonal factors Q_k are constants to autograd and
X_k is a plain contraction, so gradients never pass through a QR, which has none where a train is rank-deficient.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ttlib import _arrays
from ttlib._types import Array, Cores, Ranks
from ttlib.cores.report import DecompositionReport
from ttlib.cores.scaling import restore_scale, rounding_floor
from ttlib.cores.truncating_sweep import TruncatingSweep, energy_of
from ttlib.linalg import SVDDriver


def tt_round(
    cores: Cores, *, max_ranks: Ranks, eps: float | None, driver: SVDDriver, dtype: Any
) -> tuple[Cores, DecompositionReport]:
    """Truncate every bond; *max_ranks* are clipped to the shape, the result is cast to *dtype*."""
    shape = tuple(int(core.shape[1]) for core in cores)
    factors = _right_factors(cores)
    size = max(core.shape[0] * core.shape[1] * core.shape[2] for core in cores)
    tolerance = max(eps or 0.0, rounding_floor(cores[0], eps, size=size))
    sweep = TruncatingSweep(shape, max_ranks, tolerance, driver, lost=np.zeros(1))
    energy, energy_exponent = np.zeros(1), 0
    rounded: list[Array] = []
    powers: list[list[int]] = []
    carry, exponent = _arrays.normalise(cores[0])  # L_k G_k (l, n, r), without 2**exponent
    for (factor, factor_exponent), following in zip(factors, cores[1:], strict=True):
        left, mode, right = carry.shape
        tall = _arrays.reshape(carry, (left * mode, right))  # (l n, r)
        matrix, power = _arrays.normalise(tall @ factor)  # (l n, q)
        total = exponent + factor_exponent + power
        if not rounded:
            energy, energy_exponent = energy_of(matrix[None, ...]), total
        cut = sweep.cut(matrix[None, ...], np.ldexp(energy, 2 * (energy_exponent - total)))
        powers.append([total])
        basis = cut.basis[0, ...]  # (l n, l')
        rounded.append(_arrays.reshape(basis, (left, mode, -1)))
        _, mode, right = following.shape
        carry = _arrays.adjoint(basis) @ tall @ _arrays.reshape(following, (-1, mode * right))  # (l', n r')
        carry, power = _arrays.normalise(_arrays.reshape(carry, (-1, mode, right)))
        exponent += power
    (report,) = sweep.reports(powers, eps=eps)
    return restore_scale([*rounded, carry], exponent, dtype), report


def _right_factors(cores: Cores) -> list[tuple[Array, int]]:
    """Return X_1, …, X_{d-1} (r_k, q_k), each with the power of two taken out of it.

    W_k = X_k Q_k, where W_k (r_k, n_{k+1} … n_d) is the right interface and Q_k has orthonormal rows.
    """
    xp = _arrays.namespace(*cores)
    factor, exponent = xp.ones((1, 1), dtype=cores[0].dtype, device=_arrays.device(cores[0])), 0
    factors = []
    for core in reversed(cores[1:]):
        left, mode, right = core.shape
        wide = _arrays.reshape(_arrays.reshape(core, (left * mode, right)) @ factor, (left, -1))  # (r, n q')
        q, _ = xp.linalg.qr(_arrays.adjoint(_arrays.stop_gradient(wide)))  # (n q', q)
        factor, power = _arrays.normalise(wide @ q)  # (r, q)
        exponent += power
        factors.append((factor, exponent))
    return factors[::-1]
