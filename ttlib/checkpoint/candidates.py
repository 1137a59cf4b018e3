"""Which tensor shapes to try for a matrix.  Integers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

from ttlib._types import Shape, ShapeLike
from ttlib.errors import ShapeError
from ttlib.shapes import check_integer, check_shape, factorize, find_split, prime_factors

# The plain SVD first, for whoever wants to compare; then trains of four and six modes, and what stands in for them
# where a side has too few prime factors.
_ORDERS = (2, 4, 6, 3, 5, 8)


@dataclass(frozen=True, slots=True)
class CandidateShape:
    """A tensor shape for a matrix: `split` leading modes number the rows, or None where no boundary lies there."""

    shape: Shape
    split: int | None

    @property
    def order(self) -> int:
        """The number of modes."""
        return len(self.shape)

    @property
    def lefts(self) -> Shape:
        """The product of the modes to the left of each inner bond: all that its unfolding depends on."""
        return tuple(accumulate(self.shape, mul))[:-1]


def candidate_shape(shape: ShapeLike, /, *, rows: int, cols: int) -> CandidateShape:
    """Return *shape* as a candidate for a (rows, cols) matrix, with its split if it has one.

    >>> candidate_shape([8, 8, 12, 8, 8], rows=768, cols=64).split
    3
    >>> candidate_shape([64, 768], rows=768, cols=64).split is None
    True

    Raises ShapeError for a shape that does not hold rows * cols entries.
    """
    modes = check_shape(shape, size=rows * cols)
    try:
        split = find_split(modes, rows=rows, cols=cols)
    except ShapeError:
        split = None
    return CandidateShape(modes, split if split != len(modes) else None)


def shape_candidates(
    rows: int, cols: int, /, *, count: int = 3, orders: Sequence[int] = _ORDERS
) -> tuple[CandidateShape, ...]:
    """Propose tensor shapes of different orders for a (rows, cols) matrix.

    >>> [candidate.shape for candidate in shape_candidates(768, 64)]
    [(768, 64), (32, 24, 8, 8), (8, 6, 4, 4, 8, 8)]
    >>> [candidate.shape for candidate in shape_candidates(1021, 8)]
    [(1021, 8), (1021, 2, 2, 2), (1021, 2, 4)]

    Args:
        rows, cols: the matrix, both >= 1; prime sides stay one mode.
        count: how many candidates at most; fewer where the sides have too few prime factors.
        orders: the numbers of modes to try, each >= 2, in order of preference.  The first of them, 2, is the matrix
            itself, whose tensor train is its singular value decomposition.

    Every candidate has a boundary between rows and columns, and no mode of 1 but for a side of 1.  Modes are as even as
    the prime factors allow, the largest of each side at the end of the train, where its core has only one rank.

    Raises ShapeError for sizes, a count or orders that cannot be.
    """
    rows, cols = check_integer(rows, name="rows"), check_integer(cols, name="cols")
    count = check_integer(count, name="count")
    found: list[CandidateShape] = []
    for order in orders:
        candidate = _most_even(rows, cols, check_integer(order, name="each of orders", minimum=2))
        if candidate is not None and candidate not in found:
            found.append(candidate)
    return tuple(found[:count])


def _most_even(rows: int, cols: int, order: int) -> CandidateShape | None:
    most_left, most_right = (max(1, len(prime_factors(n))) for n in (rows, cols))
    splits = range(max(1, order - most_right), min(most_left, order - 1) + 1)
    candidates = [
        CandidateShape(factorize(rows, parts=split)[::-1] + factorize(cols, parts=order - split), split)
        for split in splits
    ]
    return min(candidates, key=_unevenness, default=None)


def _unevenness(candidate: CandidateShape) -> tuple[int, int, int]:
    # Of equally even ones that which has as many modes on either side.
    return max(candidate.shape), sum(candidate.shape), abs(2 * (candidate.split or 0) - candidate.order)
