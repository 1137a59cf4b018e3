"""Arrays on their way: to host memory bit by bit and back, to another device, library or dtype."""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np

from ttlib import _arrays
from ttlib._autograd import stop_gradient
from ttlib._types import Array
from ttlib.errors import BackendError


def to_host_bits(x: Array) -> np.ndarray[Any, Any]:
    """Copy *x* to host memory in C order without rounding any number; bfloat16 arrives as its bits, in int16."""
    x = stop_gradient(x)
    if hasattr(x, "cpu"):  # torch, which may have put off a conjugation or a change of sign
        x = x.cpu().resolve_conj().resolve_neg()
        x = x.view(_arrays.namespace(x).int16) if _arrays.dtype_name(x.dtype) == "bfloat16" else x
    elif hasattr(x, "get"):  # cupy
        x = x.get()
    return np.ascontiguousarray(x)


def from_host_bits(bits: np.ndarray[Any, Any], *, dtype: str, like: Array) -> Array:
    """Undo `to_host_bits`, in the library and on the device of *like*; BackendError where it has no such dtype."""
    xp = _arrays.namespace(like)
    if not hasattr(xp, dtype):
        msg = f"{_arrays.library(like)} has no {dtype}: choose another library, as with like=torch.zeros(())"
        raise BackendError(msg)
    array = xp.asarray(bits, device=_arrays.device(like))
    array = array.view(xp.bfloat16) if dtype == "bfloat16" else array
    if _arrays.dtype_name(array.dtype) != dtype:
        msg = (
            f"of {dtype} {_arrays.library(like)} made {_arrays.dtype_name(array.dtype)}: choose another library, or "
            f"allow {dtype} in this one (jax: jax_enable_x64)"
        )
        raise BackendError(msg)
    return array


def to_device(x: Array, device: Any) -> Array:
    """Move *x* to a device, in the words of its library; BackendError where there is no such device."""
    try:
        return array_api_compat.to_device(x, device)
    except Exception as error:
        msg = f"{_arrays.library(x)} cannot move an array to device {device!r}: {error}"
        raise BackendError(msg) from error


def cast(x: Array, dtype: Any) -> Array:
    """Cast, but raise BackendError where imaginary parts would be dropped."""
    if _arrays.is_complex(x) and not _arrays.namespace(x).isdtype(dtype, "complex floating"):
        msg = f"casting {_arrays.dtype_name(x.dtype)} to {_arrays.dtype_name(dtype)} would drop the imaginary parts"
        raise BackendError(msg)
    return _arrays.astype(x, dtype)


def move(x: Array, *, like: Array, dtype: Any) -> Array:
    """Return *x* in the library and on the device of *like*, through host memory if the libraries differ."""
    if _arrays.library(x) != _arrays.library(like):
        widest = _arrays.find_dtype(like, _arrays.dtype_name(_arrays.compute_dtype(x)))
        x = _arrays.from_numpy(
            _arrays.to_numpy(x).copy(), like=like, dtype=widest
        )  # libraries on the host would share the memory
    return cast(to_device(x, _arrays.device(like)), dtype)
