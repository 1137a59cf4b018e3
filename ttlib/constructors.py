"""Trains made from nothing or from vectors: random ones with a stated spread, constants, identities, rank one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ttlib import _arrays
from ttlib._types import Array, Cores, RanksLike, Shape, ShapeLike
from ttlib.cores.initialize import gaussian_cores, orthogonal_cores
from ttlib.errors import RankError, ShapeError
from ttlib.ranks import clip_ranks, real_number
from ttlib.shapes import check_shape
from ttlib.tensor_train import TensorTrain
from ttlib.tt_matrix import TTMatrix


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
            (One draw has few independent numbers, so its own standard deviation scatters around it; that of
            `random_orthogonal` does not.)
        seed: an int, a numpy Generator (which then advances), or None for fresh entropy.  The same seed gives
            the same numbers for every library and device.
        like: an array whose library, dtype and device the cores take; numpy float64 by default.

    Raises:
        ShapeError, RankError: for values that cannot be; RankError also for a negative or non-finite std.
    """
    return _drawn(gaussian_cores, shape, ranks, std, seed, like)


def random_orthogonal(
    shape: ShapeLike,
    /,
    *,
    ranks: RanksLike,
    std: float = 1.0,
    seed: int | np.random.Generator | None = None,
    like: Array | None = None,
) -> TensorTrain:
    """Draw a tensor train of uniformly random left-orthogonal cores whose dense entries have root mean square *std*.

    >>> import ttlib
    >>> tt = ttlib.random_orthogonal([8, 8, 12, 8, 8], ranks=5, std=0.02, seed=0)
    >>> round(float(tt.norm()) / (8 * 8 * 12 * 8 * 8) ** 0.5, 12)
    0.02

    Unlike Gaussian cores, whose entries are products with heavy tails, these give the stated size in every draw, and
    every bond starts well conditioned.  Arguments and errors: as for `random`.
    """
    return _drawn(orthogonal_cores, shape, ranks, std, seed, like)


def ones(shape: ShapeLike, /, *, like: Array | None = None) -> TensorTrain:
    """Return the train of ranks 1 whose entries are all 1.

    >>> import ttlib
    >>> float((3 * ttlib.ones((10, 10)))[4, 2])
    3.0

    `like`: an array whose library, dtype and device the cores take; numpy float64 by default.  Raises ShapeError.
    """
    return TensorTrain(_constant_cores(check_shape(shape), 1.0, like))


def zeros(shape: ShapeLike, /, *, like: Array | None = None) -> TensorTrain:
    """Return the train of ranks 1 whose entries are all 0; as `ones`.

    >>> import ttlib
    >>> float(ttlib.zeros((10, 10)).norm())
    0.0
    """
    return TensorTrain(_constant_cores(check_shape(shape), 0.0, like))


def eye(row_shape: ShapeLike, /, *, like: Array | None = None) -> TTMatrix:
    """Return the identity matrix as a TTMatrix of ranks 1 with row and column modes *row_shape*.

    >>> import ttlib
    >>> float(ttlib.eye((4, 5)).trace())
    20.0

    `like`: an array whose library, dtype and device the cores take; numpy float64 by default.  Raises ShapeError.
    """
    modes = check_shape(row_shape)
    return TTMatrix(tuple(_arrays.from_numpy(np.eye(mode)[None, :, :, None], like=like) for mode in modes))


def rank_one(vectors: Sequence[Array], /) -> TensorTrain:
    """Return the outer product of vectors (n1,), …, (nd,) as a train of ranks 1.

    >>> import numpy as np, ttlib
    >>> ttlib.rank_one([np.array([1.0, 2.0]), np.array([3.0, 4.0, 5.0])]).to_tensor().tolist()
    [[3.0, 4.0, 5.0], [6.0, 8.0, 10.0]]

    Args:
        vectors: one-dimensional arrays of one library, dtype and device; integers become float64.

    Raises:
        ShapeError: for no vectors, or one that is not one-dimensional or is empty; BackendError for mixed ones.
    """
    cores = []
    for k, vector in enumerate(vectors):
        _arrays.compute_dtype(vector)  # refuses what is not a number
        if vector.ndim != 1 or vector.shape[0] == 0:
            msg = f"vector {k} has shape {tuple(vector.shape)}: rank_one takes one-dimensional arrays with entries"
            raise ShapeError(msg)
        floating = _arrays.astype(vector, _arrays.result_dtype(vector))
        cores.append(_arrays.copied(_arrays.reshape(floating, (1, -1, 1))))
    return TensorTrain(tuple(cores))


def _constant_cores(shape: Shape, value: float, like: Array | None) -> Cores:
    return tuple(_arrays.from_numpy(np.full((1, mode, 1), value), like=like) for mode in shape)


def _drawn(
    draw: Callable[..., Cores],
    shape: ShapeLike,
    ranks: RanksLike,
    std: float,
    seed: int | np.random.Generator | None,
    like: Array | None,
) -> TensorTrain:
    modes = check_shape(shape)
    bonds = clip_ranks(modes, ranks)
    generator = np.random.default_rng(seed)
    return TensorTrain(draw(modes, bonds, std=_check_std(std), generator=generator, like=like))


def _check_std(std: float) -> float:
    value = real_number(std)
    if not (math.isfinite(value) and value >= 0):
        msg = f"std must be a finite number >= 0, got {std!r}"
        raise RankError(msg)
    return value
