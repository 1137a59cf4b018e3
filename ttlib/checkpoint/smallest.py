"""The smallest train of a weight at a tolerance, over all shapes that were tried."""

from __future__ import annotations

from dataclasses import dataclass

from ttlib._types import Ranks, Shape
from ttlib.checkpoint.weight import WeightAnalysis


@dataclass(frozen=True, slots=True)
class Smallest:
    """How many times smaller than the dense matrix, of which shape and ranks; 1 and None where no train is smaller."""

    compression: float = 1.0
    shape: Shape | None = None
    ranks: Ranks | None = None


def smallest(weight: WeightAnalysis, eps: float) -> Smallest:
    """Return the smallest train that certainly keeps the relative error of a weight below *eps*."""
    found = [
        Smallest(at.compression, own.shape, at.ranks)
        for own in weight.shapes
        for at in own.at_eps
        if at.eps == eps and at.compression is not None and at.compression > 1.0
    ]
    return max(found, key=lambda best: best.compression, default=Smallest())
