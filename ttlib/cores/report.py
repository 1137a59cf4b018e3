"""What a truncation did: the exact error, the spectra, the ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ttlib._types import Ranks, Shape
from ttlib.cost import compression, count_parameters


@dataclass(frozen=True, slots=True, eq=False)
class DecompositionReport:
    """What a decomposition or a rounding did.

    `relative_error` is ||A - TT|| / ||A|| in the Frobenius norm, from the discarded singular values of every
    bond: exact, not a bound, up to the rounding of the dtype that was calculated in.  `singular_values` holds one
    float64 array a bond, before truncation, as far as the driver computed them.  `drivers` and `reasons` tell for
    every bond which algorithm took its SVD and why.  `tolerance_met` is None where no tolerance was asked.
    `from_right` says that the sweep started from the last mode: all cores but the first are right-orthogonal then.
    """

    relative_error: float
    singular_values: tuple[np.ndarray[Any, Any], ...]
    ranks: Ranks
    shape: Shape
    drivers: tuple[str, ...]
    reasons: tuple[str, ...]
    tolerance_met: bool | None
    from_right: bool = False

    def mirrored(self) -> DecompositionReport:
        """Return the report on the reversed train: that of a sweep that started from the last mode."""
        return replace(
            self,
            singular_values=self.singular_values[::-1],
            ranks=self.ranks[::-1],
            shape=self.shape[::-1],
            drivers=self.drivers[::-1],
            reasons=self.reasons[::-1],
            from_right=not self.from_right,
        )

    @property
    def driver(self) -> str:
        """The driver that was used; several, in order of their first bond, are joined by commas."""
        return ", ".join(dict.fromkeys(self.drivers)) or "none"

    @property
    def parameters(self) -> int:
        """Numbers stored by the cores."""
        return count_parameters(self.shape, ranks=self.ranks)

    @property
    def compression(self) -> float:
        """Entries of the dense tensor per stored number."""
        return compression(math.prod(self.shape), self.parameters)

    def __str__(self) -> str:
        met = {None: "", True: ", tolerance met", False: ", TOLERANCE NOT MET: the rank cap won"}[self.tolerance_met]
        return (
            f"relative error {self.relative_error:.3e}{met}; ranks {self.ranks}; {self.parameters:,} parameters, "
            f"{self.compression:.1f}x smaller; driver {self.driver}"
        )
