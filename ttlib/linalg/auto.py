"""Driver 'auto': the Gram matrix where it may see what the rule discards, LAPACK or a QR first otherwise."""

from __future__ import annotations

from ttlib._types import Array
from ttlib.linalg import exact, gram
from ttlib.linalg.protocol import PartialSVD
from ttlib.linalg.truncation_rule import TruncationRule


def driver(matrix: Array, rule: TruncationRule, /) -> PartialSVD:
    """Return the triplets that *rule* keeps, by the cheaper of the two that is accurate enough."""
    return gram.driver(matrix, rule) if gram.can_see(matrix, rule) else exact.driver(matrix, rule)
