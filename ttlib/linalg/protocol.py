"""What a driver is: a function from a matrix and a rule to its leading singular triplets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ttlib._types import Array
from ttlib.linalg.truncation_rule import TruncationRule


@dataclass(frozen=True, slots=True, eq=False)
class PartialSVD:
    """An orthonormal basis of the leading left singular vectors, and the matrix in that basis.

    `values` may be longer than `basis` has columns: drivers that know the whole spectrum report it.  They may be a
    numpy array whatever the matrix is.  `residual` is the sum of squares of what is beyond `values`: 0 for a driver
    that finds all of them.  `rank` is for a driver that has applied the rule itself, with its own precision in mind;
    otherwise the rule decides on the values.
    """

    basis: Array  # U (…, m, k), orthonormal columns
    values: Array  # (…, k') with k' >= k, descending, >= 0
    remainder: Array  # U^H matrix (…, k, n)
    driver: str
    reason: str
    residual: np.ndarray[Any, Any] | float = 0.0
    rank: int | None = None


class SVDDriver(Protocol):
    """A truncated singular value decomposition; `ttlib.testing.check_driver` tells whether one is sound.

    *matrix* is finite, neither integer nor half precision, its largest magnitude is at most 1, and it may be a stack
    (…, m, n).  It must not be written to.  The result must hold at least `rule.rank(…)` columns.
    """

    def __call__(self, matrix: Array, rule: TruncationRule, /) -> PartialSVD:
        """Return the leading part of *matrix*."""
