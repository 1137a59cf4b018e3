"""Contract cores into matrices: the two factors on either side of a bond, and the dense tensor.

These functions touch their operands only through `matmul` and `reshape`, so they also serve values that are not plain
arrays but multiply like them (see `ttlib.cores.displacement`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ttlib._arrays import copied, matmul, reshape
from ttlib.cores.check import shape_of


def left_factor(cores: Sequence[Any]) -> Any:
    """Contract (1, n1, r1), …, (r, nk, r') into the matrix (n1 … nk, r')."""
    _, mode, rank = cores[0].shape
    factor = reshape(cores[0], (mode, rank))
    for core in cores[1:]:
        inner, mode, rank = core.shape
        factor = matmul(factor, reshape(core, (inner, mode * rank)))  # (N, r) (r, n r') -> (N, n r')
        factor = reshape(factor, (-1, rank))  # (N n, r')
    return factor


def right_factor(cores: Sequence[Any]) -> Any:
    """Contract (r, nk, r'), …, (r'', nd, 1) into the matrix (r, nk … nd)."""
    rank, mode, _ = cores[-1].shape
    factor = reshape(cores[-1], (rank, mode))
    for core in reversed(cores[:-1]):
        rank, mode, inner = core.shape
        factor = matmul(reshape(core, (rank * mode, inner)), factor)  # (r n, r') (r', N) -> (r n, N)
        factor = reshape(factor, (rank, -1))  # (r, n N)
    return factor


def factor_pair(cores: Sequence[Any], split: int) -> tuple[Any, Any]:
    """Return U (rows, r) and V (r, cols) with U V the matrix whose rows are the first *split* modes.

    Both are far smaller than their product: this is what lets a layer multiply by U and then V and never hold
    the dense matrix.
    """
    return left_factor(cores[:split]), right_factor(cores[split:])


def reconstruct(cores: Sequence[Any]) -> Any:
    """Return the dense tensor (n1, …, nd)."""
    shape = shape_of(cores)
    if len(cores) == 1:
        return copied(reshape(cores[0], shape))
    split = balanced_split(shape)
    left, right = factor_pair(cores, split)
    return reshape(matmul(left, right), shape)


def balanced_split(shape: tuple[int, ...]) -> int:
    """Return the bond with the smallest pair of factors: contracting there last costs the fewest operations."""
    sizes = [math.prod(shape[:k]) + math.prod(shape[k:]) for k in range(1, len(shape))]
    return 1 + sizes.index(min(sizes))
