"""Choose a driver, take the SVD, decide how many singular values to keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from ttlib._arrays import matrix_shape, namespace, to_numpy
from ttlib._types import Array, Driver
from ttlib.linalg import lapack, qr

SVD = Callable[[Array], tuple[Array, Array, Array]]

DRIVERS: dict[str, SVD] = {"lapack": lapack.svd, "qr": qr.svd}

# From this aspect ratio on a QR of the long side pays for itself (measured on numpy and torch, 64 to 4096 wide).
_QR_ASPECT_RATIO = 3


@dataclass(frozen=True, slots=True)
class TruncatedSVD:
    """The kept part of U diag(s) V^H, and what was dropped.

    `basis` is U[:, :r], `remainder` is diag(s[:r]) V^H[:r]; `singular_values` holds all of s in float64 and
    `discarded` the sum of the squares of the dropped ones.
    """

    basis: Array
    remainder: Array
    singular_values: np.ndarray[Any, Any]
    discarded: float


def resolve_driver(driver: Driver | str) -> str:
    """Return *driver*, or raise ValueError listing the names there are."""
    if driver not in get_args(Driver):
        msg = f"driver {driver!r} does not exist: choose one of {', '.join(map(repr, get_args(Driver)))}"
        raise ValueError(msg)
    return driver


def truncated_svd(matrix: Array, *, max_rank: int, budget: float, driver: str) -> TruncatedSVD:
    """Keep the fewest singular values whose dropped squares sum to at most *budget*, and at most *max_rank*.

    The squares are summed from the smallest up, in float64: a difference of norms would lose every digit of an
    error below the square root of the machine precision.  At least one singular value is kept.
    """
    if driver == "auto":
        rows, cols = matrix_shape(matrix)
        driver = "qr" if max(rows, cols) >= _QR_ASPECT_RATIO * min(rows, cols) else "lapack"
    u, values, vh = DRIVERS[driver](matrix)
    singular_values = to_numpy(values).astype(np.float64)
    # tails[r] = what is lost by keeping r values
    tails = np.append(np.cumsum(singular_values[::-1] ** 2)[::-1], 0.0)
    needed = int(np.argmax(tails <= budget))
    rank = max(1, min(needed, max_rank))
    xp = namespace(matrix)
    remainder = xp.reshape(values[:rank], (rank, 1)) * vh[:rank, :]
    return TruncatedSVD(u[:, :rank], remainder, singular_values, float(tails[rank]))
