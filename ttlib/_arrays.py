"""The only module, with `ttlib._transfer`, that knows array libraries.

A library is recognised from the array it made (array-api-compat), never imported here: whoever passes a torch
tensor has imported torch.  Algorithms use operators and the array-API standard; what the standard leaves out
(a detached host copy, the name of a library) is here.
"""

from __future__ import annotations

import functools
import math
import sys
from typing import Any

import array_api_compat
import numpy as np

from ttlib._autograd import is_abstract, is_transformed, stop_gradient
from ttlib._types import Array, Shape
from ttlib.errors import BackendError, NonFiniteError

# Linear algebra does not exist in these dtypes, on any library.
_HALF = ("float16", "bfloat16")
FLOATING = (*_HALF, "float32", "float64", "complex64", "complex128")


def namespace(*arrays: Array) -> Any:
    """Return the array-API namespace that all *arrays* share, or raise BackendError saying what they are."""
    kinds = tuple(map(type, arrays))
    found = _NAMESPACES.get(kinds)
    return found or _NAMESPACES.setdefault(kinds, _namespace(arrays))


# By the types of the arrays, which is all it depends on: asking takes longer than many a small product.  (All but
# JAX's zero gradients, which are numpy arrays and of which numpy's entry must not be made.)
_NAMESPACES: dict[tuple[type, ...], Any] = {(np.ndarray,): array_api_compat.array_namespace(np.zeros(()))}


def _namespace(arrays: tuple[Array, ...]) -> Any:
    try:
        return array_api_compat.array_namespace(*arrays)
    except TypeError:
        kinds = ", ".join(sorted({f"{type(a).__module__}.{type(a).__qualname__}" for a in arrays}))
        msg = f"expected arrays of one library (numpy, torch or another array-API library), got {kinds}"
        if any(isinstance(a, (list, tuple, int, float)) for a in arrays):
            msg += ": wrap plain Python numbers with numpy.asarray(…)"
        raise BackendError(msg) from None


def library(array: Array) -> str:
    """Return the short name of the library of *array*: 'numpy', 'torch' and so on."""
    return type(array).__module__.partition(".")[0].removesuffix("lib")  # jax arrays are made by jaxlib


def dtype_name(dtype: Any) -> str:
    """Return 'float32' for numpy.float32, numpy.dtype('float32') and torch.float32 alike."""
    kind: Any = type(dtype)
    return _dtype_name(kind, dtype)


@functools.lru_cache(maxsize=256)
def _dtype_name(kind: type, dtype: Any) -> str:  # noqa: ARG001  # dtypes of two libraries do not like to be compared
    return getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype).rpartition(".")[2]


def nbytes(array: Array) -> int:
    """Return the bytes that the elements of *array* take."""
    return int(math.prod(array.shape) * array.dtype.itemsize)


def reshape(x: Any, shape: tuple[int, ...]) -> Any:
    """Reshape in C order, by the method where there is one: it also serves values that only look like arrays."""
    if hasattr(x, "reshape"):
        return x.reshape(shape)
    return namespace(x).reshape(x, shape)


def renumbered(x: Array, axis: int, modes: Shape) -> Array:
    """Return *x* with an *axis* that is numbered by the reverse of *modes* numbered by *modes*, both in C order."""
    axes = list(range(int(x.ndim) - 1 + len(modes)))
    axes[axis : axis + len(modes)] = axes[axis : axis + len(modes)][::-1]
    split = reshape(x, (*x.shape[:axis], *modes[::-1], *x.shape[axis + 1 :]))
    return reshape(namespace(x).permute_dims(split, tuple(axes)), tuple(x.shape))


def matmul(x: Any, y: Any) -> Any:
    """Multiply two matrices, by the method where there is one: as `reshape`, for values that only look like arrays.

    Not by the operator alone: torch.compile traces a method of a plain Python class, but not its `@`.
    """
    return x.matmul(y) if hasattr(x, "matmul") else x @ y


