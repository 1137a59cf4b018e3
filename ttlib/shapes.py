"""Tensor shapes of tensors and matrices: checks, factorisation, the row | column split.  Integers only.

The row-major rule.  A (rows, cols) matrix is laid over a tensor shape by a C-order reshape: the leading modes
number the rows and the trailing modes the columns whenever some leading modes multiply to `rows`.  That number
of leading modes is the *split*; a shape that has one is *aligned* with the matrix, and the bond at the split
bounds the rank of the matrix.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from ttlib._types import Shape, ShapeLike
from ttlib.errors import ShapeError

# Trial division stops here; what is left above it is kept whole (it has no factor up to this number).
_LARGEST_TRIAL_FACTOR = 1_000_000
# Highly composite integers have millions of factorisations: look at the first few thousand, which hold the
# small-mode ones, next to the balanced one that is always built.
_MOST_FACTORISATIONS = 4_096


def check_shape(shape: ShapeLike, *, size: int | None = None) -> Shape:
    """Return *shape* as a tuple of positive ints, or raise ShapeError naming the mode that is wrong.

    With *size*, the modes must also multiply to it.
    """
    if isinstance(shape, str) or not isinstance(shape, Iterable):
        msg = f"shape must be a list or tuple of integers >= 1, got {shape!r}"
        raise ShapeError(msg)
    modes = tuple(check_integer(mode, name=f"mode {i} of shape") for i, mode in enumerate(shape))
    if not modes:
        msg = "shape must have at least one mode, got an empty one: a tensor train of a scalar is undefined"
        raise ShapeError(msg)
    if size is not None and math.prod(modes) != size:
        msg = (
            f"shape {modes} holds {math.prod(modes)} entries but the array holds {size}: the nearest shape of as many "
            f"modes that fits is {nearest_shape(modes, size)}; ttlib.search_shapes proposes more"
        )
        raise ShapeError(msg)
    return modes


def check_integer(value: object, *, name: str, minimum: int = 1) -> int:
    """Return *value* as an int that is at least *minimum*, or raise ShapeError naming it."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # rejects floats and strings, takes numpy ints
    except TypeError:
        number = minimum - 1
    if isinstance(value, bool) or number < minimum:
        msg = f"{name} must be an integer >= {minimum}, got {value!r}"
        raise ShapeError(msg)
    return number


def find_split(shape: ShapeLike, /, *, rows: int, cols: int) -> int:
    """Return how many leading modes of *shape* make up the rows of a (rows, cols) matrix.

    >>> find_split([8, 8, 12, 8, 8], rows=768, cols=64)
    3

    With modes of size 1 at the boundary the first possible split is returned.  Raises ShapeError when the sizes
    differ, or when the boundary would fall inside a mode.
    """
    modes = check_shape(shape)
    if math.prod(modes) != rows * cols:
        msg = (
            f"shape {modes} holds {math.prod(modes)} entries, a {rows} x {cols} matrix holds {rows * cols}: "
            f"ttlib.search_shapes({rows}, {cols}, ranks=…) proposes shapes that fit"
        )
        raise ShapeError(msg)
    leading = 1
    for split, mode in enumerate(modes, start=1):
        leading *= mode
        if leading == rows:
            return split
    msg = (
        f"shape {modes} has no mode boundary between the {rows} rows and the {cols} columns: no leading modes "
        f"multiply to {rows}.  Split the mode that spans it, as in {suggest_aligned(rows, cols)}"
    )
    raise ShapeError(msg)


def nearest_shape(shape: Shape, size: int) -> Shape:
    """Return the modes that multiply to *size* and are nearest to *shape*, in its order and by their ratios.

    >>> nearest_shape((8, 8, 12, 8, 9), 49152)
    (8, 8, 12, 8, 8)
    """
    parts = len(shape)
    places = sorted(range(parts), key=lambda k: shape[k])
    options = [*factorisations(size, parts), _greedy_balanced(size, parts)]
    padded = [(1,) * (parts - len(option)) + option for option in options]

    def distance(modes: Shape) -> float:
        return sum(abs(math.log(mode / shape[k])) for mode, k in zip(modes, places, strict=True))

    nearest = min(padded, key=distance)
    best = dict(zip(places, nearest, strict=True))
    return tuple(best[k] for k in range(parts))


