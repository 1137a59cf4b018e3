"""Indices into tensors: what a caller may write between brackets, checked against the modes."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from ttlib import _arrays
from ttlib._types import Shape
from ttlib.errors import BackendError, ShapeError


def expand_index(index: Any, shape: Shape) -> tuple[int | slice, ...]:
    """Return one int (not negative) or slice for every mode; an Ellipsis or missing modes become full slices."""
    given = index if isinstance(index, tuple) else (index,)
    gaps = [k for k, pick in enumerate(given) if pick is Ellipsis]
    if len(gaps) > 1 or len(given) - len(gaps) > len(shape):
        msg = f"index {index!r} has too many parts for {len(shape)} modes {shape}"
        raise ShapeError(msg)
    place = gaps[0] if gaps else len(given)
    missing = len(shape) - (len(given) - len(gaps))
    full = (*given[:place], *[slice(None)] * missing, *given[place + 1 :])
    return tuple(_pick(pick, mode, k) for k, (pick, mode) in enumerate(zip(full, shape, strict=True)))


def _pick(pick: Any, mode: int, k: int) -> int | slice:
    if isinstance(pick, slice):
        try:
            inside = range(*pick.indices(mode))  # the array API has no slices that reach beyond the end
        except (TypeError, ValueError) as error:
            msg = f"slice {pick} of mode {k} is none: {error}"
            raise ShapeError(msg) from error
        if len(inside) == 0:
            msg = f"slice {pick} of mode {k}, which has {mode} entries, is empty: a train has no empty modes"
            raise ShapeError(msg)
        if inside.step < 0:  # torch has none
            msg = f"slice {pick} of mode {k} runs backwards: only positive steps are supported"
            raise ShapeError(msg)
        return slice(inside.start, inside.stop, inside.step)
    try:
        number = operator.index(pick)
    except TypeError:
        number = None
    kind = _arrays.dtype_name(pick.dtype) if hasattr(pick, "dtype") else type(pick).__name__
    if number is None or kind == "bool":
        msg = f"mode {k} is indexed by {pick!r}: give ints, slices or an Ellipsis; .elements(…) takes index arrays"
        raise BackendError(msg)
    if not -mode <= number < mode:
        msg = f"index {number} is out of range for mode {k}, which has {mode} entries"
        raise ShapeError(msg)
    return number % mode


def check_indices(indices: Any, shape: Shape, /) -> np.ndarray[Any, Any]:
    """Return *indices* as an int64 numpy array (B, d) without negative entries."""
    try:
        host = np.asarray(_arrays.to_numpy(indices) if hasattr(indices, "dtype") else indices)
    except ValueError as error:
        msg = f"indices must be rows of {len(shape)} integers each, got {indices!r}"
        raise ShapeError(msg) from error
    if host.ndim != 2 or host.shape[1] != len(shape):
        msg = f"indices must have shape (B, {len(shape)}), one column a mode of {shape}, got {host.shape}"
        raise ShapeError(msg)
    if not np.issubdtype(host.dtype, np.integer):
        msg = f"indices must be integers, got dtype {host.dtype}"
        raise BackendError(msg)
    modes = np.asarray(shape)
    outside = (host < -modes) | (host >= modes)
    if outside.any():
        row, column = (int(i) for i in np.argwhere(outside)[0])
        msg = (
            f"index {host[row, column]} in row {row} is out of range for mode {column}, which has "
            f"{shape[column]} entries"
        )
        raise ShapeError(msg)
    return np.where(host < 0, host + modes, host).astype(np.int64)
