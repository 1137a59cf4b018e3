"""`decompose`: the public way from an array to a TensorTrain."""

from __future__ import annotations

import math
from typing import Literal, overload

from ttlib import _arrays
from ttlib._types import Array, Driver, RanksLike, ShapeLike
from ttlib.cores.decompose import DecompositionReport, tt_svd
from ttlib.errors import ShapeError
from ttlib.linalg import resolve_driver
from ttlib.ranks import check_tolerance, clip_ranks
from ttlib.shapes import check_shape
from ttlib.tensor_train import TensorTrain


@overload
def decompose(
    tensor: Array,
    /,
    *,
    shape: ShapeLike | None = None,
    ranks: RanksLike | None = None,
    eps: float | None = None,
    driver: Driver = "auto",
    return_report: Literal[False] = False,
) -> TensorTrain: ...
@overload
def decompose(
    tensor: Array,
    /,
    *,
    shape: ShapeLike | None = None,
    ranks: RanksLike | None = None,
    eps: float | None = None,
    driver: Driver = "auto",
    return_report: Literal[True],
) -> tuple[TensorTrain, DecompositionReport]: ...
def decompose(
    tensor: Array,
    /,
    *,
    shape: ShapeLike | None = None,
    ranks: RanksLike | None = None,
    eps: float | None = None,
    driver: Driver = "auto",
    return_report: bool = False,
) -> TensorTrain | tuple[TensorTrain, DecompositionReport]:
    """Decompose an array into a tensor train by TT-SVD, to given ranks, a given tolerance, or exactly.

    >>> import numpy as np, ttlib
    >>> W = np.random.default_rng(0).standard_normal((768, 64)) + 5
    >>> tt, report = ttlib.decompose(W, shape=[8, 8, 12, 8, 8], ranks=5, return_report=True)
    >>> tt
    TensorTrain(shape=(8, 8, 12, 8, 8), ranks=(1, 5, 5, 5, 5, 1), parameters=780, compression=63.0x, numpy float64)
    >>> error = np.linalg.norm(W - tt.to_matrix(768, 64)) / np.linalg.norm(W)
    >>> bool(abs(report.relative_error - error) < 1e-12)
    True

    Args:
        tensor: a numpy, torch or other array-API array of floating, complex or integer numbers, of any shape; it
            is read, never written.  Integers become float64; float16 and bfloat16 are calculated in float32 and
            the cores cast back.
        shape: the modes, whose product is the number of entries; the array is laid over them in row-major
            order (`tensor.reshape(shape)`).  Default: the shape of the array.
        ranks: a cap on the ranks: one int for every inner bond, the d-1 inner ranks, or d+1 ranks with 1 at both
            ends.  Clipped to what the shape can carry.
        eps: relative Frobenius tolerance; ||A - TT|| <= eps ||A|| is guaranteed, down to the rounding of the
            dtype.  With `ranks` too the cap wins, and `report.tolerance_met` tells.
        driver: how each truncated SVD is taken: "lapack", "qr" (QR of the long side first) or "auto".
        return_report: return (tt, report) with the exact error and the spectrum of every bond.

    Returns:
        TensorTrain: in the library, dtype and device of the input; all cores but the last are left-orthogonal.

    Raises:
        BackendError: not an array, or one of strings or booleans.
        ShapeError, RankError, NonFiniteError: what is wrong, with the value and a remedy.
        ValueError: an unknown driver, with the list of those there are.

    Source: Oseledets, Tensor-Train Decomposition, SIAM J. Sci. Comput. 33 (2011), Algorithm 1.
    """
    xp = _arrays.namespace(tensor)
    _arrays.compute_dtype(tensor)  # refuses what is not a number
    size = math.prod(tensor.shape)
    if size == 0:
        msg = f"the array of shape {tuple(tensor.shape)} holds no entries: there is nothing to decompose"
        raise ShapeError(msg)
    modes = check_shape(tuple(tensor.shape) if shape is None else shape, size=size)
    # Without a cap every bond may be as large as the tensor: clipping turns that into the largest ranks there are.
    max_ranks = clip_ranks(modes, size if ranks is None else ranks)
    tolerance = None if eps is None else check_tolerance(eps)
    resolve_driver(driver)
    _arrays.check_finite(tensor)
    cores, report = tt_svd(xp.reshape(tensor, modes), modes, max_ranks=max_ranks, eps=tolerance, driver=driver)
    tt = TensorTrain(cores)
    return (tt, report) if return_report else tt
