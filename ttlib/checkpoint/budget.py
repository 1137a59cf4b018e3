"""A budget of parameters for many weights, spent where it saves the most error.  Numbers only, no array.

Every weight has a curve: the ways to store it, from ranks of 1 to the dense matrix, each with its number of parameters
and a bound on its error.  Only the lower convex hull of a curve is kept, because between two of its points the error
that a parameter saves falls from step to step; taking the best step of any weight, again and again, is then not just a
heuristic but the best that can be reached with the points of the hulls, at every budget where a step ends.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from ttlib._types import Ranks, Shape
from ttlib.checkpoint.bond_spectrum import BondSpectrum
from ttlib.cost import count_parameters
from ttlib.errors import RankError
from ttlib.ranks import clip_ranks

# A rank grows by an eighth at a time: steps of 1 would only make curves longer where their points lie close.
_GROWTH = 8


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to store a weight.

    Attributes:
        parameters: the numbers stored.
        error: a bound on ||W - TT|| / ||W||; 0 for the dense matrix.
        shape, ranks: of the train; None for the dense matrix.
    """

    parameters: int
    error: float
    shape: Shape | None = None
    ranks: Ranks | None = None


@dataclass(frozen=True, slots=True)
class ParetoPoint:
    """What a budget buys: parameters of all weights together, and the root mean square of their relative errors.

    A weight counts by its number of entries, so the error is the one that all weights would have together if their
    entries were of one size.
    """

    parameters: int
    error: float


@dataclass(frozen=True, slots=True)
class Allocation:
    """The choice for each weight at one budget, and what other budgets would have bought."""

    choices: Mapping[str, Choice]
    pareto: tuple[ParetoPoint, ...]

    @property
    def parameters(self) -> int:
        """The numbers stored for all weights."""
        return sum(choice.parameters for choice in self.choices.values())


def curve(size: int, norm: float, shapes: Iterable[Shape], spectra: Mapping[int, BondSpectrum]) -> tuple[Choice, ...]:
    """Return the ways to store a weight that no mixture of others beats, the smallest first, the dense one last.

    Args:
        size: entries of the dense matrix.
        norm: its Frobenius norm.
        shapes: the tensor shapes to choose from.
        spectra: by the product of the modes on the left of a bond, for all bonds of all shapes.

    The error of ranks is bounded by the energy that all bonds cut off (Oseledets 2011, Theorem 2.2).
    """
    dense = Choice(size, 0.0)
    if norm == 0.0:
        shape = min(shapes, key=lambda shape: count_parameters(shape, ranks=1), default=None)
        small = dense if shape is None else Choice(count_parameters(shape, ranks=1), 0.0, shape, _ones(shape))
        return (min(small, dense, key=lambda choice: choice.parameters),)
    ways = [way for shape in shapes for way in _ways(shape, norm, spectra) if way.parameters < size]
    return _lower_hull([*ways, dense])


def allocate(curves: Mapping[str, Sequence[Choice]], sizes: Mapping[str, int], *, parameters: int) -> Allocation:
    """Choose for each weight so that all together take at most *parameters* numbers, and the error is small.

    Args:
        curves: of each weight, as `curve` makes them.
        sizes: entries of each weight, by which its error counts.
        parameters: the budget for all of them.

    Raises:
        RankError: even the smallest choices need more.
    """
    least = sum(ways[0].parameters for ways in curves.values())
    if least > parameters:
        msg = (
            f"the weights need {least} parameters at the smallest ranks, the budget leaves them {parameters}: raise "
            "the budget, or try more tensor shapes"
        )
        raise RankError(msg)
    at = dict.fromkeys(curves, 0)
    spent, lost = least, sum(sizes[name] * ways[0].error ** 2 for name, ways in curves.items())
    total = max(1, sum(sizes.values()))
    pareto = [(spent, lost)]
    chosen: dict[str, int] | None = None
    steps = [(_price(ways, 0, sizes[name]), name) for name, ways in curves.items() if len(ways) > 1]
    heapq.heapify(steps)
    while steps:
        _, name = heapq.heappop(steps)
        before, after = curves[name][at[name]], curves[name][at[name] + 1]
        if chosen is None and spent + after.parameters - before.parameters > parameters:
            chosen = dict(at)
        at[name] += 1
        spent += after.parameters - before.parameters
        lost -= sizes[name] * (before.error**2 - after.error**2)
        pareto.append((spent, lost))
        if at[name] + 1 < len(curves[name]):
            heapq.heappush(steps, (_price(curves[name], at[name], sizes[name]), name))
    chosen = _fill(curves, sizes, dict(at) if chosen is None else chosen, parameters)
    return Allocation(
        {name: ways[chosen[name]] for name, ways in curves.items()},
        tuple(ParetoPoint(spent, math.sqrt(max(lost, 0.0) / total)) for spent, lost in pareto),
    )


