"""Where to cut an array that does not fit into memory: integers and a small cost model, no arrays.

Its rows come in blocks, so what the blocks can be asked for are sums over rows: the trailing modes are one group of m
columns, settled by passes over the blocks, after which m columns have become r and the rest fits.  Two ways to settle
it: the Gram matrix of the columns, exact and m^2 large; or a range of k vectors, for m that is too large.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ttlib._types import Ranks, Shape

# Nanoseconds per entry and pass on one core, fitted to numpy in float32: a constant, and per column or vector.
_GRAM = (0.4, 1 / 110)
_PRODUCT = (0.3, 1 / 60)
_EIGEN = 0.15  # all pairs of m columns, per m^3
_PRODUCTS_OF_A_RANGE = 5
# A range of two blocks finds r vectors to 1 % of the error of flat spectra when it is this much wider.
_WIDER, _OVERSAMPLING = 1.8, 16
_FIRST_WIDTH = 32
# Arrays of m^2 doubles while a Gram matrix is summed and its eigenvectors are found; arrays of (m, k) and (M, k) in
# the dtype of the data, likewise.  The rest takes half of itself again where its own bonds are cut.
# Cutting the bonds inside a group of several modes takes more copies of (m, k).
_GRAMS, _COLUMN_FACTORS, _INNER_FACTORS, _ROW_FACTORS, _RESTS = 4, 5, 8, 4, 1.5


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """The modes from `split` on are the group; `width` vectors span its range, 0 says by its Gram matrix."""

    split: int
    width: int
    is_leanest: bool = False  # of plans none of which fits

    def is_no_more_than(self, other: StreamPlan) -> bool:
        """Return whether the plan must fail where the *other* one, of the same kind, kept too little."""
        if self.width:
            return bool(other.width) and self.width <= other.width
        return not other.width and self.split >= other.split


def stream_plans(
    shape: Shape, caps: Ranks, *, expected: Ranks | None = None, row: int, itemsize: int, memory: int
) -> tuple[StreamPlan, ...]:
    """Return the plans that fit into *memory* bytes, the cheapest first.

    None where no plan fits and the ranks are guessed; where they are known, the one that needs the least memory, for
    the result itself is then of that order.

    Args:
        shape: the modes n_1, …, n_d.
        caps: the d+1 ranks that the bonds may have.
        expected: guesses of those they will have, where the data decides: plans with wider and wider ranges follow.
        row: the entries of one row of the array, which a block does not split.
        itemsize: the bytes of an entry in the dtype to calculate in.
        memory: the bytes that all arrays but the result may take at once.

    >>> stream_plans((128, 128, 128, 128), (1, 8, 8, 8, 1), row=16384, itemsize=4, memory=160 << 20)[0]
    StreamPlan(split=3, width=0, is_leanest=False)
    >>> stream_plans((16384, 16384), (1, 50, 1), row=16384, itemsize=4, memory=160 << 20)
    (StreamPlan(split=1, width=106, is_leanest=False),)
    """
    found: list[tuple[bool, float, StreamPlan]] = []
    size = math.prod(shape)
    for split in range(1, len(shape)):
        columns = math.prod(shape[split:])
        rows = size // columns
        block = itemsize * math.lcm(columns, row)  # the smallest that splits neither
        rank = min((expected or caps)[split], columns, rows)
        if columns <= rows:
            needed = max(8 * _GRAMS * columns**2, int(_RESTS * itemsize * rows * rank), 4 * block)
            cost = size * (_line(_GRAM, columns) + _line(_PRODUCT, rank)) + _EIGEN * columns**3
            found.append((needed > memory, cost if needed <= memory else needed, StreamPlan(split, 0)))
        most = useful_width(caps[split], min(columns, rows))
        for width in _widths(most) if expected else (most,):
            copies = _COLUMN_FACTORS + (_INNER_FACTORS if split < len(shape) - 1 else 0)
            needed = max(itemsize * width * (copies * columns + _ROW_FACTORS * rows), 4 * block)
            cost = size * (_PRODUCTS_OF_A_RANGE * _line(_PRODUCT, width) + _line(_PRODUCT, rank))
            found.append((needed > memory, cost if needed <= memory else needed, StreamPlan(split, width)))
    ordered = sorted(found, key=lambda entry: entry[:2])
    fitting = [plan for too_large, _, plan in ordered if not too_large]
    return tuple(fitting or ([] if expected else [replace(ordered[0][2], is_leanest=True)]))


def fits(rest: int, *, itemsize: int, memory: int) -> bool:
    """Return whether *rest* entries fit into memory with what cutting their bonds takes."""
    return _RESTS * itemsize * rest <= memory


def useful_width(rank: int, short: int) -> int:
    """Return how many vectors of a range find *rank* leading directions of a matrix with *short* of them."""
    return min(short, math.ceil(_WIDER * rank) + _OVERSAMPLING)


def _widths(most: int) -> tuple[int, ...]:
    widths = [_FIRST_WIDTH << k for k in range(most.bit_length())]
    return (*(width for width in widths if width < most), most)


def _line(coefficients: tuple[float, float], slope: int) -> float:
    return coefficients[0] + coefficients[1] * slope
