"""`complete`: the public way from samples of a tensor to a TensorTrain."""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import numpy as np

from ttlib import _arrays
from ttlib._types import Array, Cores, Ranks, RanksLike, Shape, ShapeLike
from ttlib.cores.complete import CompletionReport, Samples, constant_start, fit
from ttlib.cores.scaling import deliver
from ttlib.errors import BackendError, RankError, ShapeError
from ttlib.indexing import check_indices
from ttlib.ranks import check_tolerance, clip_ranks, real_number
from ttlib.shapes import check_integer, check_shape
from ttlib.tensor_train import TensorTrain

Numbers = np.ndarray[Any, Any]


@overload
def complete(
    indices: Array,
    values: Array,
    /,
    *,
    shape: ShapeLike,
    ranks: RanksLike,
    eps: float = 1e-8,
    max_sweeps: int = 200,
    regularization: float = 0.01,
    validation: float = 0.1,
    initial: TensorTrain | None = None,
    seed: int | np.random.Generator | None = 0,
    return_report: Literal[False] = False,
) -> TensorTrain: ...
@overload
def complete(
    indices: Array,
    values: Array,
    /,
    *,
    shape: ShapeLike,
    ranks: RanksLike,
    eps: float = 1e-8,
    max_sweeps: int = 200,
    regularization: float = 0.01,
    validation: float = 0.1,
    initial: TensorTrain | None = None,
    seed: int | np.random.Generator | None = 0,
    return_report: Literal[True],
) -> tuple[TensorTrain, CompletionReport]: ...
def complete(
    indices: Array,
    values: Array,
    /,
    *,
    shape: ShapeLike,
    ranks: RanksLike,
    eps: float = 1e-8,
    max_sweeps: int = 200,
    regularization: float = 0.01,
    validation: float = 0.1,
    initial: TensorTrain | None = None,
    seed: int | np.random.Generator | None = 0,
    return_report: bool = False,
) -> TensorTrain | tuple[TensorTrain, CompletionReport]:
    """Fit a tensor train to samples of a tensor, by alternating least squares with growing ranks.

    >>> import numpy as np, ttlib
    >>> indices = np.random.default_rng(0).integers(10, size=(2000, 6))   # 2000 of a million entries
    >>> values = np.sin(0.2 * indices.sum(axis=1))
    >>> tt, report = ttlib.complete(indices, values, shape=[10] * 6, ranks=3, return_report=True)
    >>> report.converged, report.validation_error < 1e-7
    (True, True)

    The ranks are a cap: they grow from 1, and the train with the smallest error on the held-out samples is returned,
    be it one of smaller ranks.  Read `report.validation_error`: a small training residual alone proves nothing.

    Args:
        indices: integers (m, d), one multi-index a sample, as an array or a list; multi-indices may repeat, negative
            indices count from the end.
        values: an array of m floating, complex or integer numbers.
        shape: the modes (n1, …, nd).
        ranks: a cap on the ranks: one int, the d-1 inner ranks, or d+1 ranks with 1 at both ends.
        eps: relative error, on training and held-out samples alike, at which the fit ends as converged; at least a
            few units of rounding of the values.
        max_sweeps: how often to go through the cores, in either direction.
        regularization: weight of the mean square of the whole tensor against that of the residual, times the relative
            residual squared, so that it vanishes as the fit becomes exact.  0 turns it off.
        validation: the fraction of the samples, below 1, that is held out to choose the best train.
        initial: a train of this shape, of ranks within *ranks*, to start from.
        seed: an int, a numpy Generator (which then advances), or None for fresh entropy.
        return_report: return (tt, report).

    Returns:
        TensorTrain: in the library, dtype and device of *values*; integers become float64.  It is calculated on the
        host in double precision.

    Raises:
        ShapeError: arrays that do not fit each other or the shape, an index out of range.
        RankError: ranks, a tolerance or a weight that cannot be; an initial train beyond the ranks.
        BackendError: no arrays, indices that are no integers, values that are no numbers.
        NonFiniteError: NaN or infinity among the values.

    Source: Grasedyck, Kluge, Kraemer, 'Variants of alternating least squares tensor completion in the tensor train
        format', SIAM J. Sci. Comput. 37 (2015); the differences are told in `ttlib.cores.complete`.
    """
    modes = check_shape(shape)
    max_ranks = clip_ranks(modes, ranks)
    rows = check_indices(indices, modes)
    if len(rows) == 0:
        msg = "there are no samples: give at least one row of indices with its value"
        raise ShapeError(msg)
    scaled, exponent, unit = _check_values(values, len(rows))
    tolerance = max(check_tolerance(eps), 4 * unit)
    sweeps = check_integer(max_sweeps, name="max_sweeps")
    _check_weights(regularization, validation)
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(rows))
    held = min(round(validation * len(rows)), len(rows) - 1)
    training, held_out = (Samples.group(rows[part], scaled[part], modes) for part in (order[held:], order[:held]))
    if initial is None:
        start = constant_start(modes, generator, size=1.0 if scaled.any() else 0.0)
    else:
        start = _check_initial(initial, modes, max_ranks, exponent)
    cores, report = fit(
        training,
        held_out,
        start,
        max_ranks=max_ranks,
        eps=tolerance,
        max_sweeps=sweeps,
        regularization=regularization,
        generator=generator,
    )
    dtype = _arrays.dtype_name(_arrays.result_dtype(values))
    tt = TensorTrain(deliver([np.asarray(core) for core in cores], exponent, like=values, dtype=dtype))
    return (tt, report) if return_report else tt


