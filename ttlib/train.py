"""What a tensor train and a TT-matrix share: immutable cores, arithmetic, norms, canonical forms, rounding.

Everything here sees the train over single modes, `_fused()`; a subclass says what a mode is.  The methods are thin: the
mathematics is in `ttlib.cores`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, Unpack, overload

import numpy as np

from ttlib import _arrays, _autograd, _transfer
from ttlib._types import Array, Cores, Driver, Ranks, RanksLike, Shape
from ttlib.cores import algebra, canonical
from ttlib.cores.check import check_cores, ranks_of
from ttlib.cores.report import DecompositionReport
from ttlib.cores.rounding import tt_round
from ttlib.cores.scaling import balance, widen
from ttlib.cores.sketched_rounding import round_train
from ttlib.cost import compression
from ttlib.errors import BackendError, NonFiniteError, ShapeError
from ttlib.linalg import SVDDriver, TruncationOptions, resolve_driver
from ttlib.rank_selection import budget_of, ranks_for_budget
from ttlib.ranks import check_tolerance, clip_ranks
from ttlib.shapes import check_integer


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Train:
    """Cores of one library, dtype and device whose neighbouring bonds agree; see the subclasses."""

    cores: Cores

    _core_dimensions: ClassVar[int]
    _core_axes: ClassVar[str]
    # numpy scalars and arrays leave `x * train` and `x @ train` to the train
    __array_ufunc__: ClassVar[None] = None
    # or Python would walk over whatever has brackets
    __iter__: ClassVar[None] = None

    def __post_init__(self) -> None:
        if not isinstance(self.cores, Iterable) or hasattr(self.cores, "dtype"):
            msg = f"cores must be a sequence of arrays {self._core_axes}, got {type(self.cores).__name__}"
            raise ShapeError(msg)
        object.__setattr__(self, "cores", tuple(self.cores))
        check_cores(self.cores, dimensions=self._core_dimensions, axes=self._core_axes)

    # What it is

    @property
    def ranks(self) -> Ranks:
        """The d+1 bond dimensions, with a 1 at both ends."""
        return ranks_of(self.cores)

    @property
    def order(self) -> int:
        """The number of cores d."""
        return len(self.cores)

    @property
    def parameters(self) -> int:
        """Numbers stored, over all cores."""
        return sum(math.prod(core.shape) for core in self.cores)

    @property
    def size(self) -> int:
        """Numbers stored, as scipy's sparse arrays count: `nbytes` is `size` times the item size.

        The dense form has more entries: the product of all modes.
        """
        return self.parameters

    @property
    def nbytes(self) -> int:
        """Bytes stored, over all cores."""
        return sum(_arrays.nbytes(core) for core in self.cores)

    @property
    def compression(self) -> float:
        """Entries of the dense form per stored number."""
        return compression(math.prod(self._modes()), self.parameters)

    @property
    def dtype(self) -> Any:
        """The dtype of the cores."""
        return self.cores[0].dtype

    @property
    def device(self) -> Any:
        """The device of the cores, in the words of their library."""
        return _arrays.device(self.cores[0])

    # Measures

    def norm(self) -> Array:
        """Return the Frobenius norm, a real scalar, calculated in at least float32.

        >>> import ttlib
        >>> round(float((2 * ttlib.ones((3, 4, 3))).norm()), 12)
        12.0

        From orthogonal factors, so the norm of a difference keeps its digits; where autograd follows the cores, from
        the inner product instead, which has derivatives of every order.  Infinite beyond the range of the dtype (see
        `log_norm`).  Raises NonFiniteError for cores that hold NaN or infinities.
        """
        if any(_autograd.is_traced(core) for core in self.cores):
            root, exponent = algebra.root_of_square(self._working())
            return _arrays.ldexp(root, exponent)
        cores = self._finite()
        mantissa, exponent = canonical.norm(cores)
        return _arrays.ldexp(_arrays.as_scalar(mantissa, like=cores[0]), exponent)

    def log_norm(self) -> float:
        """Return the natural logarithm of the norm, finite for every train but zero (minus infinity).

        >>> import ttlib
        >>> round(ttlib.ones((10,) * 1000).log_norm(), 3)  # the norm is 10^500
        1151.293
        """
        mantissa, exponent = canonical.norm(self._finite())
        return math.log(mantissa) + exponent * math.log(2) if mantissa else -math.inf

    def dot(self, other: Self) -> Array:
        """Return the inner product sum conj(self) * other as a scalar, calculated in at least float32.

        Raises ShapeError, BackendError when the two differ in modes, library, dtype or device.
        """
        self._check_operand(other, "dot")
        mantissa, exponent = algebra.inner(self._working(), other._working())
        return _arrays.ldexp(mantissa, exponent)

    def singular_values(self) -> tuple[np.ndarray[Any, Any], ...]:
        """Return the singular values of the unfolding at each of the d-1 inner bonds, descending float64 arrays."""
        cores = tuple(_autograd.stop_gradient(core) for core in self._finite())
        auto = resolve_driver("auto")
        ((_, report),) = tt_round([cores], max_ranks=self.ranks, eps=0.0, driver=auto, dtype=cores[0].dtype)
        return report.singular_values

    # Forms

    def left_orthogonal(self) -> Self:
        """Return the same train with all cores but the last left-orthogonal: sum_i G[:, i, :]^H G[:, i, :] = I.

        Differentiable where no core is rank-deficient.  Raises NonFiniteError when a core is not finite, or the last
        one could not hold the norm (too large or too small for the dtype).
        """
        return self.orthogonal(self.order - 1)

    def right_orthogonal(self) -> Self:
        """Return the same train with all cores but the first right-orthogonal: sum_i G[:, i, :] G[:, i, :]^H = I.

        As `left_orthogonal`, mirrored.
        """
        return self.orthogonal(0)

    def orthogonal(self, centre: int) -> Self:
        """Return the mixed canonical form: left-orthogonal before core *centre*, right-orthogonal after it.

        >>> import ttlib
        >>> tt = ttlib.random((4, 5, 6), ranks=3, seed=0).orthogonal(1)
        >>> abs(float(tt.norm()) - float((tt.cores[1] ** 2).sum() ** 0.5)) < 1e-10
        True

        Args:
            centre: a core number, 0 <= centre < d (negative ones count from the end).

        Raises ShapeError, NonFiniteError.  Source: Oseledets 2011, Algorithm 2; Holtz, Rohwedder, Schneider 2012.
        """
        place = check_integer(centre, name="centre", minimum=-self.order)
        if place >= self.order:
            msg = f"centre {place} is out of range for {self.order} cores: choose {-self.order} to {self.order - 1}"
            raise ShapeError(msg)
        place %= self.order
        cores, exponent = canonical.orthogonalise(self._finite(), place)
        peak = _arrays.largest_magnitude(cores[place])
        top = exponent + _arrays.exponent(peak)
        least, most = _arrays.exponent_range(self.cores[0])
        if not (least <= top <= most or peak == 0):
            msg = (
                f"the norm, about 2**{top}, is beyond the range of {_arrays.dtype_name(self.dtype)}, and an "
                f"orthogonal form holds it in one core: divide first, or use round(), which spreads it"
            )
            raise NonFiniteError(msg)
        cores = (*cores[:place], _arrays.ldexp(cores[place], exponent), *cores[place + 1 :])
        return self._like(cores)

    @overload
    def round(self, *, return_report: Literal[False] = False, **truncation: Unpack[TruncationOptions]) -> Self: ...
    @overload
    def round(
        self, *, return_report: Literal[True], **truncation: Unpack[TruncationOptions]
    ) -> tuple[Self, DecompositionReport]: ...
    def round(
        self,
        *,
        eps: float | None = None,
        ranks: RanksLike | None = None,
        parameters: int | None = None,
        compression: float | None = None,
        driver: Driver | SVDDriver = "auto",
        return_report: bool = False,
    ) -> Self | tuple[Self, DecompositionReport]:
        """Return a train of smaller ranks, as close as asked: ||A - result|| <= eps ||A||, guaranteed.

        >>> import ttlib
        >>> tt = ttlib.random((4, 5, 6), ranks=3, seed=0)
        >>> (tt + tt).ranks, (tt + tt).round(eps=1e-10).ranks
        ((1, 6, 6, 1), (1, 3, 3, 1))

        Args:
            eps: relative Frobenius tolerance.  With a cap too the cap wins, and `report.tolerance_met` tells.
            ranks: a cap: one int, the d-1 inner ranks, or d+1 ranks with 1 at both ends.
            parameters, compression: a cap on the numbers stored, or on dense entries per stored number; the ranks
                are chosen by `ttlib.ranks_for_budget`.
            driver: as for `ttlib.decompose`, but "sketch" finds the ranks wanted in random subspaces, at n r^2 times
                the new rank a core instead of n r^3.  The error is 1.000 to 1.05 times that of exact rounding (decaying
                spectra to flat ones, measured) and not promised: with `eps` rounding is exact, for to certify an error
                costs as much.  So does a report.
            return_report: return (train, report) with the exact error and the spectrum of every bond.

        With nothing asked only what is rounding noise goes.  First derivatives flow through wherever the last value
        kept and the first one dropped differ.  Raises RankError, ShapeError, NonFiniteError.

        Source: Oseledets 2011, Algorithm 2; Al Daas et al. 2023, Algorithm 3.2 ("sketch").
        """
        modes = self._modes()
        budget = budget_of(math.prod(modes), ranks=ranks, parameters=parameters, compression=compression)
        if budget is None:
            max_ranks = clip_ranks(modes, self.ranks if ranks is None else ranks)
        else:
            spectra = [values.tolist() for values in self.singular_values()]
            max_ranks = ranks_for_budget(modes, singular_values=spectra, parameters=budget)
        tolerance = None if eps is None else check_tolerance(eps)
        cores, report = round_train(
            self._working(),
            max_ranks=max_ranks,
            eps=tolerance,
            driver=driver,
            dtype=self.dtype,
            certify=return_report,
        )
        result = self._like(cores)
        return (result, report) if return_report and report else result

    # Arithmetic

    def __add__(self, other: Self | complex) -> Self:
        if isinstance(other, Train):
            self._check_operand(other, "+")
            return self._like(algebra.add(self._fused(), other._fused()))
        if _is_number(other):
            number = _plain(other)
            train = self._promoted(number)
            if not hasattr(number, "dtype") and number == 0:  # where Python's sum() starts
                return train
            return train + train._constant_train(number)
        return NotImplemented

    __radd__ = __add__

    def __neg__(self) -> Self:
        return self * -1.0

    def __sub__(self, other: Self | complex) -> Self:
        if isinstance(other, Train):
            return self + -other
        return self + -_plain(other) if _is_number(other) else NotImplemented

    def __rsub__(self, other: complex) -> Self:
        return -self + other

    def __mul__(self, other: Self | complex) -> Self:
        """Multiply by a number, or entry by entry by a train of the same modes (Hadamard product)."""
        if isinstance(other, Train):
            self._check_operand(other, "*")
            return self._like(algebra.hadamard(self._fused(), other._fused()))
        if _is_number(other):
            number = _plain(other)
            train = self._promoted(number)
            return train._like(algebra.scale(train._fused(), number))
        return NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, other: complex) -> Self:
        if not _is_number(other):
            return NotImplemented
        number = _plain(other)
        if not hasattr(number, "dtype") and number == 0:
            msg = f"division of a {type(self).__name__} by zero"
            raise ZeroDivisionError(msg)
        train = self._promoted(number)
        cores = train._fused()
        return train._like((*cores[:-1], cores[-1] / number))

    def conj(self) -> Self:
        """Return the complex conjugate (itself where the cores are real)."""
        return type(self)(algebra.conj(self.cores))

    def kron(self, other: Self) -> Self:
        """Return the Kronecker (outer) product: the modes of this train followed by those of *other*.

        >>> import ttlib
        >>> ttlib.eye((2, 3)).kron(ttlib.eye((2,))).row_shape
        (2, 3, 2)
        """
        self._check_kind(other, "kron")
        return type(self)((*self.cores, *other.cores))

    # Conversion

    def to(self, *, dtype: Any = None, device: Any = None, like: Array | None = None) -> Self:
        """Return the train in another dtype, on another device, or in the library of another array.

        >>> import numpy as np, torch, ttlib
        >>> ttlib.ones((2, 3)).to(like=torch.zeros(1, dtype=torch.float64)).cores[0].dtype
        torch.float64

        Args:
            dtype: a name such as "float32", or a dtype of any library.
            device: in the words of the library of the cores.
            like: an array whose library, dtype and device to take; this goes through host memory and leaves any
                autograd graph.  `dtype` and `device` are applied after it.

        Raises BackendError for a dtype that is not a floating or complex one, or that would drop an imaginary part.
        """
        cores = self.cores
        if like is not None:
            _arrays.namespace(like)
            target = like.dtype if dtype is None else dtype
            cores = tuple(_transfer.move(core, like=like, dtype=_arrays.find_dtype(like, target)) for core in cores)
        elif dtype is not None:
            cores = tuple(_transfer.cast(core, _arrays.find_dtype(core, dtype)) for core in cores)
        if device is not None:
            cores = tuple(_transfer.to_device(core, device) for core in cores)
        return type(self)(cores)

    # What a subclass says, and what follows

    def _fused(self) -> Cores:
        """Return the cores as a train over single modes (r, n, r')."""
        raise NotImplementedError

    def _like(self, cores: Cores) -> Self:
        """Return a train of the same modes from cores (r, n, r'), cast to the dtype of this one."""
        raise NotImplementedError

    def _modes(self) -> Shape:
        """Return the single modes."""
        raise NotImplementedError

    def _layout(self) -> object:
        """Return what must agree for two trains to be added."""
        raise NotImplementedError

    def _working(self) -> Cores:
        return widen(self._fused())

    def _balanced(self) -> Cores:
        """Return the cores in the dtype to calculate in, safe to be multiplied one after the other."""
        return balance(self._working())

    def _finite(self) -> Cores:
        for k, core in enumerate(self.cores):
            _arrays.check_finite(core, name=f"core {k}")
        return self._working()

    def _promoted(self, number: Array | complex) -> Self:
        """Return this train in complex numbers if *number* is one and the cores are not."""
        imaginary = _arrays.is_complex(number) if hasattr(number, "dtype") else isinstance(number, complex)
        if not imaginary or _arrays.is_complex(self.cores[0]):
            return self
        name = {"float64": "complex128"}.get(_arrays.dtype_name(self.dtype), "complex64")
        return self.to(dtype=name)

    def _constant_train(self, number: Array | complex) -> Self:
        xp = _arrays.namespace(*self.cores)
        kind = {"dtype": self.dtype, "device": self.device}
        return self._like(tuple(xp.ones((1, mode, 1), **kind) for mode in self._modes())) * number

    def _check_kind(self, other: object, operation: str) -> None:
        if type(other) is not type(self):
            msg = f"{operation} needs two values of {type(self).__name__}, got {type(other).__name__}"
            raise BackendError(msg)
        self._check_backend(other, operation)

    def _check_backend(self, other: Train, operation: str) -> None:
        ours, theirs = self.cores[0], other.cores[0]
        if not _arrays.agree(ours, theirs):
            kinds = f"{_arrays.describe(ours)} and {_arrays.describe(theirs)}"
            msg = f"{operation} needs one library, dtype and device, got {kinds}: convert one with .to(…)"
            raise BackendError(msg)

    def _check_operand(self, other: object, operation: str) -> None:
        self._check_kind(other, operation)
        if self._layout() != other._layout():  # type: ignore[attr-defined]  # of our own type, as checked
            msg = f"{operation} needs equal modes, got {self._layout()} and {other._layout()}"  # type: ignore[attr-defined]
            raise ShapeError(msg)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, complex, np.number)) or getattr(value, "shape", None) == ()


def _plain(value: Any) -> Any:
    """Numpy's scalars and integers of any library as Python numbers: theirs would decide the dtype of the result."""
    if isinstance(value, (np.number, np.ndarray)) or (hasattr(value, "dtype") and not _arrays.is_floating(value)):
        return value.item()
    return value
