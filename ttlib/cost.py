"""What a tensor train costs, counted before any array exists."""

from __future__ import annotations

import math
from itertools import pairwise

from ttlib._types import RanksLike, ShapeLike
from ttlib.ranks import expand_ranks
from ttlib.shapes import check_shape


def count_parameters(shape: ShapeLike, /, *, ranks: RanksLike) -> int:
    """Count the numbers stored by a tensor train of this shape and these ranks.

    >>> count_parameters([8, 8, 12, 8, 8], ranks=5)
    780

    Args:
        shape: the d modes.
        ranks: one int for every inner bond, the d-1 inner ranks, or d+1 ranks with 1 at both ends.  Taken as
            given: a rank larger than the shape can carry is counted in full.  `ttlib.clip_ranks` tells what a
            decomposition would keep.

    Raises:
        ShapeError, RankError: for values that cannot be.

    The sum is r[k-1] * n[k] * r[k] over the cores (Oseledets 2011, section 1).
    """
    modes = check_shape(shape)
    bonds = expand_ranks(modes, ranks)
    return sum(left * mode * right for mode, (left, right) in zip(modes, pairwise(bonds), strict=True))


def compression(size: int, parameters: int) -> float:
    """Return how many dense entries there are per stored number, infinite where no float could say it."""
    try:
        return size / parameters
    except OverflowError:
        return math.inf
