"""The public ways from dense arrays to trains: one tensor or matrix, or a batch of them in one call."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, Unpack, overload

import numpy as np

from ttlib import _arrays
from ttlib._blocks import RowBlocks, as_blocks
from ttlib._types import Array, Cores, Driver, RanksLike, Shape, ShapeLike
from ttlib.cores.decompose import tt_svd
from ttlib.cores.matrix import interleave, unfuse
from ttlib.cores.report import DecompositionReport
from ttlib.cores.rounding import tt_round
from ttlib.cores.streaming import tt_svd_of_blocks
from ttlib.errors import BackendError, RankError, ShapeError
from ttlib.linalg import SVDDriver, TruncationOptions, resolve_driver
from ttlib.rank_selection import budget_of, ranks_for_budget
from ttlib.ranks import check_tolerance, clip_ranks
from ttlib.shapes import check_shape
from ttlib.tensor_train import TensorTrain
from ttlib.tt_matrix import TTMatrix


@overload
def decompose(
    tensor: Array,
    /,
    *,
    shape: ShapeLike | None = None,
    return_report: Literal[False] = False,
    **truncation: Unpack[TruncationOptions],
) -> TensorTrain: ...
@overload
def decompose(
    tensor: Array,
    /,
    *,
    shape: ShapeLike | None = None,
    return_report: Literal[True],
    **truncation: Unpack[TruncationOptions],
) -> tuple[TensorTrain, DecompositionReport]: ...
def decompose(
    tensor: Array,
    /,
    *,
    shape: ShapeLike | None = None,
    ranks: RanksLike | None = None,
    eps: float | None = None,
    parameters: int | None = None,
    compression: float | None = None,
    driver: Driver | SVDDriver = "auto",
    return_report: bool = False,
) -> TensorTrain | tuple[TensorTrain, DecompositionReport]:
    """Decompose an array into a tensor train by TT-SVD: to ranks, to a tolerance, to a budget, or exactly.

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
            the cores cast back.  Or an array larger than memory, read in blocks of rows: a numpy.memmap, anything lazy
            with a shape, a dtype and [start:stop] (safetensors slices, h5py, zarr), a Dask array; the cores are numpy
            arrays then.
        shape: the modes, whose product is the number of entries; the array is laid over them in row-major
            order (`tensor.reshape(shape)`).  Default: the shape of the array.
        ranks: a cap on the ranks: one int for every inner bond, the d-1 inner ranks, or d+1 ranks with 1 at both
            ends.  Clipped to what the shape can carry.
        eps: relative Frobenius tolerance, 0 to 1; ||A - TT|| <= eps ||A|| is guaranteed, down to the rounding of
            the dtype.  With a cap too the cap wins, and `report.tolerance_met` tells.
        parameters, compression: a cap on the numbers stored, or on dense entries per stored number, instead of
            `ranks`; `ttlib.ranks_for_budget` spends it where it saves most.
        driver: how truncated SVDs are taken: "lapack", one bond at a time; "qr" (triangular factor of the long side
            first); "gram" and "auto" (eigenvectors of Gram matrices, or one of those two where they could not see the
            error); "sketch" (randomised where that pays, residual measured, within about 1 % of the best error); or a
            function that passes `ttlib.testing.check_driver`.  All but "lapack" and functions read several modes at
            once (`ttlib.sweep_plan`).
        return_report: return (tt, report) with the exact error and the spectrum of every bond.

    Returns:
        TensorTrain: in the library, dtype and device of the input; all cores but the last are left-orthogonal, or all
        but the first right-orthogonal where `report.from_right` says so (never with capped ranks).
        First derivatives flow through (of functions of the tensor it represents), equal singular values included.

    Raises:
        BackendError: not an array, or one of strings or booleans.
        ShapeError, RankError, NonFiniteError, UnknownDriverError: what is wrong, with the value and a remedy.

    Source: Oseledets, Tensor-Train Decomposition, SIAM J. Sci. Comput. 33 (2011), Algorithm 1.
    """
    options = TruncationOptions(ranks=ranks, eps=eps, parameters=parameters, compression=compression, driver=driver)
    source = as_blocks(tensor)
    if isinstance(source, RowBlocks):
        train, report = _decompose_blocks(source, shape, **options)
        return (train, report) if return_report else train
    trains, reports = decompose_batch([source], shape=shape, return_report=True, **options)
    return (trains[0], reports[0]) if return_report else trains[0]


@overload
def decompose_matrix(
    matrix: Array,
    /,
    *,
    row_shape: ShapeLike,
    col_shape: ShapeLike,
    return_report: Literal[False] = False,
    **truncation: Unpack[TruncationOptions],
) -> TTMatrix: ...
@overload
def decompose_matrix(
    matrix: Array,
    /,
    *,
    row_shape: ShapeLike,
    col_shape: ShapeLike,
    return_report: Literal[True],
    **truncation: Unpack[TruncationOptions],
) -> tuple[TTMatrix, DecompositionReport]: ...
def decompose_matrix(
    matrix: Array,
    /,
    *,
    row_shape: ShapeLike,
    col_shape: ShapeLike,
    ranks: RanksLike | None = None,
    eps: float | None = None,
    parameters: int | None = None,
    compression: float | None = None,
    driver: Driver | SVDDriver = "auto",
    return_report: bool = False,
) -> TTMatrix | tuple[TTMatrix, DecompositionReport]:
    """Decompose a matrix into a TT-matrix, whose k-th core holds the k-th row mode and the k-th column mode.

    >>> import numpy as np, ttlib
    >>> W = np.kron(np.arange(6.0).reshape(2, 3), np.ones((4, 5)))
    >>> ttlib.decompose_matrix(W, row_shape=[2, 4], col_shape=[3, 5])
    TTMatrix(row_shape=(2, 4), col_shape=(3, 5), ranks=(1, 1, 1), parameters=26, compression=4.6x, numpy float64)

    Args:
        matrix: (rows, cols) with rows = m1 … md and cols = n1 … nd; dtypes as for `decompose`.
        row_shape, col_shape: as many row modes (m1, …, md) as column modes (n1, …, nd).
        ranks, eps, parameters, compression, driver, return_report: as for `decompose`; a bond k can carry at most the
            product of the m n on either side of it.

    Raises:
        ShapeError: for sizes that do not fit, or different numbers of row and column modes; otherwise as `decompose`.

    Source: Oseledets, Approximation of 2^d x 2^d matrices using tensor decomposition, SIAM J. Matrix Anal. Appl. 31
    (2010); Oseledets 2011, section 4.3.
    """
    options = TruncationOptions(ranks=ranks, eps=eps, parameters=parameters, compression=compression, driver=driver)
    found, reports = decompose_matrix_batch(
        [matrix], row_shape=row_shape, col_shape=col_shape, return_report=True, **options
    )
    return (found[0], reports[0]) if return_report else found[0]


@overload
def decompose_batch(
    tensors: Sequence[Array] | Array,
    /,
    *,
    shape: ShapeLike | None = None,
    return_report: Literal[False] = False,
    **truncation: Unpack[TruncationOptions],
) -> list[TensorTrain]: ...
@overload
def decompose_batch(
    tensors: Sequence[Array] | Array,
    /,
    *,
    shape: ShapeLike | None = None,
    return_report: Literal[True],
    **truncation: Unpack[TruncationOptions],
) -> tuple[list[TensorTrain], list[DecompositionReport]]: ...
def decompose_batch(
    tensors: Sequence[Array] | Array,
    /,
    *,
    shape: ShapeLike | None = None,
    return_report: bool = False,
    **truncation: Unpack[TruncationOptions],
) -> list[TensorTrain] | tuple[list[TensorTrain], list[DecompositionReport]]:
    """Decompose arrays of equal size in one sweep over the whole stack: one SVD call a bond, not one an array.

    >>> import numpy as np, ttlib
    >>> weights = np.random.default_rng(0).standard_normal((3, 64, 32))
    >>> trains, reports = ttlib.decompose_batch(weights, shape=[8, 8, 8, 4], eps=0.5, return_report=True)
    >>> len(trains), {tt.ranks for tt in trains}, max(r.relative_error for r in reports) <= 0.5
    (3, {(1, 7, 21, 4, 1)}, True)

    Args:
        tensors: a sequence of arrays of one library, dtype, device and size, or one array whose first axis numbers
            them.
        shape, ranks, eps, parameters, compression, driver, return_report: as for `decompose`.

    Returns:
        One TensorTrain an array (and one report), all of the same ranks: a bond keeps what the most demanding member
        needs, so every member meets the tolerance and their cores can be stacked.

    Raises:
        As `decompose`, and ShapeError, BackendError for members that differ.
    """
    members = _members(tensors)
    modes = check_shape(tuple(members[0].shape) if shape is None else shape, size=math.prod(members[0].shape))
    laid_out = [_arrays.namespace(member).reshape(member, modes) for member in members]
    found = _decompose(laid_out, modes, **truncation)
    trains = [TensorTrain(cores) for cores, _ in found]
    return (trains, [report for _, report in found]) if return_report else trains


@overload
def decompose_matrix_batch(
    matrices: Sequence[Array] | Array,
    /,
    *,
    row_shape: ShapeLike,
    col_shape: ShapeLike,
    return_report: Literal[False] = False,
    **truncation: Unpack[TruncationOptions],
) -> list[TTMatrix]: ...
@overload
def decompose_matrix_batch(
    matrices: Sequence[Array] | Array,
    /,
    *,
    row_shape: ShapeLike,
    col_shape: ShapeLike,
    return_report: Literal[True],
    **truncation: Unpack[TruncationOptions],
) -> tuple[list[TTMatrix], list[DecompositionReport]]: ...
def decompose_matrix_batch(
    matrices: Sequence[Array] | Array,
    /,
    *,
    row_shape: ShapeLike,
    col_shape: ShapeLike,
    return_report: bool = False,
    **truncation: Unpack[TruncationOptions],
) -> list[TTMatrix] | tuple[list[TTMatrix], list[DecompositionReport]]:
    """Decompose matrices of equal size into TT-matrices in one sweep over the whole stack.

    >>> import numpy as np, ttlib
    >>> weights = np.random.default_rng(0).standard_normal((3, 24, 6))
    >>> [A.ranks for A in ttlib.decompose_matrix_batch(weights, row_shape=[4, 6], col_shape=[2, 3], ranks=4)]
    [(1, 4, 1), (1, 4, 1), (1, 4, 1)]

    Arguments, results and errors: those of `decompose_matrix`, with the batch of `decompose_batch`.
    """
    members = _members(matrices)
    rows, cols = check_shape(row_shape), check_shape(col_shape)
    if len(rows) != len(cols):
        msg = (
            f"a TT-matrix pairs row modes with column modes, got {len(rows)} row modes {rows} and {len(cols)} column "
            f"modes {cols}: pad the shorter list with 1s"
        )
        raise ShapeError(msg)
    sides = (math.prod(rows), math.prod(cols))
    if tuple(members[0].shape) != sides:
        msg = (
            f"row modes {rows} and column modes {cols} make a {sides[0]} x {sides[1]} matrix, got an array of shape "
            f"{tuple(members[0].shape)}"
        )
        raise ShapeError(msg)
    laid_out = [interleave(member, rows, cols) for member in members]
    found = _decompose(laid_out, tuple(m * n for m, n in zip(rows, cols, strict=True)), **truncation)
    values = [TTMatrix(unfuse(cores, rows, cols)) for cores, _ in found]
    return (values, [report for _, report in found]) if return_report else values


def _members(tensors: Sequence[Array] | Array) -> list[Array]:
    """Return the arrays of a batch, checked to be of one library, dtype, device and size, with something in them."""
    if hasattr(tensors, "dtype") and tensors.ndim > 0:  # type: ignore[union-attr]
        members = [tensors[k, ...] for k in range(tensors.shape[0])]  # type: ignore[union-attr,call-overload]
    elif isinstance(tensors, Iterable) and not hasattr(tensors, "dtype"):
        members = list(tensors)
    else:
        msg = f"a batch is a sequence of arrays, or an array whose first axis numbers its members, got {tensors!r}"
        raise ShapeError(msg)
    if not members:
        msg = "the batch is empty: there is nothing to decompose"
        raise ShapeError(msg)
    _arrays.namespace(*members)
    first = members[0]
    _arrays.compute_dtype(first)  # refuses what is not a number
    for k, member in enumerate(members):
        if math.prod(member.shape) == 0:
            msg = f"the array of shape {tuple(member.shape)} holds no entries: there is nothing to decompose"
            raise ShapeError(msg)
        if tuple(member.shape) != tuple(first.shape):
            msg = f"array {k} of the batch has shape {tuple(member.shape)}, array 0 has {tuple(first.shape)}"
            raise ShapeError(msg)
        if not _arrays.agree(member, first):
            msg = (
                f"array {k} of the batch is {_arrays.describe(member)}, array 0 is {_arrays.describe(first)}: convert "
                f"them to one dtype and device"
            )
            raise BackendError(msg)
    return members


def _decompose_blocks(
    blocks: RowBlocks,
    shape: ShapeLike | None,
    *,
    ranks: RanksLike | None = None,
    eps: float | None = None,
    parameters: int | None = None,
    compression: float | None = None,
    driver: Driver | SVDDriver = "auto",
) -> tuple[TensorTrain, DecompositionReport]:
    size = blocks.size
    modes = check_shape(blocks.shape if shape is None else shape, size=size)
    budget = budget_of(size, ranks=ranks, parameters=parameters, compression=compression)
    if budget is not None:
        msg = (
            f"a budget of {budget} parameters is spent by the spectra of an exact train, which an array of "
            f"{size} entries read in blocks does not have in memory: give ranks or eps"
        )
        raise RankError(msg)
    cores, report = tt_svd_of_blocks(
        blocks,
        modes,
        max_ranks=clip_ranks(modes, size if ranks is None else ranks),
        eps=None if eps is None else check_tolerance(eps),
        driver=resolve_driver(driver),
    )
    return TensorTrain(cores), report


def _decompose(
    tensors: list[Array],
    modes: Shape,
    *,
    ranks: RanksLike | None = None,
    eps: float | None = None,
    parameters: int | None = None,
    compression: float | None = None,
    driver: Driver | SVDDriver = "auto",
) -> list[tuple[Cores, DecompositionReport]]:
    size = math.prod(modes)
    budget = budget_of(size, ranks=ranks, parameters=parameters, compression=compression)
    # Without a cap every bond may be as large as the tensor: clipping turns that into the largest ranks there are.
    max_ranks = clip_ranks(modes, size if ranks is None else ranks)
    tolerance = None if eps is None else check_tolerance(eps)
    svd = resolve_driver(driver)
    dtype = _arrays.result_dtype(tensors[0])
    if budget is None:
        return tt_svd(tensors, modes, max_ranks=max_ranks, eps=tolerance, driver=svd, dtype=dtype)
    # The spectra of all bonds decide who gets the budget, so the exact train comes first and is cut afterwards.
    wide = _arrays.compute_dtype(tensors[0])
    found = tt_svd(tensors, modes, max_ranks=max_ranks, eps=None, driver=svd, dtype=wide)
    spectra = [
        np.max(np.stack(bond), axis=0).tolist() for bond in zip(*(r.singular_values for _, r in found), strict=True)
    ]
    caps = ranks_for_budget(modes, singular_values=spectra, parameters=budget)
    return tt_round([cores for cores, _ in found], max_ranks=caps, eps=tolerance, driver=svd, dtype=dtype)
