"""Choose a driver, take the SVD, decide how many singular values to keep."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypedDict, get_args

import numpy as np

from ttlib._arrays import adjoint, matrix_shape, to_numpy
from ttlib._autograd import first_derivative_only, is_traced, stop_gradient
from ttlib._types import Array, Driver, RanksLike
from ttlib.errors import UnknownDriverError
from ttlib.linalg import auto, exact, gram, lapack, qr, sketch
from ttlib.linalg.gradient import follow
from ttlib.linalg.protocol import SVDDriver
from ttlib.linalg.truncation_rule import TruncationRule


class TruncationOptions(TypedDict, total=False):
    """What `decompose`, its siblings and `round` take in common; `ttlib.decompose` describes them."""

    ranks: RanksLike | None
    eps: float | None
    parameters: int | None
    compression: float | None
    driver: Driver | SVDDriver


DRIVERS: dict[str, SVDDriver] = {
    "auto": auto.driver,
    "lapack": lapack.driver,
    "qr": qr.driver,
    "gram": gram.driver,
    "sketch": sketch.driver,
}


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """The basis that a bond keeps, and what it drops.

    `basis` is U[:, :r] of U diag(s) V^H; `singular_values` holds s as far as computed, in float64, and `discarded` the
    sum of the squares of all that was dropped, one number a matrix of the stack.  `certain` says whether rounding, as
    far as the method knows of it, could have led to another rank.
    """

    basis: Array
    singular_values: np.ndarray[Any, Any]
    discarded: np.ndarray[Any, Any]
    driver: str
    reason: str
    certain: bool = field(default=True, kw_only=True)


@dataclass(frozen=True, slots=True, eq=False)
class TruncatedSVD(Cut):
    """The kept part of U diag(s) V^H: the cut, and `remainder`, diag(s[:r]) V^H[:r]."""

    remainder: Array


def resolve_driver(driver: Driver | SVDDriver) -> SVDDriver:
    """Return the function behind *driver*, or raise UnknownDriverError listing the names there are."""
    if callable(driver):
        return driver
    if not isinstance(driver, str) or driver not in DRIVERS:
        msg = (
            f"driver {driver!r} does not exist: choose one of {', '.join(map(repr, get_args(Driver)))}, or pass a "
            f"function as ttlib.testing.check_driver describes"
        )
        raise UnknownDriverError(msg)
    return DRIVERS[driver]


def truncated_svd(matrix: Array, *, rule: TruncationRule, driver: SVDDriver) -> TruncatedSVD:
    """Cut the stack of matrices (…, m, n) by *rule*; where autograd follows the matrix, the cut is followed too."""
    constant = stop_gradient(matrix)
    found = driver(constant, rule)
    if is_traced(matrix) and found.basis.shape[-1] < min(matrix_shape(matrix)):
        found = exact.triplets(constant)  # the derivative needs the whole spectrum
    spectrum = to_numpy(found.values).astype(np.float64)
    rank = min(found.rank or rule.rank(spectrum, found.residual), int(found.basis.shape[-1]))
    if is_traced(matrix):
        matrix = first_derivative_only(matrix)
        basis = follow(matrix, found, rank)
        remainder = adjoint(basis) @ matrix
    else:
        basis, remainder = found.basis[..., :rank], found.remainder[..., :rank, :]
    discarded = rule.tails(spectrum, found.residual)[..., rank]
    return TruncatedSVD(basis, spectrum, discarded, found.driver, found.reason, remainder)
