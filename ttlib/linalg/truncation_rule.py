"""How many singular values to keep: a rule on numbers, apart from any array library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Values = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class TruncationRule:
    """Keep the fewest singular values whose dropped squares sum to at most `budget`, and at most `max_rank`.

    `budget` may be an array, one entry a matrix of a stack; then one rank is kept for all of them.
    """

    max_rank: int
    budget: Values | float = 0.0

    def rank(self, values: Values, residual: Values | float = 0.0) -> int:
        """Return the rank for descending *values* (…, k), when *residual* more has been lost already."""
        enough = self.tails(values, residual) <= np.asarray(self.budget)[..., None]
        needed = np.where(enough.any(axis=-1), enough.argmax(axis=-1), values.shape[-1])
        return max(1, min(int(needed.max()), self.max_rank, int(values.shape[-1])))

    def tails(self, values: Values, residual: Values | float = 0.0) -> Values:
        """Return (…, k + 1): entry r is the sum of the squares that is lost by keeping r values.

        Summed from the smallest up, in float64: a difference of norms would lose every digit of an error below
        the square root of the machine precision.
        """
        squares = np.asarray(values, dtype=np.float64)[..., ::-1] ** 2
        sums = np.cumsum(squares, axis=-1)[..., ::-1]
        padded: Values = np.concatenate([sums, np.zeros((*sums.shape[:-1], 1))], axis=-1)
        return padded + np.asarray(residual, dtype=np.float64)[..., None]