def _fill(
    curves: Mapping[str, Sequence[Choice]], sizes: Mapping[str, int], at: dict[str, int], parameters: int
) -> dict[str, int]:
    """Spend what is left on the steps that still fit, the best first: the next best one was too long."""
    left = parameters - sum(ways[at[name]].parameters for name, ways in curves.items())
    while True:
        fitting = [
            (_price(ways, at[name], sizes[name]), name)
            for name, ways in curves.items()
            if at[name] + 1 < len(ways) and ways[at[name] + 1].parameters - ways[at[name]].parameters <= left
        ]
        if not fitting:
            return at
        _, name = min(fitting)
        left -= curves[name][at[name] + 1].parameters - curves[name][at[name]].parameters
        at[name] += 1


def _price(ways: Sequence[Choice], at: int, size: int) -> float:
    """Minus the error that a parameter of the next step saves."""
    before, after = ways[at], ways[at + 1]
    return -size * (before.error**2 - after.error**2) / (after.parameters - before.parameters)


def _ways(shape: Shape, norm: float, spectra: Mapping[int, BondSpectrum]) -> list[Choice]:
    """Ranks of one shape, grown from 1 where a parameter saves the most, as far as the spectra are known."""
    bonds = [spectra[math.prod(shape[:k])] for k in range(1, len(shape))]
    tails = [_tails(bond, norm) for bond in bonds]
    largest = clip_ranks(shape, [max(1, len(own) - 1) for own in tails]) if bonds else (1, 1)
    ranks = list(_ones(shape))
    found = [_choice(shape, ranks, tails)]
    while True:
        steps = {k: _step(shape, ranks, largest, k) for k in range(1, len(shape))}
        gains = {k: _gain(shape, ranks, tails, k, step) for k, step in steps.items() if step}
        k = max(gains, key=lambda k: gains[k], default=0)
        if not k or gains[k] <= 0.0:
            return found
        ranks[k] += steps[k]
        found.append(_choice(shape, ranks, tails))


def _tails(spectrum: BondSpectrum, norm: float) -> list[float]:
    """The share of the energy that each rank from 0 on cuts off at most, summed from the smallest values up."""
    unknown = math.hypot(spectrum.rest, spectrum.floor)
    shares = [(value / norm) ** 2 for value in (unknown, *reversed(spectrum.values))]
    lost = list(accumulate(shares))[::-1]
    if spectrum.complete:
        lost[-1] = 0.0  # who keeps everything loses nothing, noise or not
    return lost


def _step(shape: Shape, ranks: Sequence[int], largest: Ranks, bond: int) -> int:
    """By how much the rank of a bond may grow at once: its neighbours must be able to carry it."""
    carried = min(ranks[bond - 1] * shape[bond - 1], shape[bond] * ranks[bond + 1], largest[bond])
    return min(max(1, ranks[bond] // _GROWTH), carried - ranks[bond])


def _gain(shape: Shape, ranks: Sequence[int], tails: Sequence[Sequence[float]], bond: int, step: int) -> float:
    own = tails[bond - 1]
    price = step * (ranks[bond - 1] * shape[bond - 1] + shape[bond] * ranks[bond + 1])
    return (own[ranks[bond]] - own[ranks[bond] + step]) / price


def _choice(shape: Shape, ranks: Sequence[int], tails: Sequence[Sequence[float]]) -> Choice:
    lost = math.fsum(own[rank] for own, rank in zip(tails, ranks[1:-1], strict=True))
    return Choice(count_parameters(shape, ranks=ranks), min(1.0, math.sqrt(lost)), shape, tuple(ranks))


def _ones(shape: Shape) -> Ranks:
    return (1,) * (len(shape) + 1)


def _lower_hull(ways: Iterable[Choice]) -> tuple[Choice, ...]:
    """The corners of the lower convex hull of error squared over parameters, as far as the error falls."""
    hull: list[Choice] = []
    for way in sorted(ways, key=lambda way: (way.parameters, way.error)):
        if hull and way.error >= hull[-1].error:
            continue
        while len(hull) > 1 and _is_above(hull[-2], hull[-1], way):
            hull.pop()
        hull.append(way)
    return tuple(hull)


def _is_above(left: Choice, middle: Choice, right: Choice) -> bool:
    """Whether *middle* does not lie below the line from *left* to *right*."""
    rise = (left.error**2 - middle.error**2) * (right.parameters - left.parameters)
    return rise <= (left.error**2 - right.error**2) * (middle.parameters - left.parameters)
