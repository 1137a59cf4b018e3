"""A wide matrix (m, n) with its columns compressed: what is left of it once only its row side matters.

The bonds inside a group of modes, and the one at its end, ask for bases of the row side alone.  Either of two small
matrices answers all of them: the Gram matrix A A^H, or the factor L of A = L Q with orthonormal rows Q.  Both live on
the host, whatever library and device the data is on; stacks of them have a leading axis B.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ttlib import _arrays
from ttlib._types import Array, Shape
from ttlib.linalg import auto, exact, gram, qr, sketch
from ttlib.linalg.eigen import leading_eigenpairs
from ttlib.linalg.protocol import SVDDriver
from ttlib.linalg.truncation import Cut, truncated_svd
from ttlib.linalg.truncation_rule import TruncationRule

Numbers = np.ndarray[Any, Any]

# Units in the last place by which products of single precision, summed in double every few thousand, can be off
# altogether: 16 at worst over kernels of two libraries and data made to round one way, at most 3 on random data.
_SINGLE_NOISE = 16
# From these numbers of rows and entries on, products in single precision pay for data in double precision.
_LEAST_ROWS, _LEAST_ENTRIES = 128, 1 << 20


class Columns(Protocol):
    """The row side of a stack of wide matrices: `rows` of each, and the sums of squares of each, `energy` (B,).

    `noise` (B,) is what rounding may have added to any energy that is calculated from it.
    """

    @property
    def rows(self) -> int: ...  # noqa: D102
    @property
    def energy(self) -> Numbers: ...  # noqa: D102
    @property
    def noise(self) -> Numbers: ...  # noqa: D102

    def cut(self, rows: int, rule: TruncationRule) -> Cut:
        """Truncate the unfolding that has the leading *rows* as rows."""
        ...

    def in_basis(self, basis: Numbers) -> Columns:
        """Return the rows, numbered (rows, q), in a *basis* (B, rows, r) of the leading ones: numbered (r, q)."""
        ...

    def reversed(self, modes: Shape) -> Columns:
        """Return the same rows numbered by *modes* where they were numbered by the reverse of *modes*."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class GramColumns:
    """Rows known by their Gram matrix (B, m, m) in double precision."""

    gram: Numbers
    noise: Numbers
    reason: str

    @property
    def rows(self) -> int:
        """See `Columns`."""
        return int(self.gram.shape[-1])

    @property
    def energy(self) -> Numbers:
        """See `Columns`."""
        energy: Numbers = np.trace(self.gram, axis1=-2, axis2=-1).real
        return energy

    def cut(self, rows: int, rule: TruncationRule) -> Cut:
        """See `Columns`; the rank leaves room for the noise, so that a tolerance is kept all the same."""
        count, inner = self.gram.shape[0], self.rows // rows
        gram = self.gram
        if inner > 1:
            gram = np.trace(gram.reshape(count, rows, inner, rows, inner), axis1=2, axis2=4)
        pairs = leading_eigenpairs(gram, rule.max_rank)
        rank = rule.rank(pairs.values, pairs.residual + self.noise)
        discarded = rule.tails(pairs.values, pairs.residual)[..., rank]
        certain = rule.rank(pairs.values, pairs.residual - self.noise) == rank
        return Cut(pairs.vectors[..., :rank], pairs.values, discarded, "gram", self.reason, certain=certain)

    def in_basis(self, basis: Numbers) -> GramColumns:
        """See `Columns`."""
        count, rows, rank = basis.shape
        inner = self.rows // rows
        half = basis.conj().mT @ self.gram.reshape(count, rows, -1)  # (B, r, q rows q)
        half = half.reshape(count, rank * inner, rows, inner).mT.reshape(count, -1, rows)  # (B, r q q, rows)
        gram = (half @ basis).reshape(count, rank * inner, inner, rank).mT  # (B, r q, r, q)
        return replace(self, gram=gram.reshape(count, rank * inner, -1))

    def reversed(self, modes: Shape) -> GramColumns:
        """See `Columns`."""
        return replace(self, gram=_arrays.renumbered(_arrays.renumbered(self.gram, 1, modes), 2, modes))


