"""Search for tensor shapes of a matrix: which modes, in which order, store the fewest numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

from ttlib._types import Ranks, Shape
from ttlib.cost import count_parameters
from ttlib.errors import RankError
from ttlib.ranks import clip_ranks, expand_ranks
from ttlib.shapes import check_integer, factorisations, factorize, prime_factors

_HIGHEST_DEFAULT_ORDER = 8
# How many factorisations of each side meet those of the other side; the two sides only interact through the
# rank at the split, so the best pairs are found among the best of each.
_SIDE_SHORTLIST = 12


@dataclass(frozen=True, slots=True)
class ShapeCandidate:
    """One tensor shape for a (rows, cols) matrix, with what it would cost.

    `split` leading modes number the rows.  `ranks` are the asked ranks clipped to what the shape can carry;
    `parameters` counts them.  `note` says what stood in the way of smaller modes, if anything did.
    """

    shape: Shape
    split: int
    ranks: Ranks
    parameters: int
    note: str = ""

    @property
    def order(self) -> int:
        """The number of modes."""
        return len(self.shape)

    @property
    def compression(self) -> float:
        """Entries of the dense matrix per stored number."""
        return math.prod(self.shape) / self.parameters


def search_shapes(
    rows: int, cols: int, /, *, ranks: int, order: int | None = None, top: int = 10
) -> list[ShapeCandidate]:
    """Propose tensor shapes for a (rows, cols) matrix, the one with the fewest parameters first.

    >>> best = search_shapes(768, 64, ranks=5)[0]
    >>> best.shape[:best.split], best.shape[best.split:], best.parameters
    ((16, 3, 4, 4), (4, 16), 535)
    >>> search_shapes(1021, 8, ranks=5)[0].note
    'rows: 1021 is prime and stays one mode'

    Args:
        rows, cols: the matrix, both >= 1; any integer works, primes included (they stay one mode, and `note`
            says so).
        ranks: the rank wanted on every bond, clipped per shape to what it can carry.
        order: the number of modes; by default every order up to 8 is tried.
        top: how many candidates to return at most.

    Every candidate has a mode boundary between rows and columns (see `ttlib.shapes`).  Ties go to fewer modes,
    then to the smaller largest mode.  Raises ShapeError or RankError for sizes, ranks or an order that cannot be.
    """
    rows, cols = check_integer(rows, name="rows"), check_integer(cols, name="cols")
    top = check_integer(top, name="top")
    if order is not None:
        order = check_integer(order, name="order", minimum=2)
    rank = _one_rank(ranks)
    note = "; ".join(filter(None, (_stuck("rows", rows), _stuck("cols", cols))))
    found = {}
    for left, right in product(_side_modes(rows, rank, order, True), _side_modes(cols, rank, order, False)):
        shape = left + right
        if len(shape) == order or (order is None and len(shape) <= _HIGHEST_DEFAULT_ORDER):
            bonds = clip_ranks(shape, rank)
            parameters = count_parameters(shape, ranks=bonds)
            found[shape] = ShapeCandidate(shape, len(left), bonds, parameters, note)
    ranked = sorted(found.values(), key=lambda c: (c.parameters, c.order, max(c.shape), c.shape))
    return ranked[:top]


def _side_modes(n: int, rank: int, order: int | None, rows_side: bool) -> list[Shape]:
    """Shortlist mode orders of one side; the outer end of the train is the left for rows, the right for columns."""
    most_parts = (order or _HIGHEST_DEFAULT_ORDER) - 1
    options = set()
    for parts in range(1, most_parts + 1):
        balanced = factorize(n, parts=parts)
        exact = [modes for modes in factorisations(n, parts) if len(modes) == parts]
        # Only a fixed order may need modes of size 1 to be met at all.
        fallback = [balanced] if order is not None and not exact else [m for m in [balanced] if 1 not in m or n == 1]
        ranked = sorted(
            {arranged for modes in (*exact, *fallback) for arranged in _arrangements(modes, rows_side)},
            key=lambda modes: (_side_cost(modes, rank, rows_side), modes),
        )
        options.update(ranked[:_SIDE_SHORTLIST])
    return sorted(options)


def _arrangements(modes: Shape, rows_side: bool) -> set[Shape]:
    """Ascending and descending, each with every choice of outermost mode: the outer core has one rank only."""
    arranged = set()
    for outer in set(modes):
        rest = list(modes)
        rest.remove(outer)
        for inner in (tuple(rest), tuple(reversed(rest))):
            arranged.add((outer, *inner) if rows_side else (*inner, outer))
    return arranged


def _side_cost(modes: Shape, rank: int, rows_side: bool) -> int:
    # Close the side with one mode as large as the rank, so that the bond at the split is not clipped.
    closed = (*modes, rank) if rows_side else (rank, *modes)
    return count_parameters(closed, ranks=clip_ranks(closed, rank))


def _stuck(side: str, n: int) -> str:
    """Say why a side stays one mode, or keeps a factor that could not be split."""
    factors = prime_factors(n)
    if len(factors) == 1 and n > 3:
        return f"{side}: {n} is prime and stays one mode" if n < 10**12 else f"{side}: {n} has no factor below 10**6"
    if factors and factors[-1] > 64:
        return f"{side}: {n} has the large factor {factors[-1]}, which stays one mode"
    return ""


def _one_rank(ranks: int) -> int:
    if isinstance(ranks, Iterable):
        msg = f"search_shapes takes one int for ranks, as the number of bonds differs between shapes; got {ranks!r}"
        raise RankError(msg)
    return expand_ranks((2, 2), ranks)[1]
