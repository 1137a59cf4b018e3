"""Shapes and ranks as people type them, 8x8x12 or 8,8,12, and as they are printed, to be typed again."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from ttlib._types import RanksLike, Shape
from ttlib.errors import RankError, ShapeError

# Longer ones Python may refuse to read, and no size has so many digits.
_MOST_DIGITS = 18
_LONGEST = 10**_MOST_DIGITS


def parse_shape(text: str) -> Shape:
    """Return the modes that *text* writes.

    >>> parse_shape("8x8x12"), parse_shape("8, 8, 12")
    ((8, 8, 12), (8, 8, 12))

    Raises ShapeError for anything but integers between x or commas; whether they can be modes is not asked here.
    """
    numbers = _integers(text)
    if numbers is None:
        msg = f"a shape is written as integers between x or commas, got {text!r}; write it as in 8x8x12"
        raise ShapeError(msg)
    return numbers


def parse_ranks(text: str) -> RanksLike:
    """Return the ranks that *text* writes: one for all bonds, or one a bond.

    >>> parse_ranks("5"), parse_ranks("1,5,5,1")
    (5, (1, 5, 5, 1))

    Raises RankError for anything but integers; whether they can be ranks is not asked here.
    """
    numbers = _integers(text)
    if numbers is None:
        msg = f"ranks are integers, got {text!r}; write one for all bonds as in 5, or one a bond as in 4,5,5,4"
        raise RankError(msg)
    return numbers if len(numbers) > 1 else numbers[0]


def write_shape(shape: Iterable[int]) -> str:
    """Return a shape as `parse_shape` reads it.

    >>> write_shape((8, 8, 12)), write_shape(())
    ('8x8x12', 'scalar')
    """
    return "x".join(map(write_integer, shape)) or "scalar"


def write_ranks(ranks: Iterable[int]) -> str:
    """Return ranks as `parse_ranks` reads them.

    >>> write_ranks((1, 5, 5, 1))
    '1,5,5,1'
    """
    return ",".join(map(write_integer, ranks))


def write_integer(number: int) -> str:
    """Return a number without separators, in powers of ten where nobody would read its digits.

    >>> write_integer(49152), write_integer(10**500)
    ('49152', '10^500.0')
    """
    return str(number) if number < _LONGEST else f"10^{math.log10(number):.1f}"


def write_count(number: int) -> str:
    """Return a number of things for people.

    >>> write_count(49152), write_count(10**500)
    ('49,152', '10^500.0')
    """
    return f"{number:,}" if number < _LONGEST else write_integer(number)


def _integers(text: str) -> tuple[int, ...] | None:
    words = [word.strip() for word in re.split("[xX,]", text)]
    if not all(re.fullmatch(rf"-?[0-9]{{1,{_MOST_DIGITS}}}", word) for word in words):
        return None
    return tuple(map(int, words))
