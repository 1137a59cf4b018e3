"""Rounding: the same tensor, to a tolerance or a cap, with smaller ranks and the exact error.

Oseledets 2011, Algorithm 2, in the form that never builds the orthogonalised train: the right-to-left sweep only keeps
the small factors X_k = W_k Q_k^H of the right interfaces W_k, and the left-to-right sweep takes the SVD of
(L_k G_k) X_k, which has the singular values of the unfolding.  The orthogonal factors Q_k are constants to autograd and
X_k is a plain contraction, so gradients never pass through a QR, which has none where a train is rank-deficient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ttlib import _arrays, _autograd
from ttlib._types import Array, Cores, Ranks
from ttlib.cores.check import shape_of
from ttlib.cores.report import DecompositionReport
from ttlib.cores.scaling import Exponents, normalise_each, restore_scale, rounding_floor, stack
from ttlib.cores.truncating_sweep import TruncatingSweep
from ttlib.linalg import SVDDriver


def tt_round(
    trains: Sequence[Cores], *, max_ranks: Ranks, eps: float | None, driver: SVDDriver, dtype: Any
) -> list[tuple[Cores, DecompositionReport]]:
    """Truncate every bond of trains of equal shape and ranks to one new rank profile; results are cast to *dtype*.

    *max_ranks* are clipped to the shape.  A bond keeps what the most demanding of the trains needs.
    """
    count, shape = len(trains), shape_of(trains[0])
    scaled = [normalise_each(stack(list(cores))) for cores in zip(*trains, strict=True)]
    cores = [core for core, _ in scaled]  # (B, r, n, r')
    exponent = np.sum([powers for _, powers in scaled], axis=0)  # of two, one a train, left of the current bond
    factors = _right_factors(cores)
    size = max(core.shape[1] * core.shape[2] * core.shape[3] for core in cores)
    tolerance = max(eps or 0.0, rounding_floor(cores[0], eps, size=size))
    sweep = TruncatingSweep(shape, max_ranks, tolerance, driver, lost=np.zeros(count))
    energy, energy_exponent = np.zeros(count), exponent
    rounded: list[Array] = []
    powers: list[Exponents] = []
    carry = cores[0]  # L_k G_k (B, l, n, r)
    for (factor, factor_exponent), following in zip(factors, cores[1:], strict=True):
        _, left, mode, right = carry.shape
        tall = _arrays.reshape(carry, (count, left * mode, right))  # (B, l n, r)
        matrix, power = normalise_each(tall @ factor)  # (B, l n, q)
        powers.append(exponent + factor_exponent + power)
        if not rounded:
            energy, energy_exponent = _arrays.energies(matrix), powers[0]
        cut = sweep.cut(matrix, np.ldexp(energy, 2 * (energy_exponent - powers[-1])))
        rounded.append(_arrays.reshape(cut.basis, (count, left, mode, -1)))  # (B, l, n, l')
        _, _, mode, right = following.shape
        carry = _arrays.adjoint(cut.basis) @ tall @ _arrays.reshape(following, (count, -1, mode * right))
        carry, power = normalise_each(_arrays.reshape(carry, (count, -1, mode, right)))  # (B, l', n, r')
        exponent = exponent + power
    stacks = [*rounded, carry]
    return [
        (restore_scale([core[member, ...] for core in stacks], int(exponent[member]), dtype), report)
        for member, report in enumerate(sweep.reports(powers, eps=eps))
    ]


def _right_factors(cores: list[Array]) -> list[tuple[Array, Exponents]]:
    """Return X_1, …, X_{d-1} (B, r_k, q_k), each with the powers of two taken out of it.

    W_k = X_k Q_k, where W_k (r_k, n_{k+1} … n_d) is the right interface and Q_k has orthonormal rows.
    """
    xp, like = _arrays.namespace(*cores), cores[0]
    count = int(like.shape[0])
    factor = xp.ones((count, 1, 1), dtype=like.dtype, device=_arrays.device(like))
    exponent: Exponents = np.zeros(count, dtype=np.int64)
    factors = []
    for core in reversed(cores[1:]):
        _, left, mode, right = core.shape
        wide = _arrays.reshape(_arrays.reshape(core, (count, left * mode, right)) @ factor, (count, left, -1))
        wide, power = normalise_each(wide)  # (B, r, n q')
        exponent = exponent + power
        factor = _compressed(wide)  # (B, r, q)
        factors.append((factor, exponent))
    return factors[::-1]


def _compressed(wide: Array) -> Array:
    """Return W Q^H (…, r, q) of W (…, r, n) = (W Q^H) Q: the R of a QR, unless autograd has to follow W."""
    if not _autograd.is_traced(wide):
        return _arrays.adjoint(_arrays.triangular_factor(_arrays.adjoint(wide)))
    q, _ = _arrays.namespace(wide).linalg.qr(_arrays.adjoint(_autograd.stop_gradient(wide)))  # (…, n, q)
    return wide @ q
