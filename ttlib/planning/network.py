"""The tensor network of y = x W with W a tensor train: which operand carries which index.  Integers only.

    core_1 - core_2 - … - core_d      a line is a bond, summed over
      |        |            |         the first `split` modes meet x, the others are the output
    n_1      n_2          n_d

Every index stands in two operands, or in one and in the output, and every pair that a strategy contracts shares one.
So each contraction is one product of two matrices, and nothing else is ever needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TypeAlias

from ttlib._types import Ranks, Shape

# Indices in the order in which they lie in memory.
Layout: TypeAlias = tuple[int, ...]

# Which pairs are contracted, one after the other.  Operands keep their numbers, and results get the next free one
# (opt_einsum calls this a path of single assignment ids).
Path: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Network:
    """Operands core_1 … core_d and x, with indices numbered: modes 0 … d-1, inner bonds d … 2d-2, tokens 2d-1."""

    shape: Shape
    ranks: Ranks
    split: int
    tokens: int

    @property
    def token_index(self) -> int:
        """The index that numbers the rows of x."""
        return 2 * len(self.shape) - 1

    @cached_property
    def sizes(self) -> Shape:
        """How many values each index takes."""
        return (*self.shape, *self.ranks[1:-1], self.tokens)

    @cached_property
    def operands(self) -> tuple[Layout, ...]:
        """The layout of every core, without its boundary bonds of size 1, and of x."""
        last = len(self.shape) - 1
        bonds = [last + mode for mode in range(last + 2)]  # to the left of each core, and to the right of the last
        cores = [
            (*bonds[mode : mode + (mode > 0)], mode, *bonds[mode + 1 : mode + 1 + (mode < last)])
            for mode in range(last + 1)
        ]
        return (*cores, (self.token_index, *range(self.split)))

    @cached_property
    def core_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """The (r, n, r') that the plan is for."""
        return tuple((a, mode, b) for mode, (a, b) in zip(self.shape, pairwise(self.ranks), strict=True))

    @property
    def output(self) -> Layout:
        """The layout of y."""
        return (self.token_index, *range(self.split, len(self.shape)))
