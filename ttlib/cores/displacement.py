"""Differences of tensor trains that start equal, computed so that equal means exactly zero.

Take cores G that started as G0.  The plain difference of the two contractions, U V - U0 V0, is zero at the start
only if both products round alike, and near the start it cancels most digits.  Here the difference is carried
through every product instead:

    A B - A0 B0 = (A - A0) B + A0 (B - B0)

so every term holds a factor that is a difference of cores.  With G = G0 each term is a product with an exact zero
and the result is exactly zero on any device, in any dtype and order of summation; and a small change of the
cores comes out with its full relative precision.  The price is three products for each one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ttlib._arrays import namespace, reshape
from ttlib.cores.contraction import factor_pair


@dataclass(frozen=True, slots=True)
class Displaced:
    """A matrix as a base value and its displacement from it; `value` is their sum."""

    base: Any
    delta: Any

    @property
    def value(self) -> Any:
        """The displaced matrix."""
        return self.base + self.delta

    @property
    def shape(self) -> Any:
        """Shape of the matrix."""
        return self.base.shape

    def reshape(self, shape: tuple[int, ...]) -> Displaced:
        """Reshape both parts."""
        return Displaced(reshape(self.base, shape), reshape(self.delta, shape))

    def matmul(self, other: Displaced) -> Displaced:
        """Multiply, carrying the displacement (see the module docstring)."""
        return Displaced(self.base @ other.base, self.delta @ other.value + self.base @ other.delta)


def displace(cores: Sequence[Any], initial: Sequence[Any]) -> tuple[Displaced, ...]:
    """Pair every core with its initial value."""
    return tuple(Displaced(start, core - start) for core, start in zip(cores, initial, strict=True))


def displaced_factors(cores: Sequence[Any], initial: Sequence[Any], split: int) -> tuple[Any, Any]:
    """Return P (rows, 2r) and Q (2r, cols) with P Q the matrix of *cores* minus the matrix of *initial*.

    Exactly zero while the cores equal their initial values, with a gradient in every core.
    """
    left, right = factor_pair(displace(cores, initial), split)
    xp = namespace(left.base)
    # A B - A0 B0 = (A - A0) B + A0 (B - B0), as one product of two blocks
    return xp.concat([left.delta, left.base], axis=1), xp.concat([right.value, right.delta], axis=0)
