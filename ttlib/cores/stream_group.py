"""The trailing modes of an array in blocks: a basis for them, what is left in it, and what is lost.

From the Gram matrix of the columns, as in `ttlib.cores.thick_step`.  Or, where that is too large, inside a range:
random vectors are multiplied by A^H A, and the result again, and both together span Q (Musco, Musco, 'Randomized block
Krylov methods for stronger and faster approximate singular value decomposition', NeurIPS 2015, Algorithm 2); the bonds
are then cut on A Q Q^H.  What a range loses is measured on the data, never estimated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ttlib import _arrays
from ttlib._types import Cores, Ranks, Shape
from ttlib.cores.stream_data import StreamData, energy_of
from ttlib.cores.truncating_sweep import TruncatingSweep
from ttlib.linalg import DRIVERS, Columns, Compression, Cut
from ttlib.linalg.columns import ExactCompression, FactorColumns, GramColumns
from ttlib.linalg.qr import lower_factor
from ttlib.stream_plan import StreamPlan, fits, useful_width

Numbers = np.ndarray[Any, Any]

# What is lost must be this many times what noise can add to it: two digits of the energy, so 1 % of the error.
_VISIBLE = 50
# A budget must be this many times the noise, or leaving room for the noise would cost rank.
_ROOMY = 4
# Units in the last place of the energy: by how much the difference of two can be off, and A^H A W in any direction.
_MEASURED_UNITS, _BLURRED_UNITS = 8, 4
# The tolerance of the cuts inside a range, until what they lose on the data itself is within the real one.
_STRICTNESS = (1.0, 0.5, 0.0)
_SEED = 0  # the same array gives the same answer every time


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The trailing modes, cut: their right-orthogonal cores (r, n, r'), and the rest A conj(P) (M, r) of the data.

    `cuts` are those of the bond left of each core, `energy` is ||A||^2 and `lost` the share of it that is gone.
    """

    cores: Cores
    cuts: Sequence[Cut]
    rest: Numbers
    energy: float
    lost: float


@dataclass(frozen=True, slots=True, eq=False)
class GroupTask:
    """What there is to do: the data, its modes, caps, the tolerance for all bonds, ways to compress, bytes to use.

    `is_guessed` says that the tolerance decides about the ranks, not the caps alone.
    """

    data: StreamData
    shape: Shape
    max_ranks: Ranks
    tolerance: float
    is_guessed: bool
    ways: Sequence[Compression]
    memory: int

    def nothing(self) -> Group:
        """Return the group of no modes."""
        rest = self.data.whole()
        return Group((), (), rest, energy_of(rest), 0.0)

    def fits(self, split: int, rank: int) -> bool:
        """Return whether the rest fits into memory."""
        rest = math.prod(self.shape[:split]) * rank
        return fits(rest, itemsize=self.data.dtype.itemsize, memory=self.memory)

    def share(self, split: int) -> float:
        """Return the share of the energy that the group may lose, if every bond loses as much."""
        return self.tolerance**2 * (len(self.shape) - split) / (len(self.shape) - 1)

    def is_capped(self, split: int) -> bool:
        """Return whether a cap may make a bond of the group drop something, whatever the tolerance says."""
        bonds = range(split, len(self.shape))
        return any(self.max_ranks[bond] < math.prod(self.shape[bond:]) for bond in bonds)


def by_gram_matrix(task: GroupTask, plan: StreamPlan) -> Group | None:
    """Settle the group by its Gram matrix, or more exactly where that cannot see what is lost.

    None says that what is left does not fit into memory.
    """
    count = math.prod(task.shape[plan.split :])
    ways = [way for way in task.ways if task.is_capped(plan.split) or _sees(way, count, task)] or task.ways[-1:]
    for way in ways:
        merge = _joined_factors if isinstance(way, ExactCompression) else _summed_grams
        columns, energy = task.data.summed(count, merge, _compressed, way)
        try:
            bases, sweep = _cut(task, plan, columns, energy, lost=0.0)
        except np.linalg.LinAlgError:
            if way is ways[-1]:
                raise
            continue
        whole = all(basis.shape[1] == basis.shape[2] for basis in bases)
        if whole or way is ways[-1] or bool(np.all(sweep.lost * energy >= _VISIBLE * columns.noise)):
            break
    if not task.fits(plan.split, bases[-1].shape[2]) and not plan.is_leanest:
        return None
    rest = task.data.products(count, _basis(task, plan, bases).conj())
    return Group(_cores(task, plan, bases), sweep.cuts[::-1], rest, energy, float(sweep.lost[0]))


