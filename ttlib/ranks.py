"""Rules for tensor-train ranks: what a caller may write, and what a shape can carry.  Integers only."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable

from ttlib._types import Ranks, RanksLike, Shape
from ttlib.errors import RankError


def expand_ranks(shape: Shape, ranks: RanksLike) -> Ranks:
    """Write *ranks* out as d+1 numbers with a 1 at both ends.

    >>> expand_ranks((4, 5, 6), 3)
    (1, 3, 3, 1)
    >>> expand_ranks((4, 5, 6), [2, 3])
    (1, 2, 3, 1)
    >>> expand_ranks((4, 5, 6), [1, 2, 3, 1])
    (1, 2, 3, 1)

    An int holds for every inner bond.  A sequence gives the d-1 inner ranks, or all d+1 with 1s at the ends.
    Raises RankError for anything else; nothing is clipped here (see `clip_ranks`).
    """
    inner_bonds = len(shape) - 1
    if isinstance(ranks, Iterable) and not isinstance(ranks, str):
        given = [_rank(rank) for rank in ranks]
        if len(given) == inner_bonds:
            return (1, *given, 1)
        if len(given) == inner_bonds + 2:
            if given[0] != 1 or given[-1] != 1:
                msg = f"ranks {tuple(given)} must start and end with 1, as the boundary bonds of a tensor train do"
                raise RankError(msg)
            return tuple(given)
        msg = (
            f"ranks {tuple(given)} has {len(given)} entries, but the shape {shape} has {inner_bonds} inner bonds: "
            f"give one int, {inner_bonds} inner ranks, or {inner_bonds + 2} ranks with 1 at both ends"
        )
        raise RankError(msg)
    return (1, *[_rank(ranks)] * inner_bonds, 1)


def clip_ranks(shape: Shape, ranks: RanksLike, /) -> Ranks:
    """Lower *ranks* to the largest that a tensor of this shape can carry without redundancy.

    >>> clip_ranks((2, 3, 4), 100)
    (1, 2, 4, 1)

    Bond k can never need more than the entries on either side of it, nor more than its neighbouring bond
    times the mode between them (the rank bound of an unfolding; Oseledets 2011, section 2).
    """
    clipped = list(expand_ranks(shape, ranks))
    for bond in range(1, len(shape)):
        clipped[bond] = min(clipped[bond], clipped[bond - 1] * shape[bond - 1])
    for bond in range(len(shape) - 1, 0, -1):
        clipped[bond] = min(clipped[bond], shape[bond] * clipped[bond + 1])
    return tuple(clipped)


def check_tolerance(eps: float) -> float:
    """Return *eps* as a float, or raise RankError unless it is a number between 0 and 1."""
    value = real_number(eps)
    if not 0 <= value <= 1:
        msg = (
            f"eps must be a number from 0 to 1 (relative Frobenius tolerance: ||A - TT|| <= eps ||A||), got {eps!r}; "
            f"an error of 1 is what zero makes already"
        )
        raise RankError(msg)
    return value


def real_number(value: object) -> float:
    """Return *value* as a float, NaN for what is no real number (strings and booleans, numpy's too, are none)."""
    if isinstance(value, str) or type(value).__name__ in ("bool", "bool_"):
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _rank(value: object) -> int:
    try:
        rank = operator.index(value)  # type: ignore[arg-type]  # rejects floats and strings, takes numpy ints
    except TypeError:
        msg = f"ranks must be integers >= 1, got {value!r} of type {type(value).__name__}"
        raise RankError(msg) from None
    if isinstance(value, bool) or rank < 1:
        msg = f"ranks must be integers >= 1, got {value!r}"
        raise RankError(msg)
    return rank
