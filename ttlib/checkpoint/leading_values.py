"""The leading singular values of a matrix of two long sides, and exactly what is beyond them, from a few passes.

A block Krylov space on the short side (Musco, Musco, 'Randomized block Krylov methods for stronger and faster
approximate singular value decomposition', NeurIPS 2015, Algorithm 2), as the driver 'sketch' builds it for a basis.
Only values are wanted here, which is cheaper: the projection of A^H A onto the space is block tridiagonal (Golub,
Underwood, 'The block Lanczos method for computing eigenvalues', 1977) and falls out of the products that build it, at
two a vector and with nothing kept that has the long side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttlib.checkpoint.matrix_blocks import MatrixBlocks
from ttlib.linalg import gram

Numbers = np.ndarray[Any, Any]

# So many blocks of vectors, and so many vectors altogether for each value that is wanted.
_BLOCKS, _VECTORS_PER_VALUE = 4, 1.5
_OVERSAMPLING = 16
_SEED = 0  # the same matrix gives the same answer every time
# A difference of two energies is trusted down to this many units in the last place of the larger one.
_TRUSTED_UNITS = 2_000


@dataclass(frozen=True, slots=True, eq=False)
class LeadingValues:
    """The descending squares of the singular values inside a subspace, and the energy outside of it."""

    squares: Numbers
    outside: float


def fits(short: int, top: int) -> bool:
    """Return whether the space for the *top* values spans at most half of a short side."""
    return 2 * _BLOCKS * _width(top) <= short


def _width(top: int) -> int:
    return math.ceil(_VECTORS_PER_VALUE * (top + _OVERSAMPLING) / _BLOCKS)


def leading_values(blocks: MatrixBlocks, left: int, top: int) -> LeadingValues:
    """Return estimates from below of the singular values of the unfolding (left, …), good for about the first *top*."""
    short, width = min(left, blocks.entries.size // left), _width(top)
    random = np.random.default_rng(_SEED)
    product = np.zeros((short, width), blocks.dtype)
    for block in blocks.tall(left):  # A^H times random vectors of the long side
        product += block.T @ random.standard_normal((len(block), width), np.float32).astype(blocks.dtype, copy=False)
    basis = np.zeros((short, 0), blocks.dtype)
    projected = np.zeros((_BLOCKS * width, _BLOCKS * width))  # Q^H A^H A Q, in double
    for k in range(_BLOCKS):
        here = slice(k * width, (k + 1) * width)
        fresh = _independent_of(basis, product, random)
        if k:
            before = slice(here.start - width, here.start)
            projected[here, before] = fresh.T @ product  # the product is A^H A times the vectors before
            projected[before, here] = projected[here, before].T
        basis = np.concatenate([basis, fresh], axis=1)
        projected[here, here], product = _applied(blocks, left, fresh, wanted=k + 1 < _BLOCKS)
    squares = np.maximum(0.0, np.linalg.eigvalsh(projected)[::-1])
    outside = max(0.0, blocks.energy - float(np.trace(projected)))
    if outside < _TRUSTED_UNITS * float(np.finfo(blocks.dtype).eps) * blocks.energy:
        outside = _measured_outside(blocks, left, basis)
    return LeadingValues(squares, outside)


def _independent_of(basis: Numbers, vectors: Numbers, random: np.random.Generator) -> Numbers:
    """Return orthonormal columns that are orthogonal to the *basis* and span, with it, the *vectors*."""
    # A trace of noise keeps the columns independent where the matrix has fewer directions than there are columns.
    trace = float(np.finfo(vectors.dtype).eps) * float(np.max(np.abs(vectors), initial=0.0))
    noise = np.asarray(random.standard_normal(vectors.shape, np.float32), dtype=vectors.dtype)
    fresh: Numbers = vectors + noise * vectors.dtype.type(trace or 1.0)
    for _ in range(2 if basis.size else 1):  # once leaves rounding of the size of what was taken away
        fresh, _ = np.linalg.qr(fresh - basis @ (basis.T @ fresh))
    return fresh


def _applied(blocks: MatrixBlocks, left: int, vectors: Numbers, *, wanted: bool) -> tuple[Numbers, Numbers]:
    """Return (A V)^H (A V), in double, and A^H A V if it is *wanted*, for V (short, width)."""
    width = vectors.shape[1]
    inner, outer = np.zeros((width, width)), np.zeros_like(vectors)
    for block in blocks.tall(left):
        half = block @ vectors
        inner += gram.gram_matrix(half.T)
        if wanted:
            outer += block.T @ half
    return inner, outer


def _measured_outside(blocks: MatrixBlocks, left: int, basis: Numbers) -> float:
    """Return ||A - A Q Q^H||^2, where a difference of energies would have no digits."""
    total = 0.0
    for block in blocks.tall(left):
        missed = np.asarray(block - (block @ basis) @ basis.T, dtype=np.float64)
        total += float(np.vdot(missed, missed))
    return total