def by_range(task: GroupTask, plan: StreamPlan) -> Group | None:
    """Settle the group inside a range of random vectors.

    None says that the range is too small for the tolerance, or what is left does not fit into memory.
    """
    count, generator = math.prod(task.shape[plan.split :]), np.random.default_rng(_SEED)
    found = None
    for precision in _precisions(task):
        noise = generator.standard_normal((count, -(-plan.width // 2)), dtype=precision)
        sample, energy = task.data.summed(count, _added, _sampled, noise)
        first = np.linalg.qr(sample)[0]
        second, _ = task.data.summed(count, _added, _sampled, first.conj())
        range_ = np.linalg.qr(np.hstack([first, second]))[0].astype(task.data.dtype, copy=False)
        del noise, sample, first, second
        found = _inside_range(task, plan, range_, energy)
        if found is None or not _is_blurred(found, float(np.finfo(precision).eps)):
            break
    return found


def _inside_range(task: GroupTask, plan: StreamPlan, range_: Numbers, energy: float) -> Group | None:
    """Settle the group inside the range of an orthonormal Q (m, k)."""
    data, count, split = task.data, range_.shape[0], plan.split
    inside = data.products(count, range_.conj())  # A conj(Q) (M, k)
    final = not task.is_guessed or plan.width >= useful_width(task.max_ranks[split], min(count, inside.shape[0]))
    lost = _lost(task, range_, inside, energy)
    if lost > task.share(split) and not final:
        return None
    columns = FactorColumns((range_ @ _arrays.triangular_factor(inside).T)[None], is_triangular=False)
    left = 0.0 if split == 1 else (task.tolerance**2 - task.share(split)) / 2  # for the bonds to come
    for strictness in _STRICTNESS:
        stricter = replace(task, tolerance=task.tolerance * strictness)
        bases, sweep = _cut(stricter, plan, columns, energy, lost=lost)
        if not task.fits(split, bases[-1].shape[2]) and not plan.is_leanest:
            return None
        basis = _basis(task, plan, bases)
        within = len(bases) == 1  # the basis lies in the range
        rest = inside @ (range_.T @ basis.conj()) if within else data.products(count, basis.conj())
        gone = _lost(task, basis, rest, energy)
        if gone <= task.tolerance**2 - left or _are_capped(task, bases):
            reason = f"block Krylov space of {range_.shape[1]} vectors; what is lost was measured"
            cuts = [replace(cut, driver="sketch", reason=reason) for cut in sweep.cuts[::-1]]
            return Group(_cores(task, plan, bases), cuts, rest, energy, gone)
    return None


def _lost(task: GroupTask, basis: Numbers, rest: Numbers, energy: float) -> float:
    """Return the share of the energy that a basis (m, k) loses: a difference, or summed where that has no digits."""
    if energy == 0:
        return 0.0
    gone = energy - energy_of(rest)
    if gone < _VISIBLE * _MEASURED_UNITS * float(np.finfo(basis.dtype).eps) * energy:
        gone = task.data.residual(basis.shape[0], basis)
    return gone / energy


def _precisions(task: GroupTask) -> tuple[Any, ...]:
    """Return the precisions to sample in: double alone where a tolerance is finer than single could resolve."""
    real = np.finfo(task.data.dtype).dtype
    resolved = _VISIBLE * _BLURRED_UNITS * float(np.finfo(real).eps)
    if real == np.float64 or (task.is_guessed and task.tolerance**2 < resolved):
        return (np.float64,)
    return (np.float32, np.float64)


def _are_capped(task: GroupTask, bases: Sequence[Numbers]) -> bool:
    """Return whether some bond has the largest rank that it may have: then no tolerance can help."""
    caps = task.max_ranks[::-1][1:]
    return any(basis.shape[2] == cap for basis, cap in zip(bases, caps, strict=False))


def _is_blurred(group: Group, unit: float) -> bool:
    """Return whether rounding of the sample may have turned the basis by more than 1 % of the error shows.

    Noise of energy v in a direction of energy s turns it by v / s, which loses v^2 / s.
    """
    noise = _BLURRED_UNITS * unit * group.energy
    rank = group.rest.shape[1]
    kept = group.cuts[0].singular_values[0, :rank] ** 2
    turned = float(np.sum(np.minimum(kept, noise**2 / np.maximum(kept, np.finfo(np.float64).tiny))))
    return _VISIBLE * turned > group.lost * group.energy


def _sees(way: Compression, count: int, task: GroupTask) -> bool:
    """Return whether a way sees what the tolerance lets go, at one bond and in all."""
    noise, one = way.noise(count), task.tolerance**2 / (len(task.shape) - 1)
    return one >= _ROOMY * noise and task.tolerance**2 >= _VISIBLE * noise


def _cut(
    task: GroupTask, plan: StreamPlan, columns: Columns, energy: float, *, lost: float
) -> tuple[list[Numbers], TruncatingSweep]:
    """Cut the bonds of the group from the last one on; return their bases (1, r n, r') and the sweep."""
    shape = task.shape[::-1]
    sweep = TruncatingSweep(shape, task.max_ranks[::-1], task.tolerance, DRIVERS["auto"], lost=np.array([lost]))
    modes = shape[: len(shape) - plan.split]
    columns, energies = columns.reversed(modes), np.array([energy])
    bases: list[Numbers] = []
    for mode in modes:
        columns = columns.in_basis(bases[-1]) if bases else columns
        rows = mode * (bases[-1].shape[2] if bases else 1)
        cut = columns.cut(rows, sweep.rule(energies))
        sweep.record(cut, energies)
        bases.append(cut.basis)
    return bases, sweep


def _basis(task: GroupTask, plan: StreamPlan, bases: Sequence[Numbers]) -> Numbers:
    """Return the basis P (m, r) of the group's columns that those of its bonds make."""
    product = bases[0]
    for following in bases[1:]:
        product = product @ following.reshape(1, product.shape[2], -1)  # (1, m, r) (1, r, n r')
        product = product.reshape(1, -1, following.shape[2])
    basis = _arrays.renumbered(product, 1, task.shape[plan.split :])[0]
    return np.asarray(basis, task.data.dtype)


def _cores(task: GroupTask, plan: StreamPlan, bases: Sequence[Numbers]) -> Cores:
    """Return the cores (r', n, r) that the bases (1, r n, r') of the reversed train are."""
    modes = task.shape[plan.split :][::-1]
    mirrored = [basis.reshape(-1, mode, basis.shape[2]) for basis, mode in zip(bases, modes, strict=True)]
    return tuple(core.transpose(2, 1, 0).astype(task.data.dtype, copy=False) for core in reversed(mirrored))


def _compressed(matrix: Numbers, way: Compression) -> tuple[Columns, float]:
    columns = way.compress(matrix.T[None])
    return columns, float(columns.energy[0])


def _summed_grams(one: tuple[GramColumns, float], other: tuple[GramColumns, float]) -> tuple[GramColumns, float]:
    first, second = one[0], other[0]
    both = replace(first, gram=first.gram + second.gram, noise=first.noise + second.noise)
    return both, one[1] + other[1]


def _joined_factors(
    one: tuple[FactorColumns, float], other: tuple[FactorColumns, float]
) -> tuple[FactorColumns, float]:
    factor = lower_factor(np.concatenate([one[0].factor, other[0].factor], axis=-1))
    return FactorColumns(factor, is_triangular=True), one[1] + other[1]


def _sampled(matrix: Numbers, noise: Numbers) -> tuple[Numbers, float]:
    """Return A^T conj(A W) (m, k), in the precision of the noise W."""
    wide = matrix.astype(np.result_type(matrix.dtype, noise.dtype), copy=False)
    return wide.T @ (wide @ noise).conj(), energy_of(matrix)


def _added(one: tuple[Numbers, float], other: tuple[Numbers, float]) -> tuple[Numbers, float]:
    return one[0] + other[0], one[1] + other[1]