@dataclass(frozen=True, slots=True, eq=False)
class FactorColumns:
    """Rows known by a factor (B, m, k) that has their singular values: exact to the last digits."""

    factor: Numbers
    is_triangular: bool  # or the matrix itself, where it is not long

    @property
    def rows(self) -> int:
        """See `Columns`."""
        return int(self.factor.shape[1])

    @property
    def energy(self) -> Numbers:
        """See `Columns`."""
        return _arrays.energies(self.factor)

    @property
    def noise(self) -> Numbers:
        """See `Columns`."""
        return np.zeros(self.factor.shape[0])

    def cut(self, rows: int, rule: TruncationRule) -> Cut:
        """See `Columns`."""
        cut = truncated_svd(self.factor.reshape(len(self.factor), rows, -1), rule=rule, driver=exact.driver)
        if not self.is_triangular:
            return cut
        reason = "QR of the long side, block by block, then the SVD of small factors"
        return Cut(cut.basis, cut.singular_values, cut.discarded, "qr", reason)

    def in_basis(self, basis: Numbers) -> FactorColumns:
        """See `Columns`."""
        count, rows, _ = basis.shape
        factor = basis.conj().mT @ self.factor.reshape(count, rows, -1)
        return replace(self, factor=factor.reshape(count, -1, self.factor.shape[-1]))

    def reversed(self, modes: Shape) -> FactorColumns:
        """See `Columns`."""
        return replace(self, factor=_arrays.renumbered(self.factor, 1, modes))


class Compression(Protocol):
    """A way to compress the columns of a stack (B, m, n)."""

    def noise(self, rows: int) -> float:
        """Return what rounding may add to any energy, relative to the whole; 0 for what is as exact as the data."""
        ...

    def is_coarse(self, matrix: Array) -> bool:
        """Return whether the way is less precise than the data, so that what is lost is better measured there."""
        ...

    def pays(self, matrix: Array) -> bool:
        """Return whether the way saves anything on such a matrix."""
        ...

    def compress(self, matrix: Array) -> Columns:
        """Compress; infinities and NaN of the matrix show in the energy, whatever else becomes of them."""
        ...


@dataclass(frozen=True, slots=True)
class GramCompression:
    """By the Gram matrix, summed in double precision of products in double precision, or in single."""

    in_single: bool
    unit: float  # the roundoff of the products

    def noise(self, rows: int) -> float:
        """See `Compression`; products of double precision are summed by the library, over any number of columns."""
        return self.unit * (_SINGLE_NOISE if self.in_single else max(_SINGLE_NOISE, rows))

    def is_coarse(self, matrix: Array) -> bool:
        """See `Compression`."""
        return self.unit > _arrays.unit_roundoff(matrix)

    def pays(self, matrix: Array) -> bool:
        """See `Compression`."""
        rows, cols = _arrays.matrix_shape(matrix)
        return not self.is_coarse(matrix) or (rows >= _LEAST_ROWS and rows * cols >= _LEAST_ENTRIES)

    def compress(self, matrix: Array) -> GramColumns:
        """See `Compression`."""
        product = gram.gram_matrix_in_single if self.in_single else gram.gram_matrix
        with np.errstate(over="ignore", invalid="ignore"):
            found = _arrays.to_numpy(product(matrix))
        found = found.astype(np.result_type(found.dtype, np.float64), copy=False)
        energy = np.trace(found, axis1=-2, axis2=-1).real
        reason = f"Gram matrix of a group of modes, products in {'single' if self.in_single else 'double'} precision"
        return GramColumns(found, self.noise(found.shape[-1]) * energy, reason)


@dataclass(frozen=True, slots=True)
class ExactCompression:
    """By the triangular factor, or by nothing where the matrix is not long and *triangular* does not ask for it."""

    triangular: bool

    def noise(self, rows: int) -> float:  # noqa: ARG002
        """See `Compression`."""
        return 0.0

    def is_coarse(self, matrix: Array) -> bool:  # noqa: ARG002
        """See `Compression`."""
        return False

    def pays(self, matrix: Array) -> bool:  # noqa: ARG002
        """See `Compression`."""
        return True

    def compress(self, matrix: Array) -> FactorColumns:
        """See `Compression`."""
        triangular = self.triangular or exact.is_long(matrix)
        with np.errstate(over="ignore", invalid="ignore"):
            return FactorColumns(_arrays.to_numpy(qr.lower_factor(matrix) if triangular else matrix), triangular)


def compressions(driver: SVDDriver, like: Array) -> tuple[Compression, ...]:
    """Return the compressions that stand for a driver, cheapest first; none for one that works on whole matrices."""
    if driver is qr.driver:
        return (ExactCompression(triangular=True),)
    if driver not in (auto.driver, gram.driver, sketch.driver):
        return ()
    return (
        GramCompression(True, float(np.finfo(np.float32).eps)),
        GramCompression(False, _arrays.unit_roundoff(like, _arrays.double_dtype(like))),
        ExactCompression(triangular=False),
    )
