"""The left-to-right truncating sweep that TT-SVD and rounding have in common: its budget and its record.

All cores but the last come out left-orthogonal, so the squared error is the sum of the squares discarded at the bonds
(Oseledets 2011, Theorem 2.2, with equality).  Each bond may therefore spend its share of what the bonds before it
left of eps^2 ||A||^2, and the promise holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ttlib._types import Array, Ranks, Shape
from ttlib.cores.report import DecompositionReport
from ttlib.cores.scaling import Exponents
from ttlib.linalg import Cut, SVDDriver, TruncatedSVD, TruncationRule, truncated_svd

Numbers = np.ndarray[Any, Any]


@dataclass(slots=True, eq=False)
class TruncatingSweep:
    """The state of one sweep over a stack of trains; energies are fractions of ||A||^2, one number a train.

    `noise` is by how much `lost` may be off where it had to be measured, likewise.
    """

    shape: Shape
    max_ranks: Ranks
    tolerance: float
    driver: SVDDriver
    lost: Numbers
    cuts: list[Cut] = field(default_factory=list)
    noise: float = 0.0

    @property
    def bond(self) -> int:
        """The bond to be cut next, from 1."""
        return len(self.cuts) + 1

    @property
    def finished(self) -> bool:
        """Whether no bond is left."""
        return self.bond == len(self.shape)

    def rule(self, energy: Numbers, *, ahead: int = 0) -> TruncationRule:
        """What the next bond may drop, or one ahead of it; *energy* is ||A||^2 in the scale of each matrix."""
        share = np.maximum(0.0, self.tolerance**2 - self.lost) / (len(self.shape) - self.bond)
        return TruncationRule(self.max_ranks[self.bond + ahead], share * energy)

    def record(self, cut: Cut, energy: Numbers) -> None:
        """Take a cut of the next bond into account."""
        self.lost = self.lost + np.divide(cut.discarded, energy, out=np.zeros_like(cut.discarded), where=energy > 0)
        self.cuts.append(cut)

    def cut(self, matrix: Array, energy: Numbers) -> TruncatedSVD:
        """Truncate the stack (B, r n, …) at the next bond."""
        cut = truncated_svd(matrix, rule=self.rule(energy), driver=self.driver)
        self.record(cut, energy)
        return cut

    def copy(self) -> TruncatingSweep:
        """Return a sweep that goes on from here, without changing this one."""
        return replace(self, cuts=list(self.cuts))

    def reports(self, powers: Sequence[Exponents], *, eps: float | None) -> list[DecompositionReport]:
        """Report on each train; powers[bond][train] is the exponent of two taken out of the matrix cut there."""
        return [
            DecompositionReport(
                relative_error=math.sqrt(energy),
                singular_values=tuple(
                    _ldexp(cut.singular_values[train], int(exponents[train]))
                    for cut, exponents in zip(self.cuts, powers, strict=True)
                ),
                ranks=(1, *(int(cut.basis.shape[-1]) for cut in self.cuts), 1),
                shape=self.shape,
                drivers=tuple(cut.driver for cut in self.cuts),
                reasons=tuple(cut.reason for cut in self.cuts),
                tolerance_met=None if eps is None else math.sqrt(energy) <= self.tolerance * (1 + 1e-12),
            )
            for train, energy in enumerate(self.lost)
        ]


def _ldexp(values: Numbers, exponent: int) -> Numbers:
    with np.errstate(over="ignore"):  # the values of a tensor near the end of the range may lie beyond it
        return np.ldexp(values, exponent)
