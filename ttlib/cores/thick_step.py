"""One pass over the data that settles the bonds of a whole group of modes.

The rows of a wide unfolding, with the columns compressed into a small matrix (`ttlib.linalg.columns`), are all that the
bonds up to its end ask about: they are cut there one after the other, exactly as TT-SVD would cut them on the data, and
only then is the data projected, once.  The compression is tried from the cheapest to the most accurate kind, and the
first that can see what its bonds discard is taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ttlib import _arrays
from ttlib._types import Array, Ranks, Shape
from ttlib.cores.truncating_sweep import TruncatingSweep
from ttlib.linalg import DRIVERS, Columns, Compression, truncated_svd
from ttlib.sweep_plan import group_length

Numbers = np.ndarray[Any, Any]

# What is lost must be this many times what noise can add to it: two digits of the energy, so 1 % of the error.
_VISIBLE = 50
# A budget must be this many times the noise, or leaving room for the noise would cost rank.
_ROOMY = 4
# By how much the energy that a projection takes away can be off: units in the last place of the data for what the
# projection rounds, and of double precision for the two sums.
_PROJECTED_UNITS, _SUMMED_UNITS = 4, 64
# A group that keeps more than this share of its rows has not paid for the pass over the data: it takes more modes.
_MOST_KEPT = 0.5
# To guess what a group will keep, so many columns a row are looked at, in runs of so many; the guess is to be clear.
_SAMPLED_PER_ROW, _RUN = 8, 32
_CLEARLY_FEW = 1 / 3


@dataclass(frozen=True, slots=True, eq=False)
class Opening:
    """The first group of modes, its compressed columns and its energy (B,), of data that nobody has looked at yet."""

    modes: Shape
    columns: Columns
    energy: Numbers


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """A group whose bonds are cut: the sweep after them, their bases (B, r n, r') and the data after it (B, r', …).

    `ways` are those that are worth trying from here on.
    """

    sweep: TruncatingSweep
    bases: Sequence[Numbers]
    rest: Array
    ways: Sequence[Compression]


@dataclass(frozen=True, slots=True, eq=False)
class ThickSteps:
    """How one decomposition takes its steps: the ways to compress, cheapest first, and the ranks to plan with.

    `guessed` says that the data will decide about the ranks, so that the plan is checked against a sample of it.
    `mirrored` says that the untouched data has its modes in reverse: the first step then reads it as it lies, and
    leaves what is left of it in order.
    """

    shape: Shape
    ways: Sequence[Compression]
    expected: Ranks
    guessed: bool
    mirrored: bool

    def open(self, data: Array, sweep: TruncatingSweep) -> Opening | None:
        """Compress the columns of the first group, or return None where there is none or no way to do so."""
        modes = self._group(data, sweep)
        if not modes:
            return None
        matrix = self._unfolded(data, modes, sweep)
        way = self._promising(matrix, modes, sweep)[0]
        columns = self._compressed(way, data, modes, sweep)
        with np.errstate(over="ignore", invalid="ignore"):  # whoever asked looks at the energy
            return Opening(modes, columns, _arrays.energies(data) if way.is_coarse(matrix) else columns.energy)

    def take(
        self, rest: Array, sweep: TruncatingSweep, energy: Numbers, opening: Opening | None = None
    ) -> Settled | None:
        """Settle the next group on the data (B, r, …), or return None where no group is left.

        *opening* is what `open` has found for this group.
        """
        modes = self._group(rest, sweep) if opening is None else opening.modes
        while modes:
            settled = self._settle(rest, modes, sweep, energy, None if opening is None else opening.columns)
            if settled.rest.shape[1] <= _MOST_KEPT * int(rest.shape[1]) * math.prod(modes):
                return settled
            modes, opening = self._group(rest, sweep, least=len(modes) + 1), None
            if not modes:
                return settled
        return None

    def _group(self, rest: Array, sweep: TruncatingSweep, least: int = 1) -> Shape:
        """Return the modes of the next group of at least so many, passing over what a sample says will not pay."""
        left, done = int(rest.shape[1]), sweep.bond - 1
        modes, expected = self.shape[done:], self.expected[done:]
        length = group_length(modes, left, expected, least=least) if self.ways else 0
        while self.guessed and length:
            longer = group_length(modes, left, expected, least=length + 1)
            if not longer or _seems_to_pay(self._unfolded(rest, modes[:length], sweep), length, sweep):
                break
            length = longer
        return modes[:length]

    def _unfolded(self, rest: Array, modes: Shape, sweep: TruncatingSweep) -> Array:
        """Return the data as (B, r n_k …, …); the rows of mirrored data are numbered by the reverse of *modes*."""
        count, left = int(rest.shape[0]), int(rest.shape[1])
        rows = left * math.prod(modes)
        if self._lies_mirrored(sweep):
            return _arrays.reshape(rest, (count, -1, rows)).mT
        return _arrays.reshape(rest, (count, rows, -1))

    def _lies_mirrored(self, sweep: TruncatingSweep) -> bool:
        return self.mirrored and sweep.bond == 1

    def _compressed(self, way: Compression, rest: Array, modes: Shape, sweep: TruncatingSweep) -> Columns:
        columns = way.compress(self._unfolded(rest, modes, sweep))
        return columns.reversed(modes) if self._lies_mirrored(sweep) else columns

    def _projected(self, rest: Array, modes: Shape, basis: Numbers, sweep: TruncatingSweep) -> Array:
        """Return the data (B, r', …) in the basis (B, r n_k …, r') that was found for its rows."""
        mirrored = self._lies_mirrored(sweep)
        rows = _arrays.renumbered(basis, 1, modes[::-1]) if mirrored else basis
        matrix = self._unfolded(rest, modes, sweep)
        after = _arrays.adjoint(_arrays.from_numpy(rows, like=matrix, dtype=matrix.dtype)) @ matrix
        return _arrays.renumbered(after, 2, self.shape[len(modes) :]) if mirrored else after

    def _settle(
        self, rest: Array, modes: Shape, sweep: TruncatingSweep, energy: Numbers, opening: Columns | None
    ) -> Settled:
        matrix = self._unfolded(rest, modes, sweep)
        promising = self._promising(matrix, modes, sweep)
        tried = "the tolerance is below what a Gram matrix sees; " if len(promising) == 1 < len(self.ways) else ""
        capped = _is_capped(modes, int(matrix.shape[1]), sweep)
        for way in promising:
            columns = self._compressed(way, rest, modes, sweep) if opening is None else opening
            opening = None
            try:
                bases, after = _cut_all(columns, modes, sweep, energy, tried)
            except np.linalg.LinAlgError:
                tried = "the eigenvectors of a Gram matrix did not converge; "
                continue
            visible = bool(np.all(after.lost * energy >= _VISIBLE * columns.noise))
            whole = all(cut.certain and cut.basis.shape[1] == cut.basis.shape[2] for cut in after.cuts[-len(modes) :])
            if capped and not visible and not whole:  # noise may have turned the basis
                tried = "a Gram matrix was tried, but what is discarded lies in its noise; "
                continue
            projected = self._projected(rest, modes, _product(bases), sweep)
            if not whole and (way.is_coarse(matrix) or not visible):
                after = _measured(sweep, after, rest, projected, energy, noise=way.noise(int(matrix.shape[1])))
            ways = self.ways[self.ways.index(way) :] if tried else self.ways
            return Settled(after, bases, projected, ways)
        raise AssertionError  # the last way has no noise, and a fall-back for what does not converge

    def _promising(self, matrix: Array, modes: Shape, sweep: TruncatingSweep) -> Sequence[Compression]:
        """Leave out the ways that cannot see what a tolerance lets go; what a cap makes go may be any amount."""
        rows = int(matrix.shape[1])
        paying = [way for way in self.ways if way.pays(matrix)]
        if _is_capped(modes, rows, sweep):
            return paying
        measurable = _noise_of_measuring(matrix)
        share = sweep.tolerance**2 / (len(self.shape) - sweep.bond)
        return [
            way
            for way in paying
            if share >= _ROOMY * way.noise(rows) and sweep.tolerance**2 >= _VISIBLE * min(way.noise(rows), measurable)
        ]


def is_certain(sweep: TruncatingSweep) -> bool:
    """Return whether what a finished sweep says to have lost has two digits."""
    return bool(np.all(sweep.lost >= _VISIBLE * sweep.noise))


def expected_ranks(max_ranks: Ranks, full_ranks: Ranks) -> Ranks:
    """Guess the ranks to plan with where the data will decide: few, so that the first look is cheap."""
    return tuple(min(cap, math.isqrt(full)) for cap, full in zip(max_ranks, full_ranks, strict=True))


def _is_capped(modes: Shape, rows: int, sweep: TruncatingSweep) -> bool:
    """Return whether a cap may make a bond of the group drop something, whatever the tolerance says."""
    full = [rows // math.prod(modes[k + 1 :]) for k in range(len(modes))]
    return any(sweep.max_ranks[sweep.bond + k] < most for k, most in enumerate(full))


def _measured(
    before: TruncatingSweep, after: TruncatingSweep, data: Array, rest: Array, energy: Numbers, *, noise: float
) -> TruncatingSweep:
    """Return the sweep with what was lost as the data before and after tells it, where that is truer than *noise*."""
    measuring = _noise_of_measuring(data)
    if measuring >= noise:
        return replace(after, noise=before.noise + noise)
    taken = np.maximum(0.0, _arrays.energies(data) - _arrays.energies(rest))
    lost = before.lost + np.divide(taken, energy, out=np.zeros_like(taken), where=energy > 0)
    return replace(after, lost=lost, noise=before.noise + measuring)


def _noise_of_measuring(data: Array) -> float:
    unit, double = _arrays.unit_roundoff(data), _arrays.unit_roundoff(data, _arrays.double_dtype(data))
    return _PROJECTED_UNITS * unit + _SUMMED_UNITS * double


def _cut_all(
    columns: Columns, modes: Shape, sweep: TruncatingSweep, energy: Numbers, tried: str
) -> tuple[list[Numbers], TruncatingSweep]:
    """Cut the bonds after each of *modes*; return the bases (B, r n, r') and the sweep, *tried* before its reasons."""
    sweep = sweep.copy()
    bases: list[Numbers] = []
    left = columns.rows // math.prod(modes)
    for mode in modes:
        if bases:
            columns = columns.in_basis(bases[-1])
        cut = columns.cut(left * mode, sweep.rule(energy))
        sweep.record(replace(cut, reason=tried + cut.reason), energy)
        bases.append(cut.basis)
        left = int(cut.basis.shape[-1])
    return bases, sweep


def _product(bases: Sequence[Numbers]) -> Numbers:
    """Return the basis (B, m, r') of the whole group that those of its bonds (B, r n, r') make."""
    product = bases[0]
    for basis in bases[1:]:
        count, _, right = basis.shape
        product = product @ basis.reshape(count, product.shape[-1], -1)  # (B, m, r) (B, r, n r')
        product = product.reshape(count, -1, right)
    return product


def _seems_to_pay(matrix: Array, length: int, sweep: TruncatingSweep) -> bool:
    """Return whether the rule for the last bond of a group keeps few rows, as far as a sample of the columns tells."""
    count, (rows, cols) = int(matrix.shape[0]), _arrays.matrix_shape(matrix)
    runs = -(-_SAMPLED_PER_ROW * rows // _RUN)
    if cols < 4 * runs * _RUN:
        return True  # as quick to try
    spread = _arrays.reshape(matrix[:, :, : cols - cols % runs], (count, rows, runs, -1))
    sample = _arrays.to_numpy(spread[..., :_RUN]).reshape(count, rows, -1)
    with np.errstate(all="ignore"):
        energy = _arrays.energies(sample)
        if not np.all(np.isfinite(energy) & (energy > 0)):
            return True  # for the pass over the data to find out
        rule = sweep.rule(energy, ahead=length - 1)
        kept = truncated_svd(sample, rule=rule, driver=DRIVERS["auto"]).basis.shape[-1]
    return bool(kept <= _CLEARLY_FEW * rows)
