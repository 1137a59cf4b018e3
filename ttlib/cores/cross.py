"""Cross interpolation: a tensor train from a few entries, chosen while they are read.

At each bond the left modes are known by a set I of row indices and the right modes by a set J of column indices.  A
sweep visits the bonds in turn.  It reads the *superblock* A[I x n, n' x J] of two neighbouring modes, takes a truncated
SVD for its rank and its column space, and picks the rows that span the rest by maxvol: they are the new I, and the
coefficients of all rows in terms of them are the core.  The next sweep runs the other way and renews J.

What differs from the paper, each to read fewer entries or to be surer of them:

* A superblock is read by columns: those of its pivots and one more, then twice as many for as long as none is surplus.
  So the rank shows in the first sweep, at n r^2 entries a bond; the whole superblock has n^2 r^2.
* The random rows that let a rank grow (the kick) join the index sets only, not the cores: the chosen pivots stay where
  they are, so the entries behind them are not read again, and the train carries no surplus rank.
* Points where validation fails join the index sets of the next sweep.

Entries are only ever divided by the largest magnitude in their block, so no scale overflows or vanishes.

Sources: Savostyanov and Oseledets, 'Fast adaptive interpolation of multi-dimensional arrays in tensor train format',
nDS 2011, section III (the superblock sweep); Oseledets and Tyrtyshnikov, 'TT-cross approximation for multidimensional
arrays', Linear Algebra Appl. 432 (2010) (the interpolation in nested index sets).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttlib._types import Cores, Ranks, Shape
from ttlib.linalg import TruncationRule
from ttlib.linalg.maxvol import maxvol

Points = np.ndarray[Any, Any]  # (count, modes) int64
Values = np.ndarray[Any, Any]  # (count,) float64 or complex128

_KICK = 1  # random rows joined to every index set whose rank can still grow


@dataclass(frozen=True, slots=True, eq=False)
class IndexSets:
    """For every bond k = 0 … d the left indices I_k (m, k) and the right indices J_k (m', d - k)."""

    left: tuple[Points, ...]
    right: tuple[Points, ...]

    @classmethod
    def through(cls, points: Points) -> IndexSets:
        """Return the sets that whole *points* (m, d) cut at every bond make."""
        bonds = range(points.shape[1] + 1)
        return cls(
            tuple(_distinct(points[:, :bond]) for bond in bonds),
            tuple(_distinct(points[:, bond:]) for bond in bonds),
        )

    def reverse(self) -> IndexSets:
        """Return the sets of the tensor with its modes in reverse order."""
        return IndexSets(
            tuple(indices[:, ::-1] for indices in reversed(self.right)),
            tuple(indices[:, ::-1] for indices in reversed(self.left)),
        )

    def join(self, points: Points) -> IndexSets:
        """Return the sets with both sides of *points* (m, d) joined at every bond."""
        return IndexSets(
            tuple(_distinct(indices, points[:, :bond]) for bond, indices in enumerate(self.left)),
            tuple(_distinct(indices, points[:, bond:]) for bond, indices in enumerate(self.right)),
        )


def sweep(
    read: Callable[[Points], Values],
    sets: IndexSets,
    shape: Shape,
    *,
    max_ranks: Ranks,
    share: float,
    extra: Points,
    generator: np.random.Generator,
) -> tuple[Cores, IndexSets]:
    """Go left to right once: return the cores of the interpolating train and the renewed left index sets.

    *share* is the relative error that each truncation may make; *extra* points (m, d) join all sets.
    """
    right = sets.join(extra).right
    left, cores, rank = [sets.left[0]], [], 1
    for bond, mode in enumerate(shape[:-1], start=1):
        rows = _product(left[-1], np.arange(mode)[:, None])  # (m n, k)
        others = generator.permutation(_product(np.arange(shape[bond])[:, None], right[bond + 1]))  # (n' m', d - k)
        columns = _distinct(right[bond], others)
        pivots = maxvol(_column_space(read, rows, columns, len(right[bond]), max_rank=max_ranks[bond], share=share))
        core = pivots.coefficients.reshape(len(left[-1]), mode, -1)  # (m n, r') -> (m, n, r')
        cores.append(core[:rank])  # (r, n, r')
        rank = pivots.rows.size
        # Pivots first: the next core has a row for each of them, and none for what joins only to look further.
        spare = np.delete(rows, pivots.rows, axis=0)
        kick = min(_KICK, len(spare)) if rank < max_ranks[bond] else 0
        joining = (generator.choice(spare, kick, replace=False), extra[:, :bond])
        left.append(_distinct(rows[pivots.rows], *joining))
    rows = _product(left[-1][:rank], np.arange(shape[-1])[:, None])  # (r n, d)
    cores.append(read(rows).reshape(rank, shape[-1], 1))  # (r n) -> (r, n, 1)
    return tuple(cores), IndexSets((*left, sets.left[-1]), right)


def _column_space(
    read: Callable[[Points], Values], rows: Points, columns: Points, known: int, *, max_rank: int, share: float
) -> Values:
    """Return an orthonormal basis (m, r) of the columns of a superblock, but for a relative error of *share*.

    Reads the *known* columns and a few more, and doubles their number until those few are surplus.
    """
    block = np.zeros((len(rows), 0))
    count = known + _KICK
    while True:
        more = columns[block.shape[1] : count]
        block = np.concatenate([block, read(_product(rows, more)).reshape(len(rows), len(more))], axis=1)  # (m, c)
        largest = np.abs(block).max()
        if largest == 0:
            return np.eye(len(block), 1)
        basis, values, _ = np.linalg.svd(block / largest, full_matrices=False)
        rank = TruncationRule(max_rank, share**2 * float(np.sum(values**2))).rank(values)
        if rank + _KICK <= block.shape[1] or count >= len(columns) or rank == max_rank:
            kept: Values = basis[:, :rank]
            return kept
        count *= 2


def _product(first: Points, second: Points) -> Points:
    """Return every row of *first* followed by every row of *second*, the second running fastest."""
    return np.concatenate(
        [np.repeat(first, len(second), axis=0), np.tile(second, (len(first), 1))],
        axis=1,
    )


def _distinct(*parts: Points) -> Points:
    """Return the rows of all parts without repetition, in the order in which they first occur."""
    rows = np.concatenate(parts)
    if not rows.shape[1]:
        return rows[:1]
    _, first = np.unique(rows, axis=0, return_index=True)
    return rows[np.sort(first)]