def suggest_aligned(rows: int, cols: int) -> Shape:
    """Return one balanced shape with a mode boundary between rows and columns."""
    return tuple(mode for n in (rows, cols) for mode in _without_ones(factorize(n, parts=3)) or (1,))


def prime_factors(n: int) -> Shape:
    """Return the factors of *n* in ascending order; a last factor above 10**12 may be an unsplit product.

    >>> prime_factors(768)
    (2, 2, 2, 2, 2, 2, 2, 2, 3)
    """
    factors = []
    candidate = 2
    while candidate * candidate <= n and candidate <= _LARGEST_TRIAL_FACTOR:
        while n % candidate == 0:
            factors.append(candidate)
            n //= candidate
        candidate += 1 if candidate == 2 else 2
    if n > 1:
        factors.append(n)
    return tuple(factors)


def factorize(n: int, /, *, parts: int) -> Shape:
    """Write *n* as a product of exactly *parts* integers, as even as possible, in ascending order.

    >>> factorize(768, parts=3)
    (8, 8, 12)
    >>> factorize(1021, parts=3)
    (1, 1, 1021)

    Never fails on an integer >= 1: where *n* has fewer prime factors than *parts*, the rest are 1s.
    Raises ShapeError for anything that is not a positive integer.
    """
    n = check_integer(n, name="n")
    parts = check_integer(parts, name="parts")
    options = [*factorisations(n, parts), _greedy_balanced(n, parts)]
    best = min(options, key=lambda modes: (max(modes, default=1), sum(modes), modes))
    return (1,) * (parts - len(best)) + best


@functools.cache
def factorisations(n: int, most_parts: int) -> tuple[Shape, ...]:
    """Return the ways to write *n* as an ascending product of at most *most_parts* factors > 1.

    >>> factorisations(12, 3)
    ((2, 2, 3), (2, 6), (3, 4), (12,))

    At most a few thousand of them (those with the smallest leading factors) are returned.
    """
    if n == 1:
        return ((),)
    divisors = _divisors(n)
    return tuple(islice(_ascending_products(n, most_parts, 2, divisors), _MOST_FACTORISATIONS))


def _ascending_products(n: int, parts: int, smallest: int, divisors: Shape) -> Iterator[Shape]:
    if parts > 1:
        for factor in divisors:
            if factor * factor > n:
                break
            if factor >= smallest and n % factor == 0:
                for rest in _ascending_products(n // factor, parts - 1, factor, divisors):
                    yield (factor, *rest)
    yield (n,)


def _divisors(n: int) -> Shape:
    divisors = {1}
    for prime in prime_factors(n):
        divisors |= {divisor * prime for divisor in divisors}
    return tuple(sorted(divisors - {1}))


def _greedy_balanced(n: int, parts: int) -> Shape:
    modes = [1] * parts
    for prime in reversed(prime_factors(n)):
        modes[modes.index(min(modes))] *= prime
    return _without_ones(tuple(sorted(modes)))


def _without_ones(modes: Shape) -> Shape:
    return tuple(mode for mode in modes if mode > 1)


def check_axes(axes: int | Sequence[int] | None, *, order: int, name: str = "axis") -> Shape:
    """Return *axes* as ascending mode numbers below *order*; None means all, negative ones count from the end."""
    given = range(order) if axes is None else axes if isinstance(axes, Iterable) else (axes,)
    modes = []
    for axis in given:
        mode = check_integer(axis, name=name, minimum=-order)
        if mode >= order:
            msg = f"{name} {mode} is out of range for {order} modes: choose {-order} to {order - 1}"
            raise ShapeError(msg)
        modes.append(mode % order)
    if len(set(modes)) != len(modes):
        msg = f"{name} {tuple(given)} names a mode twice"
        raise ShapeError(msg)
    return tuple(sorted(modes))
