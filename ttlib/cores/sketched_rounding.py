"""Rounding of a train, or of a sum of trains that is never formed, from random sketches of its interfaces.

Al Daas, Ballard, Cazeaux, Hallman, Miedlar, Pasha, Reid, Saibaba, 'Randomized algorithms for rounding in the
tensor-train format', SIAM J. Sci. Comput. 45 (2023), Algorithm 3.2 with the structure of a sum (section 3.4): a train
of random cores sketches the left interface of each term, and a sweep from right to left finds nested subspaces R_k of
little more than the ranks wanted.  Where the paper then truncates the projection of the train onto R_1, the train
itself is cut here, from left to right: the SVD of (L_k G_k) (W_k R_k^H) is half a step of subspace iteration further,
and a tenth of the excess error is left (measured).  The cost is that of multiplying by a few vectors, n r^2 l a core,
where everything exact, a norm included, takes n r^3; and it grows linearly with the number of terms, where exact
rounding grows with its cube.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from ttlib import _arrays, _autograd
from ttlib._types import Array, Cores, Driver, Ranks
from ttlib.cores import algebra
from ttlib.cores.check import ranks_of, shape_of
from ttlib.cores.interfaces import RightInterface, right_interfaces
from ttlib.cores.report import DecompositionReport
from ttlib.cores.rounding import moderate_stacks, truncate, tt_round
from ttlib.cores.scaling import Exponents, Stack, deliver, on_host, stack, tame_each, tame_together
from ttlib.linalg import SVDDriver, resolve_driver
from ttlib.ranks import clip_ranks

# The subspaces have half as many dimensions again as the rank wanted, and so many more at least.
_LEAST_OVERSAMPLING = 8
# Where the ranks are less than this many times as large as the widths, exact rounding is faster (measured).
_LEAST_SHARE = 2
_SEED = 0  # the same train gives the same answer every time


def round_train(
    cores: Cores, *, max_ranks: Ranks, eps: float | None, driver: Driver | SVDDriver, dtype: Any, certify: bool
) -> tuple[Cores, DecompositionReport | None]:
    """Round one train, by a sketch where the driver of that name is asked for and no tolerance has to be kept.

    To *certify* means to report the error of a sketch too, and costs as much as exact rounding, which needs the same
    factors of all interfaces.  Raises NonFiniteError for cores that hold NaN or infinities.
    """
    if driver != "sketch" or eps is not None or any(_autograd.is_traced(core) for core in cores):
        svd = resolve_driver("auto" if driver == "sketch" else driver)
        (result,) = tt_round([cores], max_ranks=max_ranks, eps=eps, driver=svd, dtype=dtype)
        return result
    widths = _widths([cores], max_ranks, max(_LEAST_OVERSAMPLING, max(max_ranks) // 2))
    if widths is None:
        auto = resolve_driver("auto")
        ((exact, report),) = tt_round([cores], max_ranks=max_ranks, eps=None, driver=auto, dtype=dtype)
        reasons = tuple(f"a sketch would not pay; {why}" for why in report.reasons)
        return exact, replace(report, reasons=reasons)
    host = on_host(cores)
    rounded, exponent, report = _cut([host], max_ranks, widths, np.random.default_rng(_SEED))
    result_cores = deliver([core[0, ...] for core in rounded], exponent, like=cores[0], dtype=dtype)
    if not certify:
        return result_cores, None
    drivers = ("sketch",) * len(report.drivers)
    return result_cores, replace(report, relative_error=projection_error(host, rounded), drivers=drivers)


def round_terms(
    terms: Sequence[Cores], *, max_ranks: Ranks, oversampling: int, generator: np.random.Generator, dtype: Any
) -> Cores:
    """Round a sum of trains to ranks of at most *max_ranks*, by a sketch where that pays and exactly elsewhere.

    Raises NonFiniteError for cores that hold NaN or infinities.
    """
    widths = _widths(terms, max_ranks, oversampling)
    if widths is None:
        total, auto = functools.reduce(algebra.add, terms), resolve_driver("auto")
        ((exact, _),) = tt_round([total], max_ranks=max_ranks, eps=None, driver=auto, dtype=dtype)
        return exact
    rounded, exponent, _ = _cut([on_host(cores) for cores in terms], max_ranks, widths, generator)
    return deliver([core[0, ...] for core in rounded], exponent, like=terms[0][0], dtype=dtype)


def _widths(terms: Sequence[Cores], max_ranks: Ranks, oversampling: int) -> Ranks | None:
    """Return the dimensions of the subspaces, or None where exact rounding of the sum costs no more."""
    given = [sum(ranks) for ranks in zip(*(ranks_of(cores)[1:-1] for cores in terms), strict=True)]
    wanted = [min(cap + oversampling, rank) for cap, rank in zip(max_ranks[1:-1], given, strict=True)]
    widths = clip_ranks(shape_of(terms[0]), wanted)
    return widths if given and _LEAST_SHARE * sum(widths[1:-1]) <= sum(given) else None


def _cut(
    terms: Sequence[Cores], max_ranks: Ranks, widths: Ranks, generator: np.random.Generator
) -> tuple[Stack, int, DecompositionReport]:
    """Return left-orthogonal cores (1, l, n, l') of about the sum times 2**k, and k; the error reported is not its own.

    It is that of the sum inside the subspaces.
    """
    stacks, exponent = _stacked(terms)
    rounded, powers, (report,) = truncate(
        stacks,
        np.array([exponent]),
        _sketched_interfaces(stacks, widths, generator),
        summed=True,
        max_ranks=max_ranks,
        eps=None,
        driver=resolve_driver("auto"),
    )
    return rounded, int(powers[0]), report


def projection_error(cores: Cores, rounded: Stack) -> float:
    """Return ||A - C|| / ||A|| for the train A with *cores*, and C as `truncate` cuts it.

    C is A projected onto the range of its left-orthogonal cores bond by bond; each projection is inside the range of
    the one before, so the squares of what they take away add up.  That is formed, not got as a difference of norms:
    small errors keep their digits.
    """
    stacks, _ = moderate_stacks([cores])
    carry, exponent = stacks[0], 0
    lost: list[tuple[float, int]] = []
    for interface, orthogonal, following in zip(
        right_interfaces(stacks, every_digit=False), rounded[:-1], stacks[1:], strict=True
    ):
        _, left, mode, right = carry.shape
        tall = _arrays.reshape(carry, (1, left * mode, right))
        basis = _arrays.reshape(orthogonal, (1, left * mode, -1))  # (1, l n, l')
        inside = _arrays.adjoint(basis) @ tall
        outside = (tall - basis @ inside) @ interface.factors[0]
        lost.append((float(_arrays.energies(outside)[0]), exponent + int(interface.exponent[0])))
        carry = inside @ _arrays.reshape(following, (1, right, -1))
        carry, power = tame_each(_arrays.reshape(carry, (1, -1, *following.shape[2:])))
        exponent += int(power[0])
    parts = [*lost, (float(_arrays.energies(carry)[0]), exponent)]
    top = max((power for square, power in parts if square), default=0)
    squares = [math.ldexp(square, 2 * (power - top)) if square else 0.0 for square, power in parts]
    return math.sqrt(math.fsum(squares[:-1]) / math.fsum(squares)) if any(squares) else 0.0


def _sketched_interfaces(
    stacks: Sequence[Stack], widths: Ranks, generator: np.random.Generator
) -> list[RightInterface]:
    """Return the right interfaces at bonds 1, …, d-1 in orthonormal bases of the subspaces, W_k R_k^H (m, r, l)."""
    sketches = _sketch_left_interfaces(stacks, widths, generator)
    found: list[RightInterface] = []
    exponent = 0
    coefficients: list[Array | None] = [None for _ in stacks]
    for bond in range(len(widths) - 2, 0, -1):
        flat = [_times(cores[bond], right) for cores, right in zip(stacks, coefficients, strict=True)]  # (m, r, n l')
        sketched = sum(_side_by_side(s) @ _upon_another(f) for s, f in zip(sketches[bond - 1], flat, strict=True))
        q, _ = _arrays.namespace(sketched).linalg.qr(_arrays.adjoint(sketched))  # (n l', l)
        factors, power = tame_together([part @ q for part in flat])  # (m, r, l)
        exponent += power
        reason = f"right interface in a random subspace of {widths[bond]} dimensions"
        found.append(RightInterface(tuple(factors), np.array([exponent]), 0.0, reason))
        coefficients = list(factors)
    return found[::-1]


def _sketch_left_interfaces(
    stacks: Sequence[Stack], widths: Ranks, generator: np.random.Generator
) -> list[list[Array]]:
    """Return, for each inner bond, the sketches (m, l, r) of the left interfaces, on one scale a bond."""
    like = stacks[0][0]
    current: list[Array | None] = [None for _ in stacks]
    sketches = []
    for k, (left, right) in enumerate(list(pairwise(widths))[:-1]):
        mode = stacks[0][k].shape[2]
        # uniform numbers sketch as well as normal ones here (measured), at a fifth of their price
        noise = _arrays.from_numpy(generator.random((right, left * mode)) - 0.5, like=like)  # (l', l n)
        halves = [_through(s, cores[k]) for s, cores in zip(current, stacks, strict=True)]
        tamed, _ = tame_together([noise @ half for half in halves])  # (m, l', r')
        sketches.append(tamed)
        current = list(tamed)
    return sketches


def _through(sketch: Array | None, core: Array) -> Array:
    """Return (m, l n, r') of a sketch (m, l, r) and a core (m, r, n, r')."""
    count, left, mode, right = core.shape
    product = core if sketch is None else sketch @ _arrays.reshape(core, (count, left, mode * right))
    return _arrays.reshape(product, (count, -1, right))


def _times(core: Array, coefficients: Array | None) -> Array:
    """Return (m, r, n l) of a core (m, r, n, r') and coefficients (m, r', l)."""
    count, left, mode, right = core.shape
    tall = _arrays.reshape(core, (count, left * mode, right))
    return _arrays.reshape(tall if coefficients is None else tall @ coefficients, (count, left, -1))


def _side_by_side(sketch: Array) -> Array:
    """Return (l, m r) of (m, l, r)."""
    count, width, rank = sketch.shape
    return sketch[0, ...] if count == 1 else _arrays.reshape(sketch.mT, (count * rank, width)).mT


def _upon_another(flat: Array) -> Array:
    """Return (m r, c) of (m, r, c)."""
    return _arrays.reshape(flat, (-1, flat.shape[-1]))


def _stacked(terms: Sequence[Cores]) -> tuple[list[Stack], int]:
    """Group terms of equal ranks, with moderate cores; their sum is to be multiplied by 2 to the second value.

    Each core keeps a power of two of its own, and the first one gets what is left of those of its term.
    """
    groups: dict[tuple[tuple[int, ...], ...], list[Cores]] = {}
    for cores in terms:
        groups.setdefault(tuple(tuple(core.shape) for core in cores), []).append(cores)
    tamed = [moderate_stacks(members) for members in groups.values()]
    largest = int(max(powers.max() for _, powers in tamed))
    return [_to_exponent(cores, powers, largest) for cores, powers in tamed], largest


def _to_exponent(cores: Stack, powers: Exponents, exponent: int) -> Stack:
    """Return trains for which one power of two stands instead of one a member."""
    if bool((powers == exponent).all()):
        return cores
    first = [_arrays.ldexp(cores[0][m, ...], int(power) - exponent) for m, power in enumerate(powers)]
    return [stack(first), *cores[1:]]
