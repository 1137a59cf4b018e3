"""Which modes TT-SVD reads at once: integers and a small cost model, no arrays.

Cutting the bonds one by one reads the whole tensor at the first bond and almost the whole of it at the next ones.
Merging the leading modes into one *thick* group of m rows lets one pass over the data settle all bonds of the group,
after which m rows have become r: the sweep then goes on with r / m of the data (the thick bounds of Röhrig-Zöllner,
Thies, Basermann, 'Performance of the low-rank TT-SVD for large dense tensors', SIAM J. Sci. Comput. 44 (2022)).
"""

from __future__ import annotations

import functools
import math

from ttlib._types import Ranks, Shape

# Nanoseconds on one core, fitted to numpy and torch, float32, between 16 and 1024 rows.  Only their ratios matter.
_GRAM = (0.35, 1 / 120)  # per entry of the data: a constant, and per row of the group
_PROJECTION = (0.2, 1 / 70, 1.2)  # per entry: a constant, per rank kept, and per entry written
_EIGEN = (2e4, 40, 0.15)  # all pairs of m rows: a constant, per m^2, per m^3
_EIGEN_PART = (2e4, 20, 0.04)  # at most a third of them
_STEP = 1e5  # what the calls of one pass cost, whatever the data
# The first pass may not write more than this share of what it reads, or memory would not stay below half the input.
_MOST_WRITTEN = 1 / 3


def group_length(modes: Shape, left: int, caps: Ranks, *, least: int = 1) -> int:
    """Return how many leading modes the next pass should take together; 0 where no wide group is left.

    Args:
        modes: those still to be cut off, n_k, …, n_d; the data is (left n_k, n_{k+1} … n_d).
        left: the rank of the bond to the left.
        caps: the largest rank of the bond right of each of these modes, so far as it can be known.
        least: the fewest modes that the group may have.

    >>> group_length((16, 16, 16, 16, 16, 16), 1, (5, 5, 5, 5, 5, 1))
    1
    >>> group_length((2,) * 24, 1, (2, 4, 8, *[10] * 17, 8, 4, 2, 1))
    6
    """
    choices = [length for length in range(least, len(modes)) if _is_wide(modes, left, length)]
    if not choices:
        return 0
    paying = [length for length in choices if caps[length - 1] <= _MOST_WRITTEN * left * math.prod(modes[:length])]
    return min(paying or choices[-1:], key=lambda length: _cost_of(modes, left, caps, length))


# How much cheaper the sweep from the right has to be predicted: from the left is what everyone expects.
_GAIN_TO_START_RIGHT = 1.25


def starts_right(modes: Shape, caps: Ranks) -> bool:
    """Return whether the sweep should start from the last mode: where that is predicted to be clearly cheaper.

    For a tolerance, which is kept from either side.  With capped ranks the two directions lose different amounts, now
    more, now less by some per cent, and from the left the error is that of the TT-SVD in the literature.

    >>> starts_right((50257, 8, 8, 12), (27, 27, 3, 1)), starts_right((8, 8, 12, 12, 8, 8), (2, 8, 27, 8, 2, 1))
    (True, False)
    """
    mirrored = (*caps[-2::-1], 1)
    if not group_length(modes[::-1], 1, mirrored):
        return False
    return _GAIN_TO_START_RIGHT * _cost_of_rest(modes[::-1], 1, mirrored) < _cost_of_rest(modes, 1, caps)


def _is_wide(modes: Shape, left: int, length: int) -> bool:
    """Return whether the group has no more rows than columns: on a taller one the other side is the short one."""
    return left * math.prod(modes[:length]) <= math.prod(modes[length:])


def _cost_of(modes: Shape, left: int, caps: Ranks, length: int) -> float:
    rows, rank = left * math.prod(modes[:length]), caps[length - 1]
    entries = left * math.prod(modes)
    reading = entries * (_GRAM[0] + _GRAM[1] * rows + _PROJECTION[0] + _PROJECTION[1] * rank)
    writing = entries * rank / rows * _PROJECTION[2]
    return _STEP + reading + writing + _eigen(rows, rank) + _cost_of_rest(modes[length:], rank, caps[length:])


@functools.lru_cache(maxsize=1 << 14)
def _cost_of_rest(modes: Shape, left: int, caps: Ranks) -> float:
    if len(modes) <= 1:
        return 0.0
    length = group_length(modes, left, caps)
    if length:
        return _cost_of(modes, left, caps, length)
    rows, cols = left * modes[0], math.prod(modes[1:])  # one bond, by the Gram matrix of its short side
    short, rank = min(rows, cols), caps[0]
    reading = rows * cols * (_GRAM[0] + _GRAM[1] * short + 2 * (_PROJECTION[0] + _PROJECTION[1] * rank))
    return _STEP + reading + _eigen(short, rank) + _cost_of_rest(modes[1:], rank, caps[1:])


def _eigen(rows: int, wanted: int) -> float:
    constant, square, cube = _EIGEN_PART if 3 * wanted <= rows else _EIGEN
    return constant + square * rows**2 + cube * rows**3
