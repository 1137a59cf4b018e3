"""TT-SVD: arrays to tensor-train cores, with the exact error (Oseledets 2011, Algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ttlib import _arrays, _autograd
from ttlib._types import Array, Cores, Ranks, Shape
from ttlib.cores.report import DecompositionReport
from ttlib.cores.scaling import (
    LARGEST_MEAN_SQUARE,
    LEAST_MEAN_SQUARE,
    Exponents,
    deliver,
    normalise_each,
    on_host,
    rounding_floor,
    stack,
)
from ttlib.cores.thick_step import Opening, ThickSteps, expected_ranks, is_certain
from ttlib.cores.truncating_sweep import TruncatingSweep
from ttlib.linalg import DRIVERS, SVDDriver, compressions, sketch_pays
from ttlib.ranks import clip_ranks
from ttlib.sweep_plan import starts_right

Numbers = np.ndarray[Any, Any]


def tt_svd(
    tensors: Sequence[Array], shape: Shape, *, max_ranks: Ranks, eps: float | None, driver: SVDDriver, dtype: Any
) -> list[tuple[Cores, DecompositionReport]]:
    """Decompose arrays of one size in one sweep; at each bond the stack keeps the largest rank that any of them needs.

    *max_ranks* are already clipped to the shape, the results are cast to *dtype*.  The sweep takes thick steps
    (`ttlib.cores.thick_step`) as long as there are more columns than rows, and then one bond at a time; the SVDs of
    traced arrays, and those of drivers that want the whole matrix, are of one bond each from the start.  It starts
    from the right where no rank is capped and `ttlib.sweep_plan` says so: then it works on the reversed train.

    Raises NonFiniteError for NaN and infinities, which are looked for only where a sum of squares is not moderate.
    """
    data = stack([_arrays.astype(tensor, _arrays.compute_dtype(tensors[0])) for tensor in tensors])  # (B, n1, …, nd)
    full_ranks = clip_ranks(shape, math.prod(shape))
    uncapped = max_ranks == full_ranks
    guessed = eps is not None or uncapped
    ways = () if _autograd.is_traced(data) else compressions(driver, data)
    expected = expected_ranks(max_ranks, full_ranks) if guessed else max_ranks
    mirrored = bool(ways) and uncapped and starts_right(shape, expected[1:])
    if mirrored:
        shape, max_ranks, expected = shape[::-1], max_ranks[::-1], expected[::-1]
    data = on_host((data,))[0] if ways else data
    tolerance = max(eps or 0.0, rounding_floor(data, eps, size=math.prod(shape)))
    sweep = TruncatingSweep(shape, max_ranks, tolerance, driver, lost=np.zeros(len(tensors)))
    steps = ThickSteps(shape, ways, expected[1:], guessed, mirrored)
    rest = _arrays.reshape(data, (len(tensors), 1, -1))
    parts, exponents, finished = _sweep(rest, tensors, sweep.copy(), steps)
    while not is_certain(finished):  # far less was lost than the tolerance let go: look closer
        steps = replace(steps, ways=steps.ways[1:])
        parts, exponents, finished = _sweep(rest, tensors, sweep.copy(), steps)
    reports = finished.reports([exponents] * (len(shape) - 1), eps=eps)
    return [
        (
            _finished(member, parts, int(exponents[member]), mirrored=mirrored, like=tensors[0], dtype=dtype),
            report.mirrored() if mirrored else report,
        )
        for member, report in enumerate(reports)
    ]


def _sweep(
    rest: Array, tensors: Sequence[Array], sweep: TruncatingSweep, steps: ThickSteps
) -> tuple[list[Array], Exponents, TruncatingSweep]:
    """Cut all bonds of the data (B, 1, n1 … nd); return the cores (B, r, n, r') of the data times 2**-exponents."""
    count, size = int(rest.shape[0]), math.prod(sweep.shape)
    opening = None if _is_sketched(sweep, 1, steps) else steps.open(rest, sweep)
    energy, exponents = _moderate_energy(opening, size), np.zeros(count, dtype=np.int64)
    if energy is None:
        _check_finite(tensors)
        rest, exponents = normalise_each(rest)
        opening, energy = None, _arrays.energies(rest)
    bases: list[Array] = []
    while not sweep.finished:
        sketched = _is_sketched(sweep, int(rest.shape[1]), steps)
        settled = None if sketched else steps.take(rest, sweep, energy, opening)
        if settled is None:
            cut = sweep.cut(
                _arrays.reshape(rest, (count, int(rest.shape[1]) * sweep.shape[sweep.bond - 1], -1)), energy
            )
            bases.append(cut.basis)  # (B, r n, r')
            rest = cut.remainder
        else:
            bases += [_arrays.from_numpy(basis, like=rest, dtype=rest.dtype) for basis in settled.bases]
            rest, sweep, steps = settled.rest, settled.sweep, replace(steps, ways=settled.ways)
        opening = None
    if not bases:  # a vector is its own only core, and must not stay a view of the input
        rest = _arrays.copied(rest)
    rights = [*(int(basis.shape[-1]) for basis in bases), 1]
    parts = zip([*bases, rest], sweep.shape, rights, strict=True)
    return [_arrays.reshape(part, (count, -1, mode, right)) for part, mode, right in parts], exponents, sweep


def _finished(member: int, stacks: Sequence[Array], exponent: int, *, mirrored: bool, like: Array, dtype: Any) -> Cores:
    """Return the cores (r, n, r') of one member of the stacks, times 2**exponent, in the library of *like*."""
    finished = deliver([part[member, ...] for part in stacks], exponent, like=like, dtype=dtype)
    if not mirrored:
        return finished
    return tuple(_arrays.namespace(core).permute_dims(core, (2, 1, 0)) for core in reversed(finished))


def _is_sketched(sweep: TruncatingSweep, left: int, steps: ThickSteps) -> bool:
    """Return whether the next bond is so wide that the caller's leave to sketch saves time."""
    if sweep.driver is not DRIVERS["sketch"] or (steps.mirrored and sweep.bond == 1):
        return False
    sides = (left * sweep.shape[sweep.bond - 1], math.prod(sweep.shape[sweep.bond :]))
    return sketch_pays(sides, steps.expected[sweep.bond - 1])


def _moderate_energy(opening: Opening | None, size: int) -> Numbers | None:
    """Return the sums of squares that were found, unless one of them is not to be trusted."""
    if opening is None:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        energy = opening.energy
        moderate = (energy > LEAST_MEAN_SQUARE * size) & (energy < LARGEST_MEAN_SQUARE * size)
    return energy if bool(np.all(moderate)) else None


def _check_finite(tensors: Sequence[Array]) -> None:
    name = "the input" if len(tensors) == 1 else "array {} of the batch"
    for k, tensor in enumerate(tensors):
        _arrays.check_finite(tensor, name=name.format(k))