def _check_values(values: Array, count: int) -> tuple[Numbers, int, float]:
    """Return the values in double precision without a power of two, that power, and the rounding of their dtype."""
    dtype = _arrays.compute_dtype(values)
    if tuple(values.shape) != (count,):
        msg = f"values have shape {tuple(values.shape)}, but there are {count} rows of indices: give one value a row"
        raise ShapeError(msg)
    _arrays.check_finite(values)
    host = _arrays.to_numpy(values)
    host = host.astype(np.complex128 if host.dtype.kind == "c" else np.float64)
    unit = _arrays.unit_roundoff(values) if dtype == values.dtype or host.dtype.kind == "c" else 0.0
    scaled, exponent = _arrays.normalise(host)
    return scaled, exponent, unit


def _check_weights(regularization: float, validation: float) -> None:
    if not 0 <= real_number(regularization) < math.inf:
        msg = f"regularization must be a finite number >= 0, got {regularization!r}"
        raise RankError(msg)
    if not 0 <= real_number(validation) < 1:
        msg = f"validation is the fraction of the samples that is held out, in [0, 1), got {validation!r}"
        raise RankError(msg)


def _check_initial(initial: TensorTrain, shape: Shape, max_ranks: Ranks, exponent: int) -> Cores:
    """Return the cores of the initial train on the host, in the scale of the values."""
    if not isinstance(initial, TensorTrain):
        msg = f"initial must be a TensorTrain, got {type(initial).__name__}"
        raise BackendError(msg)
    if initial.shape != shape:
        msg = f"the initial train has shape {initial.shape}, the tensor {shape}: start from a train of the same shape"
        raise ShapeError(msg)
    if any(rank > most for rank, most in zip(initial.ranks, max_ranks, strict=True)):
        msg = f"the initial train has ranks {initial.ranks}, beyond {max_ranks}: round it, initial.round(ranks=…)"
        raise RankError(msg)
    cores = [_arrays.to_numpy(core) for core in initial.cores]
    cores = [core.astype(np.complex128 if core.dtype.kind == "c" else np.float64) for core in cores]
    last, power = _arrays.normalise(cores[-1])
    return (*cores[:-1], _arrays.ldexp(last, power - exponent))
