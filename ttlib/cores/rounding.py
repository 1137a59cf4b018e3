"""Rounding: the same tensor, to a tolerance or a cap, with smaller ranks and the exact error.

Oseledets 2011, Algorithm 2, in the form that never builds the orthogonalised train: the right-to-left sweep only keeps
the small factors X_k of the right interfaces W_k = X_k Q_k (`interfaces`), and the left-to-right sweep takes the SVD of
(L_k G_k) X_k, which has the singular values of the unfolding.  What is kept is the projection of L_k G_k itself, so the
result is a projection of the given train to the last digit, however X_k was found.  The orthogonal factors Q_k are
constants to autograd and X_k is a plain contraction, so gradients never pass through a QR, which has none where a train
is rank-deficient.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ttlib import _arrays
from ttlib._types import Array, Cores, Ranks
from ttlib.cores.interfaces import RightInterface, right_interfaces
from ttlib.cores.report import DecompositionReport
from ttlib.cores.scaling import (
    Exponents,
    Stack,
    bring_below_one,
    deliver,
    on_host,
    rounding_floor,
    stack,
    tame_each,
    tame_together,
)
from ttlib.cores.truncating_sweep import TruncatingSweep
from ttlib.linalg import SVDDriver


def tt_round(
    trains: Sequence[Cores], *, max_ranks: Ranks, eps: float | None, driver: SVDDriver, dtype: Any
) -> list[tuple[Cores, DecompositionReport]]:
    """Truncate every bond of trains of equal shape and ranks to one new rank profile; results are cast to *dtype*.

    *max_ranks* are clipped to the shape.  A bond keeps what the most demanding of the trains needs.  Raises
    NonFiniteError for cores that hold NaN or infinities.
    """
    like = trains[0][0]
    cores, exponent = moderate_stacks([on_host(cores) for cores in trains])
    interfaces = right_interfaces(cores, every_digit=eps == 0.0)
    rounded, exponent, reports = truncate(
        [cores], exponent, interfaces, summed=False, max_ranks=max_ranks, eps=eps, driver=driver
    )
    return [
        (deliver([core[member, ...] for core in rounded], int(exponent[member]), like=like, dtype=dtype), report)
        for member, report in enumerate(reports)
    ]


def truncate(
    stacks: Sequence[Stack],
    exponent: Exponents,
    interfaces: Sequence[RightInterface],
    *,
    summed: bool,
    max_ranks: Ranks,
    eps: float | None,
    driver: SVDDriver,
) -> tuple[Stack, Exponents, list[DecompositionReport]]:
    """Cut trains with cores (B, r, n, r') times 2**exponent from left to right, as `tt_round`.

    They are cut side by side; or they are *summed*, the terms of a single train, in several stacks where their ranks
    differ.  All cores that are returned but the last are left-orthogonal.
    """
    count = 1 if summed else int(stacks[0][0].shape[0])
    noise = max((interface.noise for interface in interfaces), default=0.0)
    tolerance = _tolerance(stacks[0], eps) * (1 - noise)
    shape = tuple(int(core.shape[2]) for core in stacks[0])
    sweep = TruncatingSweep(shape, max_ranks, tolerance, driver, lost=np.zeros(count))
    energy, energy_exponent = np.zeros(count), exponent
    rounded: Stack = []
    powers: list[Exponents] = []
    carries = [cores[0] for cores in stacks]  # L_k G_k (B, l, n, r), with the exponent of all that is left of bond k
    for bond, interface in enumerate(interfaces, start=1):
        _, left, mode, _ = carries[0].shape
        tall = [_arrays.reshape(carry, (-1, left * mode, carry.shape[3])) for carry in carries]  # (B, l n, r)
        products = [part @ factor for part, factor in zip(tall, interface.factors, strict=True)]
        matrix, power = bring_below_one(_total(products) if summed else products[0])  # (B, l n, q)
        powers.append(exponent + power + interface.exponent)
        if not rounded:
            energy, energy_exponent = _arrays.energies(matrix), powers[0]
        cut = sweep.cut(matrix, np.ldexp(energy, 2 * (energy_exponent - powers[-1])))
        rounded.append(_arrays.reshape(cut.basis, (count, left, mode, -1)))  # (B, l, n, l')
        carries = [_advance(cut.basis, part, cores[bond]) for part, cores in zip(tall, stacks, strict=True)]
        carries, power = _tamed(carries, summed=summed)
        exponent = exponent + power
    last = _total(carries) if summed else carries[0]
    rounded.append(last if rounded else _arrays.copied(last))  # the only core must not stay a view of the input
    ways = [interface.reason for interface in interfaces]
    return rounded, exponent, [_explained(report, ways) for report in sweep.reports(powers, eps=eps)]


def _tolerance(cores: Stack, eps: float | None) -> float:
    size = max(math.prod(core.shape[1:]) for core in cores)
    return max(eps or 0.0, rounding_floor(cores[0], eps, size=size))


def _tamed(stacks: list[Array], *, summed: bool) -> tuple[list[Array], Exponents]:
    if summed:
        together, power = tame_together(stacks)
        return together, np.array([power])
    tamed, powers = tame_each(stacks[0])
    return [tamed], powers


def _advance(basis: Array, tall: Array, core: Array) -> Array:
    """Return (B, l', n, r') of U (B or 1, l m, l'), L G (B, l m, r) and the next core (B, r, n, r')."""
    count, left, mode, right = core.shape
    wide = _arrays.adjoint(basis) @ tall @ _arrays.reshape(core, (count, left, mode * right))
    return _arrays.reshape(wide, (count, -1, mode, right))


def _total(stacks: Sequence[Array]) -> Array:
    """Return the sum of all members of stacks (B, …), as a stack of one."""
    xp = _arrays.namespace(*stacks)
    sums = [x if x.shape[0] == 1 else xp.sum(x, axis=0, keepdims=True) for x in stacks]
    return functools.reduce(operator.add, sums)


def moderate_stacks(trains: Sequence[Cores]) -> tuple[Stack, Exponents]:
    """Return the cores of trains of equal shapes as stacks (B, r, n, r') of moderate norm, and powers of two."""
    stacks: Stack = []
    exponent = np.zeros(len(trains), dtype=np.int64)
    for k, cores in enumerate(zip(*trains, strict=True)):
        tamed, powers = tame_each(stack(list(cores)), name=f"core {k}")
        stacks.append(tamed)
        exponent += powers
    return stacks, exponent


def _explained(report: DecompositionReport, ways: Sequence[str]) -> DecompositionReport:
    reasons = (f"{why}; {way}" for why, way in zip(report.reasons, ways, strict=True))
    return replace(report, reasons=tuple(reasons))
