"""Scales and tolerances that the sweeps share: powers of two taken out of the data, and the floor of rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from ttlib import _arrays, _autograd, _transfer
from ttlib._types import Array, Cores

Exponents: TypeAlias = np.ndarray[Any, Any]  # of two, int64, one a member of a stack
Stack: TypeAlias = list[Array]  # the cores (B, r, n, r') of B trains of equal shapes

# Between these mean squares of the entries no sum of squares that matters overflows or vanishes in single precision.
LEAST_MEAN_SQUARE, LARGEST_MEAN_SQUARE = 2.0**-40, 2.0**40

# numpy has no bfloat16; float32 has its range.
_HOST_DTYPES = {"bfloat16": "float32"}

# Whole thousands of units are still 2e-13 in double precision; in single precision sixty-four are 8e-6 already.
_MOST_NOISE_UNITS = {"float64": 1024, "complex128": 1024}
_MOST_NOISE_UNITS_SINGLE = 64


def rounding_floor(x: Array, eps: float | None, *, size: int) -> float:
    """Return the relative error that rounding makes anyway: singular values below it are noise, not data.

    QR and SVD of *size* numbers leave noise of up to about sqrt(size) units in the last place (measured with MKL and
    OpenBLAS: 0.2 to 0.4 sqrt(size) at worst).  Where the caller names a tolerance only a few units are dropped, so as
    not to take from a library that rounds better than that.
    """
    unit = _arrays.unit_roundoff(x)
    if eps is not None:
        return 4 * unit
    most = _MOST_NOISE_UNITS.get(_arrays.dtype_name(x.dtype), _MOST_NOISE_UNITS_SINGLE)
    return unit * min(max(4, math.sqrt(size)), most)


def restore_scale(cores: Sequence[Array], exponent: int, dtype: Any) -> Cores:
    """Multiply by 2**exponent and cast: into the last core, or spread over all where one core could not hold it.

    A core holds singular values, which can exceed every entry of the tensor and so the range of the dtype; in half
    precision, whose smallest numbers are large, they can also vanish below it.
    """
    peak = _arrays.largest_magnitude(cores[-1])
    top = _arrays.exponent(peak) + exponent
    least, most = _arrays.exponent_range(cores[-1], dtype)
    if peak == 0 or least < top < most:
        scaled = [*cores[:-1], _arrays.ldexp(cores[-1], exponent)]
    else:
        scaled = _spread([*cores[:-1], _arrays.ldexp(cores[-1], -_arrays.exponent(peak))], top)
    return tuple(_arrays.astype(core, dtype) for core in scaled)


def deliver(cores: Sequence[Array], exponent: int, *, like: Array | None, dtype: Any) -> Cores:
    """Return the cores times 2**exponent in the library and on the device of *like*, in *dtype* (or one so named)."""
    if like is None or _arrays.library(cores[0]) != _arrays.library(like):  # from host memory
        name = dtype if isinstance(dtype, str) else _arrays.dtype_name(dtype)
        cores = restore_scale(cores, exponent, np.dtype(_HOST_DTYPES.get(name, name)))
        target = None if like is None else _arrays.find_dtype(like, name)
        return tuple(_arrays.from_numpy(np.ascontiguousarray(core), like=like, dtype=target) for core in cores)
    return restore_scale(cores, exponent, _arrays.find_dtype(like, dtype))


def on_host(cores: Cores) -> Cores:
    """Return the cores as numpy arrays, of the same memory, where they lie in host memory and no derivative follows.

    The matrices of a train are small: numpy calls its BLAS at a fraction of the price of other libraries, knows A A^H
    for half a product, and results go back without a copy.  Elsewhere the cores stay what they are.
    """
    if any(str(_arrays.device(core)) != "cpu" or _autograd.is_traced(core) for core in cores):
        return cores
    return tuple(_transfer.to_host_bits(core) for core in cores)


def widen(cores: Cores) -> Cores:
    """Return the cores in the dtype to calculate in."""
    dtype = _arrays.compute_dtype(cores[0])
    return tuple(_arrays.astype(core, dtype) for core in cores)


def balance(cores: Cores) -> Cores:
    """Return the same train with powers of two spread evenly, where partial products could leave the range.

    Cores of 1e200, 1e200, 1e-200 and 1e-200 make ones, but the product of the first two is infinite.
    """
    return tuple(_spread(*unscale(cores)))


def _spread(cores: Sequence[Array], exponent: int) -> list[Array]:
    """Multiply by 2**exponent, by as even a share of it in every core as there is."""
    share, left_over = divmod(exponent, len(cores))
    return [_arrays.ldexp(core, share + (k < left_over)) for k, core in enumerate(cores)]


def unscale(cores: Cores) -> tuple[Cores, int]:
    """Return cores and k with the same tensor but for the factor 2**k; k is 0 where no product is in danger.

    Contracting them and multiplying by 2**k last gives every entry that is in the range, to the very end of it.
    """
    if any(_autograd.is_abstract(core) for core in cores):
        return cores, 0
    exponents = [_arrays.exponent(_arrays.largest_magnitude(core)) for core in cores]
    _, most = _arrays.exponent_range(cores[0])
    if sum(abs(exponent) for exponent in exponents) <= most // 2:
        return cores, 0
    scaled = tuple(_arrays.ldexp(core, -exponent) for core, exponent in zip(cores, exponents, strict=True))
    return scaled, sum(exponents)


def stack(members: Sequence[Array]) -> Array:
    """Return (B, …) of equally shaped arrays; a view where there is one only."""
    return members[0][None, ...] if len(members) == 1 else _arrays.namespace(*members).stack(list(members))


# A norm within these powers of two is moderate: products and squares of such arrays are safe in single precision too.
_MODERATE = 16


def squared_norms(x: Array) -> list[float]:
    """Return the squared norm of every member of the stack x (B, …), summed in its own precision; it may overflow."""
    if isinstance(x, np.ndarray) and x.shape[0] == 1:  # a quarter of the price, and most calls
        return [float(np.vdot(x, x).real)]
    flat = _arrays.reshape(_autograd.stop_gradient(x), (int(x.shape[0]), -1))
    with np.errstate(over="ignore", invalid="ignore"):
        squares = _arrays.namespace(flat).linalg.vecdot(flat, flat)
    found: list[float] = _arrays.to_numpy(squares).real.tolist()
    return found


def is_moderate(squares: Sequence[float]) -> bool:
    """Return whether squared norms are finite and far from the ends of the range; zero is not."""
    return all(4.0**-_MODERATE < square < 4.0**_MODERATE for square in squares)


def tame_each(x: Array, *, name: str | None = None) -> tuple[Array, Exponents]:
    """Take powers of two out of the stack x (B, …) only where the norm of a member is not moderate.

    One pass that writes nothing, where `normalise_each` takes two and writes a copy: for what is between two products.
    With a *name* for messages NaN and infinities are refused.
    """
    if _autograd.is_abstract(x) or not is_moderate(squared_norms(x)):
        if name:
            for member in range(x.shape[0]):
                _arrays.check_finite(x[member, ...], name=name)
        return normalise_each(x)
    return x, np.zeros(x.shape[0], dtype=np.int64)


def tame_together(stacks: list[Array]) -> tuple[list[Array], int]:
    """Take one power of two out of all stacks (B, …) where their common norm is not moderate."""
    if is_moderate([sum(square for x in stacks for square in squared_norms(x))]):
        return stacks, 0
    power = max(_arrays.exponent(_arrays.largest_magnitude(x)) for x in stacks)
    return [_arrays.ldexp(x, -power) for x in stacks], power


def bring_below_one(x: Array) -> tuple[Array, Exponents]:
    """Take powers of two out of the stack x (B, …) so that norms are at most 1, as the drivers of an SVD want them."""
    squares = [] if _autograd.is_abstract(x) else squared_norms(x)
    if not is_moderate(squares) or not squares:
        return normalise_each(x)
    powers = np.array([_arrays.exponent(math.sqrt(square)) for square in squares], dtype=np.int64)
    if not powers.any():
        return x, powers
    if len(squares) == 1:
        return x * 2.0 ** -int(powers[0]), powers
    return stack([x[member, ...] * 2.0 ** -int(power) for member, power in enumerate(powers)]), powers


def normalise_each(x: Array) -> tuple[Array, Exponents]:
    """Take a power of two out of every member of the stack x (B, …), as `_arrays.normalise` does."""
    parts = [_arrays.normalise(x[member, ...]) for member in range(x.shape[0])]
    return stack([part for part, _ in parts]), np.array([power for _, power in parts], dtype=np.int64)
