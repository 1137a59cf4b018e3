"""Scales and tolerances that the sweeps share: powers of two taken out of the data, and the floor of rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from ttlib import _arrays, _autograd
from ttlib._types import Array, Cores

Exponents: TypeAlias = np.ndarray[Any, Any]  # of two, int64, one a member of a stack

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


def deliver(cores: Sequence[Array], exponent: int, *, like: Array | None, dtype: str) -> Cores:
    """Return host cores times 2**exponent in the library and on the device of *like*, in the dtype of that name."""
    restored = restore_scale(cores, exponent, np.dtype(_HOST_DTYPES.get(dtype, dtype)))
    target = None if like is None else _arrays.find_dtype(like, dtype)
    return tuple(_arrays.from_numpy(core, like=like, dtype=target) for core in restored)


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


def normalise_each(x: Array) -> tuple[Array, Exponents]:
    """Take a power of two out of every member of the stack x (B, …), as `_arrays.normalise` does."""
    parts = [_arrays.normalise(x[member, ...]) for member in range(x.shape[0])]
    return stack([part for part, _ in parts]), np.array([power for _, power in parts], dtype=np.int64)