def compute_dtype(x: Array) -> Any:
    """Return the dtype to calculate in: float32 for half precision, float64 for integers, else that of *x*.

    Results are cast back by the caller.  Raises BackendError for other dtypes, and for arrays that hold no plain
    numbers: sparse or masked ones, and those of torch's meta device.
    """
    name = dtype_name(result_dtype(x))
    return namespace(x).float32 if name in _HALF else getattr(namespace(x), name)


def result_dtype(x: Array) -> Any:
    """Return the dtype of the cores made from *x*: its own (in native byte order), or float64 for integers."""
    xp, name = namespace(x), dtype_name(x.dtype)
    kind = _kind_without_numbers(x)
    if kind:
        msg = f"{kind} cannot be decomposed: pass a dense array with numbers in it"
        raise BackendError(msg)
    if name in FLOATING:
        return getattr(xp, name, x.dtype)  # numpy has no bfloat16, but extensions of it do
    if not name.startswith("float") and xp.isdtype(x.dtype, "integral"):
        return xp.float64
    msg = f"expected an array of floating, complex or integer numbers ({', '.join(FLOATING)}), got dtype {name}"
    raise BackendError(msg)


def _kind_without_numbers(x: Array) -> str | None:
    if isinstance(x, np.ma.MaskedArray):
        return "a masked array"
    if isinstance(x, np.matrix):
        return "a numpy.matrix"
    if is_transformed(x):
        return "a tensor inside torch.func.grad or torch.func.vmap"
    if getattr(x, "is_meta", False):
        return "a tensor of the meta device"
    if "sparse" in str(getattr(x, "layout", "")):
        return "a sparse tensor"
    return None


def to_numpy(x: Array) -> np.ndarray[Any, Any]:
    """Copy *x* to host memory as a numpy array, outside any autograd graph; half precision arrives as float32."""
    x = stop_gradient(x)
    if hasattr(x, "cpu"):  # torch
        x = (x.float() if dtype_name(x.dtype) == "bfloat16" else x).cpu()  # numpy has no bfloat16
    elif hasattr(x, "get"):  # cupy
        x = x.get()
    host = np.asarray(x)
    return host.astype(np.float32) if dtype_name(host.dtype) in _HALF else host


def scalar(x: Array) -> float:
    """Return a 0-dimensional real array as a Python float, outside any autograd graph."""
    return float(to_numpy(x))


def check_finite(x: Array, *, name: str = "the input") -> None:
    """Raise NonFiniteError with the count and first index of NaN and infinities; a no-op for integers."""
    xp, x = namespace(x), stop_gradient(x)
    if xp.isdtype(x.dtype, "integral"):
        return
    try:
        if math.isfinite(largest_magnitude(x)):  # one pass, where isfinite and all take two
            return
    except Exception as error:
        if not is_abstract(x):
            raise
        msg = f"{name} has no numbers yet (JAX under jit), and ranks are chosen by numbers: call this outside of jit"
        raise BackendError(msg) from error
    bad = ~to_numpy(xp.isfinite(x))
    first = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))
    msg = (
        f"{name} of shape {tuple(x.shape)} has {int(bad.sum())} non-finite value(s) (NaN or infinity), "
        f"the first at {first}: a singular value decomposition of it is undefined; clean or mask them first"
    )
    raise NonFiniteError(msg)


def largest_magnitude(x: Array) -> float:
    """Return max |x| as a Python float (NaN if there is one); of complex numbers that of their parts.

    The magnitude of a complex number could overflow.
    """
    xp, x = namespace(x), stop_gradient(x)
    parts = (xp.real(x), xp.imag(x)) if is_complex(x) else (x,)
    extremes = [extreme(part) for part in parts for extreme in (xp.min, xp.max)]  # no array of magnitudes is made
    if any(is_abstract(extreme) for extreme in extremes):  # JAX under jit defers what is done to constants too
        host = to_numpy(x)
        extremes = [np.abs(host.real).max(), np.abs(host.imag).max()]
    magnitudes = [abs(scalar(extreme)) for extreme in extremes]
    return math.nan if any(math.isnan(magnitude) for magnitude in magnitudes) else max(magnitudes)


