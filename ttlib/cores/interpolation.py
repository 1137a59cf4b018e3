"""Cross interpolation until it can be trusted: sweeps, validation on entries never read before, and when to stop.

The sweeps are in `ttlib.cores.cross`.  Two successive trains must agree, and the last one with two sets of fresh
entries: drawn all over the tensor, and drawn near the pivots, where a peaked function has its weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ttlib._types import Cores, Ranks, Shape
from ttlib.cores.algebra import entries, reverse
from ttlib.cores.canonical import norm
from ttlib.cores.check import ranks_of
from ttlib.cores.cross import IndexSets, Points, Values, sweep
from ttlib.cores.decompose import tt_svd
from ttlib.cores.rounding import tt_round
from ttlib.linalg import resolve_driver
from ttlib.ranks import clip_ranks

Check = tuple[Points, Values]  # entries that validate

# Of the tolerance, for the truncations: interpolation multiplies what they drop, seldom by more than ten.  Where it
# does, that is where the tolerance is nearly met or the ranks stand still above it, the share is quartered.
_FIRST_SHARE = 0.1
_NEAR_MISS = 10
_NOISE_UNITS = 16  # what rounding of the values leaves, in units of the last place
# Sweeps work with so many times the rank cap and the train is rounded to it: interpolation at the capped rank itself
# was measured to be 40 to 300 times worse than the best train of that rank.
_WORKING_RANKS = 2
_FIRST_POINTS = 64  # the start is the best of these, doubled until an entry is not zero …
_MOST_FIRST_POINTS = 16384  # … up to here
_ENTRIES_PER_VALIDATION_POINT = 10  # within these bounds:
_FEWEST_VALIDATION_POINTS, _MOST_VALIDATION_POINTS = 200, 2000
_FEWEST_EFFECTIVE_POINTS = 8  # uniform validation points that carry weight; with fewer nothing is confirmed
_MOST_JOINED = 16  # points of a failed validation that join the index sets, if their errors are comparable
_REDRAWN = 3  # coordinates in which a validation point near the pivots differs from them
_IDLE_SWEEPS = 2  # sweeps without a change of ranks after which a rank cap is taken to be what hinders


class EvaluationLimitError(Exception):
    """The entries asked for would take more evaluations than are left; none of them was made."""


class Sampler(Protocol):
    """Reads entries of the tensor, each of them once."""

    spent: int
    limit: int
    unit: float  # the relative rounding of the values read so far

    def read(self, points: Points, /, *, reserve: int = 0) -> Values:
        """Return the entries at *points* (m, d); EvaluationLimitError where fewer than *reserve* would be left."""
        ...

    def unread(self, points: Points, /) -> Points:
        """Return those of *points* that were never read."""
        ...


@dataclass(frozen=True, slots=True)
class CrossReport:
    """What a cross interpolation did and how far it can be trusted.

    `validation_error` is the relative error on points that played no part in the construction: the larger of that on
    uniformly drawn points and that on points near the pivots.  `relative_change` compares the last two trains on such
    points.  `tolerance` is what both were held against: eps, or the rounding of the values where that is coarser.
    `reason` says in words why the sweeps ended.
    """

    evaluations: int
    sweeps: int
    ranks: Ranks
    validation_error: float
    relative_change: float
    tolerance: float
    converged: bool
    reason: str

    def __str__(self) -> str:
        return (
            f"{'converged' if self.converged else 'NOT CONVERGED'}: {self.reason}; validation error "
            f"{self.validation_error:.1e}, relative change {self.relative_change:.1e}; "
            f"{self.evaluations:,} evaluations in {self.sweeps} sweeps; ranks {self.ranks}"
        )


def interpolate(
    sampler: Sampler, shape: Shape, *, max_ranks: Ranks, eps: float, max_sweeps: int, generator: np.random.Generator
) -> tuple[Cores, CrossReport]:
    """Sweep until two successive trains agree, and agree with entries never read before, both up to *eps*.

    Raises EvaluationLimitError where the limit does not allow even the first sweep.
    """
    size = math.prod(shape)
    first, everywhere = _first_points(sampler, shape, generator)
    if not first.size and sampler.spent < size:
        return _zero_train(sampler, shape, eps)
    nothing = first[:0]
    checks = (everywhere, (nothing, np.zeros(0)))
    run = Interpolation(
        sampler, shape, max_ranks, eps, generator, IndexSets.through(first), extra=nothing, checks=checks
    )
    reason = ""
    while sampler.spent < size and not (reason := run.reason_to_stop(max_sweeps)):
        try:
            run.advance()
        except EvaluationLimitError:
            if not run.train:
                raise
            reason = f"the next sweep needs more than max_evaluations={sampler.limit:,}"
            break
    if sampler.spent == size:
        return _decompose(sampler, shape, max_ranks, run)
    report = run.report(reason)
    return run.train, report


@dataclass(slots=True, eq=False)
class Interpolation:
    """One run: the sampler and the limits, and what the sweeps have made of them so far."""

    sampler: Sampler
    shape: Shape
    max_ranks: Ranks
    eps: float
    generator: np.random.Generator
    sets: IndexSets
    extra: Points
    checks: tuple[Check, ...]
    train: Cores = ()
    previous: Cores = ()
    sweeps: int = 0
    idle: int = 0
    change: float = math.inf
    error: float = math.inf
    share: float = _FIRST_SHARE

    @property
    def tolerance(self) -> float:
        """The tolerance that the values allow: eps, or a few units of their rounding."""
        return max(self.eps, _NOISE_UNITS * self.sampler.unit)

    @property
    def reserve(self) -> int:
        """The evaluations that the sweeps leave for the last validation."""
        return min(_MOST_VALIDATION_POINTS, self.sampler.limit // _ENTRIES_PER_VALIDATION_POINT)

    def reason_to_stop(self, max_sweeps: int) -> str:
        """Say why there is nothing more to do; nothing while there is."""
        if self._agrees():
            return self._agreement()
        if self.sweeps >= max_sweeps:
            return f"max_sweeps={max_sweeps} are done"
        bounds = clip_ranks(self.shape, math.prod(self.shape))
        capped = any(
            rank == cap < bound for rank, cap, bound in zip(ranks_of(self.train), self.max_ranks, bounds, strict=False)
        )
        if capped and self.idle >= _IDLE_SWEEPS:
            return f"the ranks stay at max_rank={max(self.max_ranks)}"
        return ""

    def advance(self) -> None:
        """Sweep once, the other way round than before, and compare: with the train before, then with new entries."""
        step = -1 if self.sweeps % 2 else 1  # backwards is forwards on the reversed tensor
        cores, sets = sweep(
            lambda points: self.sampler.read(points[:, ::step], reserve=self.reserve),
            self.sets if step == 1 else self.sets.reverse(),
            self.shape[::step],
            max_ranks=clip_ranks(self.shape, [_WORKING_RANKS * rank for rank in self.max_ranks[1:-1]])[::step],
            share=self.share * self.tolerance / math.sqrt(len(self.shape)),
            extra=self.extra[:, ::step],
            generator=self.generator,
        )
        if step == -1:
            cores, sets = reverse(cores), sets.reverse()
        cores = self._rounded(cores)
        self.idle = self.idle + 1 if ranks_of(self.train) == ranks_of(cores) else 0
        self.previous, self.train, self.sets, self.extra = self.train, cores, sets, self.extra[:0]
        self.sweeps, self.error = self.sweeps + 1, math.inf
        self.change = self._change()
        if self.change <= self.tolerance:
            self._validate(self.reserve)
            if self.error > self.tolerance:
                self._join_worst()
        missed = self.change if self.change > self.tolerance else self.error
        if missed > self.tolerance and (self.idle or missed <= _NEAR_MISS * self.tolerance):
            self.share /= 4

    def report(self, reason: str) -> CrossReport:
        """Report on the train, validated with what evaluations are left where it is not yet."""
        if math.isinf(self.error):
            self._validate(0)
            before = self._error_of(self.previous) if self.previous else math.inf
            if before < self.error:  # capped ranks or a late kick: the last train need not be the best
                self.train, self.error = self.previous, before
        return CrossReport(
            evaluations=self.sampler.spent,
            sweeps=self.sweeps,
            ranks=ranks_of(self.train),
            validation_error=self.error,
            relative_change=self.change,
            tolerance=self.tolerance,
            converged=self._agrees() and self._is_conclusive(),
            reason=self._agreement() if self._agrees() else reason,
        )

    def _agrees(self) -> bool:
        return max(self.change, self.error) <= self.tolerance

    def _agreement(self) -> str:
        if self._is_conclusive():
            return f"change and validation error are within {self.tolerance:.1e}"
        return "the train agrees with entries drawn at random, but nearly all its weight is outside of those"

    def _rounded(self, cores: Cores) -> Cores:
        """Drop what the superblocks could not see to be small: they weigh entries otherwise than the whole tensor."""
        dtype = np.result_type(*cores)
        cores = tuple(core.astype(dtype) for core in cores)
        eps = self.share * self.tolerance
        return tt_round([cores], max_ranks=self.max_ranks, eps=eps, driver=resolve_driver("auto"), dtype=dtype)[0][0]

    def _change(self) -> float:
        if not self.previous:
            return math.inf
        mean = _log2_root_mean_square(self.train)
        return max(
            _relative_error(_entries_at(self.previous, points), _entries_at(self.train, points), mean)
            for points in self._probes()
        )

    def _validate(self, reserve: int) -> None:
        """Compare with entries not read before.

        Where the uniform points see next to nothing of the tensor's weight, more are drawn: a few entries that are zero
        confirm nothing.
        """
        probes = self._probes()
        wanted = sum(len(points) for points in probes)
        # Near the limit the reserve is for this: a handful of points must not pass for a validation.
        stop = self.sampler.limit - (reserve if self.sampler.spent + wanted + reserve <= self.sampler.limit else 0)
        half = (stop - self.sampler.spent) // 2
        self.checks = tuple(
            self._extend(check, points, half) for check, points in zip(self.checks, probes, strict=True)
        )
        count = _FEWEST_VALIDATION_POINTS
        while not self._is_conclusive() and count < _MOST_FIRST_POINTS:
            count *= 2
            points = _uniform(self.shape, count, self.generator)
            self.checks = (self._extend(self.checks[0], points, stop - self.sampler.spent), self.checks[1])
        self.error = self._error_of(self.train)

    def _join_worst(self) -> None:
        """Move the points with the largest errors from the checks to the next sweep."""
        errors = [np.abs(exact - _entries_at(self.train, points)) for points, exact in self.checks]
        ranked = np.sort(np.concatenate(errors))
        bound = max(ranked[-_MOST_JOINED:][0], ranked[-1] / 2)
        self.extra = np.concatenate([points[e >= bound] for (points, _), e in zip(self.checks, errors, strict=True)])
        self.checks = tuple(
            (points[e < bound], exact[e < bound]) for (points, exact), e in zip(self.checks, errors, strict=True)
        )

    def _extend(self, check: Check, points: Points, most: int) -> Check:
        """Add those of *points* that are new, at *most* so many; what earlier validations saw stays in the check."""
        fresh = self.sampler.unread(points)
        chosen = fresh[: max(0, most)]
        return np.concatenate([check[0], chosen]), np.concatenate([check[1], self.sampler.read(chosen)])

    def _is_conclusive(self) -> bool:
        return _effective_count(self.checks[0][1]) >= _FEWEST_EFFECTIVE_POINTS

    def _error_of(self, train: Cores) -> float:
        """Return the larger error of the two checks; none is known where nothing could be read for the first."""
        if not self.checks[0][1].size:
            return math.inf
        mean = _log2_root_mean_square(train)
        return max(_relative_error(_entries_at(train, points), exact, mean) for points, exact in self.checks)

    def _probes(self) -> tuple[Points, Points]:
        """Draw points all over the tensor, and points near the pivots, where a peaked function has its weight."""
        wanted = self.sampler.spent // _ENTRIES_PER_VALIDATION_POINT
        count = max(_FEWEST_VALIDATION_POINTS, min(wanted, _MOST_VALIDATION_POINTS)) // 2
        share = 1 + count // len(self.sets.left)
        pivots = [
            np.concatenate([self.generator.choice(left, share), self.generator.choice(right, share)], axis=1)
            for left, right in zip(self.sets.left, self.sets.right, strict=True)
        ]
        near = np.concatenate(pivots)  # (m, d), every bond with its share
        for _ in range(_REDRAWN):
            modes = self.generator.integers(len(self.shape), size=len(near))
            near[np.arange(len(near)), modes] = self.generator.integers(np.asarray(self.shape)[modes])
        return _uniform(self.shape, count, self.generator), np.unique(near, axis=0)


def _first_points(sampler: Sampler, shape: Shape, generator: np.random.Generator) -> tuple[Points, Check]:
    """Return the point (1, d) with the largest entry among corners and random points, none if all are zero.

    The other random points, which no index set will hold on account of their values, are the first of the check.
    """
    sizes = np.asarray(shape)
    count = min(_FIRST_POINTS, max(1, sampler.limit // _ENTRIES_PER_VALIDATION_POINT))
    corners = np.stack([0 * sizes, sizes // 2, sizes - 1])
    points = _uniform(shape, count, generator)
    values = sampler.read(np.concatenate([corners, points]))
    while not values.any() and count < _MOST_FIRST_POINTS and 2 * count <= sampler.limit - sampler.spent:
        count *= 2
        points = _uniform(shape, count, generator)
        values = sampler.read(np.concatenate([corners, points]))
    best = int(np.argmax(np.abs(values)))
    first = np.concatenate([corners, points])[[best] if values[best] else []]
    others = np.arange(len(points)) != best - len(corners)
    return first, (points[others], values[len(corners) :][others])


def _zero_train(sampler: Sampler, shape: Shape, eps: float) -> tuple[Cores, CrossReport]:
    """Return the zero train of rank 1; entries that are all zero say nothing of the error relative to the others."""
    report = CrossReport(
        evaluations=sampler.spent,
        sweeps=0,
        ranks=(1,) * (len(shape) + 1),
        validation_error=math.nan,
        relative_change=math.nan,
        tolerance=eps,
        converged=False,
        reason=f"all {sampler.spent:,} entries read are zero, which others may not be",
    )
    return tuple(np.zeros((1, mode, 1)) for mode in shape), report


def _decompose(sampler: Sampler, shape: Shape, max_ranks: Ranks, run: Interpolation) -> tuple[Cores, CrossReport]:
    """Decompose a tensor of which all entries were read: its error is then exact, not estimated."""
    tensor = sampler.read(_uniform(shape, math.prod(shape), run.generator)).reshape(shape)
    auto = resolve_driver("auto")
    [(cores, made)] = tt_svd([tensor], shape, max_ranks=max_ranks, eps=run.tolerance, driver=auto, dtype=tensor.dtype)
    report = CrossReport(
        evaluations=sampler.spent,
        sweeps=run.sweeps,
        ranks=made.ranks,
        validation_error=made.relative_error,
        relative_change=0.0,
        tolerance=run.tolerance,
        converged=bool(made.tolerance_met),
        reason=f"all {sampler.spent:,} entries were read, and decomposed by TT-SVD",
    )
    return cores, report


def _entries_at(cores: Cores, points: Points) -> Values:
    """Return the entries (m,) of the train at *points* (m, d), a thousand at a time: each takes r^2 numbers."""
    parts = np.array_split(points, 1 + len(points) // 1024)
    return np.concatenate([entries(cores, part.T) for part in parts])


def _relative_error(found: Values, exact: Values, log2_mean: float) -> float:
    """Return ||found - exact|| relative to ||exact||, or to the norm that the train has on average if that is more.

    The average counts where the points happen to see only zeros, or values far below those that make up the norm.
    """
    largest = max(np.abs(found).max(initial=0.0), np.abs(exact).max(initial=0.0))
    if largest == 0:
        return 0.0
    expected = math.sqrt(len(exact)) * 2.0 ** min(log2_mean - math.log2(largest), 1000.0)
    reference = max(float(np.linalg.norm(exact / largest)), expected)
    return float(np.linalg.norm(found / largest - exact / largest)) / reference if reference else math.inf


def _effective_count(values: Values) -> float:
    """Return how many of the values make up their norm: all of them if equal, 1 if one outweighs the rest."""
    largest = np.abs(values).max(initial=0.0)
    if largest == 0:
        return 0.0
    squares = np.abs(values / largest) ** 2
    return float(squares.sum() ** 2 / (squares**2).sum())


def _log2_root_mean_square(cores: Cores) -> float:
    mantissa, exponent = norm(cores)
    if mantissa == 0:
        return -math.inf
    return math.log2(mantissa) + exponent - 0.5 * sum(math.log2(core.shape[1]) for core in cores)


def _uniform(shape: Shape, count: int, generator: np.random.Generator) -> Points:
    """Draw about *count* distinct points; all of them where there are no more."""
    if math.prod(shape) <= count:
        return np.stack(np.unravel_index(np.arange(math.prod(shape)), shape), axis=1)
    return np.unique(generator.integers(shape, size=(count, len(shape))), axis=0)
