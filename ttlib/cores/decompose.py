"""TT-SVD: arrays to tensor-train cores, with the exact error (Oseledets 2011, Algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ttlib import _arrays
from ttlib._types import Array, Cores, Ranks, Shape
from ttlib.cores.report import DecompositionReport
from ttlib.cores.scaling import normalise_each, restore_scale, rounding_floor, stack
from ttlib.cores.truncating_sweep import TruncatingSweep
from ttlib.linalg import SVDDriver


def tt_svd(
    tensors: Sequence[Array], shape: Shape, *, max_ranks: Ranks, eps: float | None, driver: SVDDriver, dtype: Any
) -> list[tuple[Cores, DecompositionReport]]:
    """Decompose arrays of one size in one sweep, one truncated SVD of the stack a bond.

    *max_ranks* are already clipped to the shape, the results are cast to *dtype*.  At each bond the stack keeps one
    rank, the largest that any of the tensors needs.  The data is divided by a power of two first, so that squares
    neither overflow nor vanish.
    """
    wide = _arrays.compute_dtype(tensors[0])
    rest, exponents = normalise_each(stack([_arrays.astype(tensor, wide) for tensor in tensors]))  # (B, n1, …, nd)
    energy = _arrays.energies(rest)
    tolerance = max(eps or 0.0, rounding_floor(rest, eps, size=math.prod(shape)))
    sweep = TruncatingSweep(shape, max_ranks, tolerance, driver, lost=np.zeros(len(tensors)))
    stacks: list[Array] = []
    rank = 1
    for mode in shape[:-1]:
        cut = sweep.cut(_arrays.reshape(rest, (len(tensors), rank * mode, -1)), energy)  # (B, r n, n' … n'')
        stacks.append(_arrays.reshape(cut.basis, (len(tensors), rank, mode, -1)))  # (B, r, n, r')
        rest, rank = cut.remainder, int(cut.basis.shape[-1])
    if not stacks:  # a vector is its own only core, and must not stay a view of the input
        rest = _arrays.copied(rest)
    stacks.append(_arrays.reshape(rest, (len(tensors), rank, shape[-1], 1)))
    reports = sweep.reports([exponents] * (len(shape) - 1), eps=eps)
    return [
        (restore_scale([core[member, ...] for core in stacks], int(exponents[member]), dtype), report)
        for member, report in enumerate(reports)
    ]