# Elements that are widened at a time: a few megabytes, whatever the size of the array.
_ENERGY_BLOCK = 1 << 18


def energies(x: Array) -> np.ndarray[Any, Any]:
    """Return the squared norm of every member of the stack x (B, …), summed in float64.

    A norm in single precision is off by 6e-4 at 16 million entries (torch), and everything relative is measured by it.
    """
    xp = namespace(x)
    flat = reshape(stop_gradient(x), (int(x.shape[0]), -1))
    count, size = matrix_shape(flat)
    total = np.zeros(count)
    for start in range(0, size, _ENERGY_BLOCK):
        block = astype(flat[:, start : min(start + _ENERGY_BLOCK, size)], double_dtype(x))
        total += to_numpy(xp.linalg.vector_norm(block, axis=-1)) ** 2
    return total


def is_floating(x: Array) -> bool:
    """Return whether the dtype of *x* is one of those that cores can have."""
    return dtype_name(x.dtype) in FLOATING


def is_complex(x: Array) -> bool:
    """Return whether *x* holds complex numbers."""
    return dtype_name(x.dtype) in ("complex64", "complex128")


def conj(x: Array) -> Array:
    """Return the complex conjugate; real arrays pass through."""
    return namespace(x).conj(x) if is_complex(x) else x


def adjoint(x: Array) -> Array:
    """Return the conjugate transpose of a matrix or a stack of matrices."""
    return conj(x.mT)


def unit_roundoff(x: Array, dtype: Any = None) -> float:
    """Return the distance from 1 to the next number in the dtype of *x*, or another of its library."""
    return _roundoff(namespace(x), dtype or x.dtype)


@functools.lru_cache(maxsize=256)
def _roundoff(xp: Any, dtype: Any) -> float:
    return float(xp.finfo(dtype).eps)


def exponent_range(x: Array, dtype: Any = None) -> tuple[int, int]:
    """Return the exponents, in the sense of `exponent`, of the smallest normal and the largest number of a dtype.

    That of *x*, or another of its library.
    """
    limits = namespace(x).finfo(dtype or x.dtype)
    return exponent(float(limits.smallest_normal)), exponent(float(limits.max))


# Every library can multiply by these, and by their inverses, in single precision too.
_LARGEST_POWER = 100
# Twice the exponent range of double precision: from here on every product is 0 or infinite.
_LARGEST_EXPONENT = 4_400


def ldexp(x: Array, exponent: int) -> Array:
    """Return x * 2**exponent, exact unless the result leaves the range of the dtype (then 0 or infinity)."""
    left = max(-_LARGEST_EXPONENT, min(exponent, _LARGEST_EXPONENT))
    while left:
        step = max(-_LARGEST_POWER, min(left, _LARGEST_POWER))
        x, left = x * 2.0**step, left - step
    return x


def normalise(x: Array) -> tuple[Array, int]:
    """Return y and k with x = y * 2**k and the largest magnitude of y in [1/2, 1): exact, so nothing is rounded.

    Squares of y neither overflow nor vanish where they matter.  Zeros stay zeros with k = 0, and so does what has no
    numbers yet (JAX under jit).
    """
    if is_abstract(x):
        return x, 0
    power = exponent(largest_magnitude(x))
    return ldexp(x, -power), power


def exponent(magnitude: float) -> int:
    """Return the k with magnitude = m * 2**k and m in [1/2, 1); 0 for 0."""
    return math.frexp(magnitude)[1]


