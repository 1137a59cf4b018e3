"""Scales and tolerances that the sweeps share: powers of two taken out of the data, and the floor of rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ttlib import _arrays
from ttlib._types import Array, Cores

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
    xp = _arrays.namespace(*cores)
    limits = xp.finfo(dtype)
    peak, peak_exponent = math.frexp(_arrays.largest_magnitude(cores[-1]))
    top = peak_exponent + exponent
    if peak == 0 or math.frexp(float(limits.smallest_normal))[1] < top < math.frexp(float(limits.max))[1]:
        scaled = [*cores[:-1], _arrays.ldexp(cores[-1], exponent)]
    else:
        share, left_over = divmod(top, len(cores))
        last = _arrays.ldexp(cores[-1], left_over + share - peak_exponent)
        scaled = [*(_arrays.ldexp(core, share) for core in cores[:-1]), last]
    return tuple(_arrays.astype(core, dtype) for core in scaled)
