"""`cross`: the public way from a function of the indices to a TensorTrain."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, overload

import numpy as np

from ttlib import _arrays
from ttlib._types import Array, Cores, Shape, ShapeLike
from ttlib.cores.cross import Points, Values
from ttlib.cores.interpolation import CrossReport, EvaluationLimitError, interpolate
from ttlib.cores.scaling import deliver
from ttlib.errors import BackendError, NonFiniteError, RankError, ShapeError, TTError
from ttlib.ranks import check_tolerance, clip_ranks
from ttlib.shapes import check_integer, check_shape
from ttlib.tensor_train import TensorTrain


class Entries:
    """A function of the indices as a tensor: checked, counted, and called once at most for every entry.

    What was read is kept in a dict under the bytes of the index row.  Measured with 200,000 points: 0.2 us a point to
    make the key and look it up, as fast as a flat integer index (which overflows beyond 2**63 entries) and as
    searching in a sorted array (which would be merged anew after every batch).
    """

    def __init__(self, function: Callable[[Any], Any], shape: Shape, *, limit: int, like: Array | None) -> None:
        self.spent = 0
        self.limit = limit
        self.unit = float(np.finfo(np.float64).eps)
        self.like = like  # without one, the first array of another library than numpy that the function returns
        self._function = function
        self._indices_like = like
        self._shape = shape
        self._dtypes: set[str] = set()
        self._key_type = np.min_scalar_type(max(shape) - 1)
        self._known: dict[bytes, complex] = {}

    def read(self, points: Points, /, *, reserve: int = 0) -> Values:
        """Return the entries at *points* (m, d); EvaluationLimitError where fewer than *reserve* would be left."""
        keys = self._keys(points)
        missing = {key: row for row, key in enumerate(keys) if key not in self._known}
        if missing:
            if self.spent + len(missing) > self.limit - reserve:
                raise EvaluationLimitError(len(missing))
            values = self._evaluate(np.ascontiguousarray(points[list(missing.values())]))
            self._known.update(zip(missing, values.tolist(), strict=True))
        return np.array([self._known[key] for key in keys])

    def unread(self, points: Points, /) -> Points:
        """Return those of *points* that were never read."""
        new = np.array([key not in self._known for key in self._keys(points)], dtype=bool)
        return np.compress(new, points, axis=0)

    def convert(self, cores: Cores) -> Cores:
        """Return the cores in the library and on the device of `like`, in the dtype of the values read."""
        last, exponent = _arrays.normalise(cores[-1])
        return deliver((*cores[:-1], last), exponent, like=self.like, dtype=self._result_dtype())

    def _result_dtype(self) -> str:
        if len(self._dtypes) == 1:
            return next(iter(self._dtypes))
        return str(np.result_type(*(_HOST_DTYPES.get(name, name) for name in self._dtypes)))

    def _keys(self, points: Points) -> list[bytes]:
        packed = np.ascontiguousarray(points, dtype=self._key_type)
        keys: list[bytes] = packed.view(f"V{packed.itemsize * packed.shape[1]}")[:, 0].tolist()
        return keys

    def _evaluate(self, points: Points) -> Values:
        indices = points.copy()  # whatever the function does to its argument
        if self._indices_like is not None:
            indices = _arrays.as_indices(indices, like=self._indices_like)
        self.spent += len(points)
        returned = _as_numbers(self._function(indices))
        if tuple(returned.shape) != (len(points),):
            msg = (
                f"the function returned values of shape {tuple(returned.shape)} for {len(points)} index rows of shape "
                f"{points.shape}: it must return one value a row, of shape ({len(points)},)"
            )
            raise ShapeError(msg)
        if self.like is None and _arrays.library(returned) != "numpy":
            self.like = returned
        self._dtypes.add(_arrays.dtype_name(_arrays.result_dtype(returned)))
        values = _arrays.to_numpy(returned)
        if values.dtype.kind in "fc":
            self.unit = max(self.unit, _arrays.unit_roundoff(returned))
        finite = np.isfinite(values)
        if not finite.all():
            first = int(np.argmin(finite))
            msg = (
                f"the function is {values[first]} at index {tuple(points[first].tolist())} (and at "
                f"{int((~finite).sum()) - 1} more of {len(points)}): return finite values, or clip them in the function"
            )
            raise NonFiniteError(msg)
        return values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)


_HOST_DTYPES = {"bfloat16": "float32"}  # numpy has no such dtype


def _as_numbers(returned: Any) -> Array:
    """Return what the function returned as an array of numbers, or raise BackendError saying what it is."""
    remedy = "the function must return an array or a list of one number for every index row"
    if isinstance(returned, (list, tuple)):
        try:
            returned = np.asarray(returned)
        except ValueError:
            msg = f"the function returned a list of unequal parts: {remedy}"
            raise BackendError(msg) from None
    if not hasattr(returned, "dtype") or not hasattr(returned, "shape"):
        msg = f"the function returned {type(returned).__name__}: {remedy}"
        raise BackendError(msg)
    if isinstance(returned, np.ndarray) and returned.dtype.kind not in "iufc":
        msg = f"the function returned values of dtype {returned.dtype}: {remedy} (booleans: astype(float))"
        raise BackendError(msg)
    _arrays.compute_dtype(returned)  # the same for other libraries
    return returned


@overload
def cross(
    f: Callable[[Any], Any],
    /,
    *,
    shape: ShapeLike,
    eps: float = 1e-8,
    max_rank: int | None = None,
    max_evaluations: int = 1_000_000,
    max_sweeps: int = 40,
    seed: int | np.random.Generator | None = 0,
    like: Array | None = None,
    return_report: Literal[False] = False,
) -> TensorTrain: ...
@overload
def cross(
    f: Callable[[Any], Any],
    /,
    *,
    shape: ShapeLike,
    eps: float = 1e-8,
    max_rank: int | None = None,
    max_evaluations: int = 1_000_000,
    max_sweeps: int = 40,
    seed: int | np.random.Generator | None = 0,
    like: Array | None = None,
    return_report: Literal[True],
) -> tuple[TensorTrain, CrossReport]: ...
def cross(
    f: Callable[[Any], Any],
    /,
    *,
    shape: ShapeLike,
    eps: float = 1e-8,
    max_rank: int | None = None,
    max_evaluations: int = 1_000_000,
    max_sweeps: int = 40,
    seed: int | np.random.Generator | None = 0,
    like: Array | None = None,
    return_report: bool = False,
) -> TensorTrain | tuple[TensorTrain, CrossReport]:
    """Interpolate a function of the indices by a tensor train, reading as few entries as its ranks allow.

    >>> import numpy as np, ttlib
    >>> tt, report = ttlib.cross(lambda i: np.sin(0.01 * i.sum(axis=1)), shape=[4] * 100, return_report=True)
    >>> max(tt.ranks), report.converged, report.evaluations < 10_000
    (2, True, True)

    Entries that are never read cannot be known.  Before it says that it converged, the train is compared with a hundred
    or more entries drawn all over the tensor and as many near its pivots, none of which built it.  Where those drawn
    hold next to none of the tensor's weight, more are drawn, up to thousands, and if that stays so the report says
    "not converged", be the train right or wrong.  A feature beside a background that does carry weight, in a fraction p
    of the entries, escapes n points with probability (1 - p)^n: a single needle in 2**20 ones cannot be seen.
    A tensor that gets read whole is decomposed by TT-SVD, and the error reported is exact.

    Args:
        f: takes integer indices (B, d), int64, and returns B numbers: an array (numpy, torch …) or a list.  It is
            called with whole batches and at most once for every entry.
        shape: the modes (n1, …, nd).
        eps: relative tolerance, above 0, for the change in the last sweep and for the validation error; at least a
            few units of rounding of the values.  An estimate from samples, not the guarantee that `decompose` gives.
        max_rank: a cap on every inner rank.
        max_evaluations: how many entries may be read in all, validation included; never exceeded.
        max_sweeps: how often to go through the bonds, in either direction.
        seed: an int, a numpy Generator (which then advances), or None for fresh entropy.
        like: an array whose library and device the indices and the result take.  Default: numpy indices, and the
            library of what *f* returns.
        return_report: return (tt, report); the report tells whether it converged, and why it ended.

    Returns:
        TensorTrain: in the dtype of the values of *f*; integers become float64.

    Raises:
        ShapeError, RankError: a shape, cap or tolerance that cannot be; ShapeError also when *f* returns another
            number of values than it was given rows.
        BackendError: *f* is no function or returns no numbers.
        NonFiniteError: *f* returns NaN or infinity, with the first index.
        TTError: max_evaluations does not allow even a first train.
        Whatever *f* raises.

    Source: Savostyanov, Oseledets, 'Fast adaptive interpolation of multi-dimensional arrays in tensor train format',
        nDS 2011, section III; the differences are told in `ttlib.cores.cross`.
    """
    if not callable(f):
        msg = f"cross reads a function of the indices, got {type(f).__name__}: for an array there is ttlib.decompose"
        raise BackendError(msg)
    modes = check_shape(shape)
    tolerance = check_tolerance(eps)
    if tolerance == 0:
        msg = "eps must be above 0: samples cannot show that a train is exact; 1e-12 is about the rounding of float64"
        raise RankError(msg)
    limit = check_integer(max_evaluations, name="max_evaluations")
    sweeps = check_integer(max_sweeps, name="max_sweeps")
    max_ranks = clip_ranks(modes, math.prod(modes) if max_rank is None else max_rank)
    generator = np.random.default_rng(seed)
    entries = Entries(f, modes, limit=limit, like=like)
    try:
        cores, report = interpolate(
            entries, modes, max_ranks=max_ranks, eps=tolerance, max_sweeps=sweeps, generator=generator
        )
    except EvaluationLimitError as error:
        msg = (
            f"max_evaluations={limit:,} does not allow a first train over the shape {modes}: {entries.spent:,} entries "
            f"were read and the next step needs {error.args[0]:,} more"
        )
        raise TTError(msg) from None
    tt = TensorTrain(entries.convert(cores))
    return (tt, report) if return_report else tt