def from_numpy(values: np.ndarray[Any, Any], *, like: Array | None, dtype: Any = None) -> Array:
    """Return *values* in the library and on the device of *like*, in its dtype (float64 for integers) or *dtype*."""
    if like is None:
        return values
    return namespace(like).asarray(values, dtype=dtype or result_dtype(like), device=array_api_compat.device(like))


def real_dtype(x: Array) -> Any:
    """Return the dtype of |x|."""
    xp = namespace(x)
    return {"complex64": xp.float32, "complex128": xp.float64}.get(dtype_name(x.dtype), x.dtype)


def double_dtype(x: Array) -> Any:
    """Return the double precision dtype of the kind of *x*; its own where JAX has doubles switched off."""
    if not _has_doubles(x):
        return x.dtype
    return namespace(x).complex128 if is_complex(x) else namespace(x).float64


def in_single(x: Array) -> Array:
    """Return *x* in the single precision dtype of its kind."""
    return astype(x, namespace(x).complex64 if is_complex(x) else namespace(x).float32)


def _has_doubles(x: Array) -> bool:
    return library(x) != "jax" or bool(sys.modules["jax"].config.jax_enable_x64)


def device(x: Array) -> Any:
    """Return the device of *x*, in the words of its library."""
    return array_api_compat.device(x)


def find_dtype(x: Array, dtype: Any) -> Any:
    """Return *dtype* as the library of *x* knows it, given its name ("float32") or one of any library's dtypes."""
    name = dtype if isinstance(dtype, str) else dtype_name(dtype)
    xp = namespace(x)
    found = getattr(xp, name, None) if name in FLOATING else None
    if found is None:
        msg = f"dtype {dtype!r} is not one that {library(x)} and ttlib share: choose one of {', '.join(FLOATING)}"
        raise BackendError(msg)
    return found


def as_indices(values: np.ndarray[Any, Any], *, like: Array) -> Array:
    """Return integer *values* as an index array in the library and on the device of *like*."""
    xp = namespace(like)
    dtype = xp.int64 if _has_doubles(like) else xp.int32
    return xp.asarray(values, dtype=dtype, device=array_api_compat.device(like))


def as_scalar(value: float, *, like: Array) -> Array:
    """Return a real number as a 0-dimensional array (a numpy scalar in numpy) of the library of *like*."""
    return namespace(like).asarray(value, dtype=real_dtype(like), device=array_api_compat.device(like))[()]


def triangular_factor(x: Array) -> Array:
    """Return R (…, k, n) of the QR factorisation of x (…, m, n), without forming Q where the library can."""
    if library(x) == "numpy":
        return np.linalg.qr(x, mode="r")
    if library(x) == "torch":
        return sys.modules["torch"].linalg.qr(x, mode="r").R
    return namespace(x).linalg.qr(x)[1]


def is_linalg_error(error: Exception) -> bool:
    """Return whether a library says that a factorisation did not converge; each has its own class of that name."""
    return type(error).__name__.endswith("LinAlgError")


def copied(x: Array) -> Array:
    """Return floating *x* in memory of its own, with its autograd graph."""
    return x * 1.0


def agree(x: Array, y: Array) -> bool:
    """Return whether two arrays share library, dtype and device (a JAX tracer has none to compare)."""
    devices = {str(where) for where in (device(x), device(y)) if where is not None}
    return library(x) == library(y) and x.dtype == y.dtype and len(devices) <= 1


def describe(x: Array) -> str:
    """Return library, dtype and device in words: 'torch float32 on cuda:0'."""
    return f"{library(x)} {dtype_name(x.dtype)} on {device(x)}"


def astype(x: Array, dtype: Any) -> Array:
    """Cast without a copy where the dtype is right already."""
    return x if x.dtype == dtype else namespace(x).astype(x, dtype)


def matrix_shape(x: Array) -> Shape:
    """Return the (rows, cols) of a matrix or of each matrix of a stack."""
    return int(x.shape[-2]), int(x.shape[-1])
