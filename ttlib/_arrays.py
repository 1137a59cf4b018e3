"""The only module that knows array libraries.

A library is recognised from the array it made (array-api-compat), never imported here: whoever passes a torch
tensor has imported torch.  Algorithms use operators and the array-API standard; what the standard leaves out
(a detached host copy, the name of a library) is here.
"""

from __future__ import annotations

import math
from typing import Any

import array_api_compat
import numpy as np

from ttlib._types import Array, Shape
from ttlib.errors import BackendError, NonFiniteError


def namespace(*arrays: Array) -> Any:
    """Return the array-API namespace that all *arrays* share, or raise BackendError saying what they are."""
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
    return type(array).__module__.partition(".")[0]


def dtype_name(dtype: Any) -> str:
    """Return 'float32' for numpy.float32, numpy.dtype('float32') and torch.float32 alike."""
    return getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype).rpartition(".")[2]


def nbytes(array: Array) -> int:
    """Return the bytes that the elements of *array* take."""
    return int(math.prod(array.shape) * array.dtype.itemsize)


def reshape(x: Any, shape: tuple[int, ...]) -> Any:
    """Reshape in C order, by the method where there is one: it also serves values that only look like arrays."""
    if hasattr(x, "reshape"):
        return x.reshape(shape)
    return namespace(x).reshape(x, shape)


def matmul(x: Any, y: Any) -> Any:
    """Multiply two matrices, by the method where there is one: as `reshape`, for values that only look like arrays.

    Not by the operator alone: torch.compile traces a method of a plain Python class, but not its `@`.
    """
    return x.matmul(y) if hasattr(x, "matmul") else x @ y


def compute_dtype(x: Array) -> Any:
    """Return the dtype to calculate in: float32 for half precision, float64 for integers, else that of *x*.

    Linear algebra does not exist in half precision, on any library; results are cast back by the caller.
    """
    xp = namespace(x)
    if xp.isdtype(x.dtype, ("real floating", "complex floating")):
        return xp.float32 if dtype_name(x.dtype) in ("float16", "bfloat16") else x.dtype
    if xp.isdtype(x.dtype, "integral"):
        return xp.float64
    msg = f"expected an array of floating, complex or integer numbers, got dtype {dtype_name(x.dtype)}"
    raise BackendError(msg)


def result_dtype(x: Array) -> Any:
    """Return the dtype of the cores made from *x*: its own, or float64 for integers."""
    xp = namespace(x)
    return xp.float64 if xp.isdtype(x.dtype, "integral") else x.dtype


def to_numpy(x: Array) -> np.ndarray[Any, Any]:
    """Copy *x* to host memory as a numpy array, outside any autograd graph; half precision arrives as float32."""
    if hasattr(x, "detach"):
        x = x.detach()
        if dtype_name(x.dtype) == "bfloat16":  # numpy has no such dtype
            x = x.float()
        x = x.cpu()
    elif hasattr(x, "get"):  # cupy
        x = x.get()
    host = np.asarray(x)
    return host.astype(np.float32) if host.dtype == np.float16 else host


def scalar(x: Array) -> float:
    """Return a 0-dimensional real array as a Python float, outside any autograd graph."""
    return float(to_numpy(x))


def check_finite(x: Array) -> None:
    """Raise NonFiniteError with the count and first index of NaN and infinities; a no-op for integers."""
    xp = namespace(x)
    if xp.isdtype(x.dtype, "integral"):
        return
    finite = xp.isfinite(x)
    if bool(xp.all(finite)):
        return
    bad = ~to_numpy(finite)
    first = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))
    msg = (
        f"the input of shape {tuple(x.shape)} has {int(bad.sum())} non-finite value(s) (NaN or infinity), "
        f"the first at {first}: a singular value decomposition of it is undefined; clean or mask them first"
    )
    raise NonFiniteError(msg)


def largest_magnitude(x: Array) -> float:
    """Return max |x| as a Python float."""
    xp = namespace(x)
    return scalar(xp.max(xp.abs(x)))


def from_numpy(values: np.ndarray[Any, Any], *, like: Array | None) -> Array:
    """Return *values* in the library, on the device and, if floating, in the dtype of *like*."""
    if like is None:
        return values
    xp = namespace(like)
    return xp.asarray(values, dtype=result_dtype(like), device=array_api_compat.device(like))


def device(x: Array) -> Any:
    """Return the device of *x*, in the words of its library."""
    return array_api_compat.device(x)


def astype(x: Array, dtype: Any) -> Array:
    """Cast without a copy where the dtype is right already."""
    return x if x.dtype == dtype else namespace(x).astype(x, dtype)


def matrix_shape(x: Array) -> Shape:
    """Return the (rows, cols) of a two-dimensional array."""
    rows, cols = x.shape
    return int(rows), int(cols)
