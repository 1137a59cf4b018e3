"""Tensor trains made from nothing: random ones with a stated spread."""

from __future__ import annotations

import math

import numpy as np

from ttlib._types import Array, RanksLike, ShapeLike
from ttlib.cores.initialize import gaussian_cores
from ttlib.errors import RankError
from ttlib.ranks import clip_ranks
from ttlib.shapes import check_shape
from ttlib.tensor_train import TensorTrain


def random(
    shape: ShapeLike,
    /,
    *,
    ranks: RanksLike,
    std: float = 1.0,
    seed: int | np.random.Generator | None = None,
    like: Array | None = None,
) -> TensorTrain:
    """Draw a tensor train with Gaussian cores whose dense entries have mean 0 and standard deviation *std*.

    >>> import ttlib
    >>> tt = ttlib.random([8, 8, 12, 8, 8], ranks=5, std=0.02, seed=0)
    >>> bool(0.015 < tt.to_tensor().std() < 0.025)
    True

    Args:
        shape: the modes.
        ranks: as for `decompose`, clipped to what the shape can carry.
        std: the standard deviation of each entry of the dense tensor, over draws; exact for any rank profile.
            (One draw has few independent numbers, so its own standard deviation scatters around it.)
        seed: an int, a numpy Generator (which then advances), or None for fresh entropy.  The same seed gives
            the same numbers for every library and device.
        like: an array whose library, dtype and device the cores take; numpy float64 by default.

    Raises:
        ShapeError, RankError: for values that cannot be; RankError also for a negative or non-finite std.
    """
    modes = check_shape(shape)
    if not (math.isfinite(std) and std >= 0):
        msg = f"std must be a finite number >= 0, got {std!r}"
        raise RankError(msg)
    bonds = clip_ranks(modes, ranks)
    generator = np.random.default_rng(seed)
    return TensorTrain(gaussian_cores(modes, bonds, std=std, generator=generator, like=like))
