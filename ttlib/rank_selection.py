"""Ranks that fit a parameter budget, from the spectra of the bonds.  Numbers only, no array library."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from fractions import Fraction

from ttlib._types import Ranks, RanksLike, Shape, ShapeLike
from ttlib.cost import count_parameters
from ttlib.errors import RankError
from ttlib.ranks import clip_ranks, real_number
from ttlib.shapes import check_integer, check_shape

Spectra = Sequence[Sequence[float]]


def ranks_for_budget(shape: ShapeLike, /, *, singular_values: Spectra, parameters: int) -> Ranks:
    """Choose ranks whose train stores at most *parameters* numbers and discards as little as it can.

    >>> import numpy as np, ttlib
    >>> W = np.random.default_rng(0).standard_normal((64, 64)) / (1 + np.arange(64)) ** 2
    >>> _, report = ttlib.decompose(W, shape=[8, 8, 8, 8], return_report=True)
    >>> ttlib.ranks_for_budget([8, 8, 8, 8], singular_values=report.singular_values, parameters=500)
    (1, 8, 4, 4, 1)

    Args:
        shape: the d modes.
        singular_values: for each of the d-1 inner bonds the descending singular values of its unfolding, as
            `DecompositionReport.singular_values` of an untruncated decomposition or `TensorTrain.singular_values()`.
        parameters: the most numbers that the cores may hold together.

    Returns:
        The d+1 ranks with 1 at both ends.

    Raises:
        RankError: when even ranks of 1 need more, or the spectra do not belong to the shape.

    Greedy: from the full ranks, the bond that loses the least energy per parameter saved gives up one rank, until the
    budget holds; what is left of it is then spent on the ranks that still fit, largest energy first.  For the error
    this minimises: ||A - TT||^2 is at most the sum of the discarded squares (Oseledets 2011, Theorem 2.2).
    """
    modes = check_shape(shape)
    budget = check_integer(parameters, name="parameters")
    if len(singular_values) != len(modes) - 1:
        msg = f"shape {modes} has {len(modes) - 1} inner bonds, got singular values for {len(singular_values)}"
        raise RankError(msg)
    least = count_parameters(modes, ranks=1)
    if budget < least:
        msg = f"shape {modes} needs {least} parameters at ranks of 1, the budget is {budget}: raise it, or split modes"
        raise RankError(msg)
    largest = max((float(value) for spectrum in singular_values for value in spectrum), default=0.0) or 1.0
    energies = [[(float(value) / largest) ** 2 for value in spectrum] for spectrum in singular_values]
    full = clip_ranks(modes, [max(1, len(spectrum)) for spectrum in energies])
    return _grow(modes, _shrink(modes, full, energies, budget), full, energies, budget)


def budget_of(size: int, *, ranks: RanksLike | None, parameters: int | None, compression: float | None) -> int | None:
    """Return the parameter budget that a caller stated in either way in place of ranks, None for neither."""
    if parameters is not None and compression is not None:
        msg = f"give parameters ({parameters!r}) or compression ({compression!r}), not both"
        raise RankError(msg)
    budget = _budget_of(size, parameters, compression)
    if budget is not None and ranks is not None:
        msg = f"give ranks ({ranks!r}) or a budget of parameters ({budget}), not both: each decides the ranks"
        raise RankError(msg)
    return budget


def _budget_of(size: int, parameters: int | None, compression: float | None) -> int | None:
    if compression is None:
        return None if parameters is None else check_integer(parameters, name="parameters")
    value = real_number(compression)
    if not 0 < value < math.inf or value < sys.float_info.min:
        msg = f"compression must be a finite number above 0 (dense entries per stored number), got {compression!r}"
        raise RankError(msg)
    return max(1, int(size // Fraction(value)))


def _shrink(shape: Shape, full: Ranks, energies: list[list[float]], budget: int) -> Ranks:
    ranks = list(full)
    while count_parameters(shape, ranks=ranks) > budget:
        prices = {k: energies[k - 1][ranks[k] - 1] / _step(shape, ranks, k) for k in _inner(ranks) if ranks[k] > 1}
        ranks[min(prices, key=lambda k: prices[k])] -= 1
    return clip_ranks(shape, ranks)


def _grow(shape: Shape, start: Ranks, full: Ranks, energies: list[list[float]], budget: int) -> Ranks:
    ranks = list(start)
    while True:
        room = budget - count_parameters(shape, ranks=ranks)
        gains = {
            k: energies[k - 1][ranks[k]]
            for k in _inner(ranks)
            if ranks[k] < full[k] and _step(shape, ranks, k) <= room and _carries_one_more(shape, ranks, k)
        }
        if not gains or max(gains.values()) == 0.0:
            return tuple(ranks)
        ranks[max(gains, key=lambda k: gains[k])] += 1


def _carries_one_more(shape: Shape, ranks: Sequence[int], bond: int) -> bool:
    return ranks[bond] < min(ranks[bond - 1] * shape[bond - 1], shape[bond] * ranks[bond + 1])


def _step(shape: Shape, ranks: Sequence[int], bond: int) -> int:
    """Return the parameters of one unit of rank at *bond*."""
    return ranks[bond - 1] * shape[bond - 1] + shape[bond] * ranks[bond + 1]


def _inner(ranks: Sequence[int]) -> range:
    return range(1, len(ranks) - 1)
