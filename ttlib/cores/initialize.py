"""Random cores: with a stated spread of the entries they make, or orthogonal."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from ttlib._arrays import dtype_name, from_numpy, result_dtype
from ttlib._types import Array, Cores, Ranks, Shape
from ttlib.cores.scaling import deliver


def core_std(ranks: Ranks, std: float) -> float:
    """Return the standard deviation of core entries that gives the dense entries standard deviation *std*.

    An entry of the tensor is a sum over prod(r_1 … r_{d-1}) paths, each a product of d independent entries, so
    std^2 = prod(ranks) * core_std^(2 d), for any rank profile.
    """
    if std == 0:
        return 0.0
    order = len(ranks) - 1
    log_std = (math.log(std) - 0.5 * sum(math.log(rank) for rank in ranks)) / order
    return math.exp(log_std)


def gaussian_cores(
    shape: Shape, ranks: Ranks, *, std: float, generator: np.random.Generator, like: Array | None = None
) -> Cores:
    """Draw independent Gaussian cores, on the host and in float64, then convert to the library of *like*.

    One generator for every backend: the same seed gives the same numbers under numpy and torch, on any device.
    """
    scale = core_std(ranks, std)
    return tuple(
        from_numpy(scale * generator.standard_normal((left, mode, right)), like=like)
        for mode, (left, right) in zip(shape, pairwise(ranks), strict=True)
    )


def orthogonal_cores(
    shape: Shape, ranks: Ranks, *, std: float, generator: np.random.Generator, like: Array | None = None
) -> Cores:
    """Draw left-orthogonal cores, uniformly (by the Haar measure), and a last core that sets the norm.

    The norm is std * sqrt(entries), so the mean square of the dense entries is std^2 in every draw, where
    Gaussian cores only have it on average.  *ranks* must be clipped to the shape.
    """
    cores = []
    for mode, (left, right) in zip(shape[:-1], pairwise(ranks[:-1]), strict=True):
        q, r = np.linalg.qr(generator.standard_normal((left * mode, right)))
        cores.append((q * np.sign(np.diagonal(r))).reshape(left, mode, right))  # the signs make it uniform
    last = generator.standard_normal((ranks[-2], shape[-1], 1))
    # In powers of two: the number of entries may be beyond any float.
    exponent, fraction = divmod(0.5 * sum(math.log2(mode) for mode in shape), 1.0)
    last *= std * 2.0**fraction / np.linalg.norm(last)
    dtype = "float64" if like is None else dtype_name(result_dtype(like))
    return deliver([*cores, last], int(exponent), like=like, dtype=dtype)
