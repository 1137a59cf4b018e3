"""The numbers of a tensor from its bytes, and the bytes of one from its numbers, without a second copy in memory.

A file is mapped, not read: the pages belong to the file, and the system takes them back when it needs the memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ttlib._types import Shape
from ttlib.checkpoint.entries import DTYPES, QUANTISED, TensorEntry
from ttlib.checkpoint.gguf_reader import dequantise

NDArray: TypeAlias = np.ndarray[Any, Any]

# Quantised numbers become float32 in pieces of this many bytes: dequantising takes several copies of its result.
_PIECE_BYTES = 1 << 24


def read_rows(entry: TensorEntry, first: int, last: int) -> NDArray:
    """Return the rows first … last - 1 (along the first axis) of a readable tensor with at least one axis, read-only.

    A view of the mapped file where numpy has the dtype; bfloat16 and quantised numbers become float32 in memory.
    """
    row_bytes = entry.nbytes // max(entry.shape[0], 1)
    begin, shape = entry.begin + first * row_bytes, (last - first, *entry.shape[1:])
    if entry.dtype in QUANTISED:
        values = _dequantised(entry, begin, shape)
    else:
        words = _map(entry.file, str(DTYPES[entry.dtype].words), begin, shape)
        values = widen(words) if entry.dtype == "BF16" else words
    values.flags.writeable = False  # the same for copies as for views: a caller must not depend on which it got
    return values


@dataclass(frozen=True, slots=True)
class LazyRows:
    """A matrix that is read a few rows at a time, as float32 or float64: what `ttlib.decompose` takes in blocks."""

    entry: TensorEntry

    @property
    def shape(self) -> Shape:
        """Of the matrix."""
        return self.entry.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the rows that come."""
        return np.dtype(np.float64 if self.entry.dtype == "F64" else np.float32)

    def __getitem__(self, rows: slice) -> NDArray:
        first, last, _ = rows.indices(self.shape[0])
        return read_rows(self.entry, first, last).astype(self.dtype, copy=False)


def read_words(entry: TensorEntry) -> NDArray:
    """Return the numbers of a tensor where they lie; of bfloat16 the words, as uint16."""
    return _map(entry.file, str(DTYPES[entry.dtype].words), entry.begin, entry.shape)


def read_bytes(entry: TensorEntry) -> NDArray:
    """Return the bytes of a tensor as they lie in the file, (nbytes,), a view of the mapped file."""
    return _map(entry.file, "u1", entry.begin, (entry.nbytes,))


def widen(words: NDArray) -> NDArray:
    """Return the float32 numbers of bfloat16 words; exact, for the words are the upper halves of the numbers."""
    wide = words.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def narrow(values: NDArray) -> NDArray:
    """Return the bfloat16 words of float32 numbers, rounded to nearest and to even between two; NaN stays NaN."""
    wide = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    upper = wide >> 16
    # Half a unit of the last place, less one bit if that place is even; a carry out of the mantissa is the right
    # next power of two, or infinity.  Only NaN could overflow.
    rounded = (wide + (upper & 1) + np.uint32(0x7FFF)) >> 16
    is_nan = (wide & np.uint32(0x7FFFFFFF)) > 0x7F800000
    return np.where(is_nan, upper | np.uint32(0x40), rounded).astype("<u2")


def _map(file: Path, dtype: str, begin: int, shape: Shape) -> NDArray:
    if 0 in shape:  # nothing can be mapped
        return np.empty(shape, dtype)
    # A mapping of its own for each call: with the array go its pages, so that a pass over a tensor does not keep it.
    mapped: NDArray = np.memmap(file, dtype=dtype, mode="r", offset=begin, shape=shape).view(np.ndarray)
    return mapped


def _dequantised(entry: TensorEntry, begin: int, shape: Shape) -> NDArray:
    values = np.empty(shape, np.float32)
    if not values.size:
        return values
    # Quantisation groups neighbours in a row of the last axis, so rows are independent of each other.
    flat = values.reshape(-1, shape[-1])  # (rows, columns), a view
    row_bytes = entry.nbytes * shape[-1] // math.prod(entry.shape)
    packed = _map(entry.file, "u1", begin, (len(flat), row_bytes))
    step = max(_PIECE_BYTES // (4 * shape[-1]), 1)
    for first in range(0, len(flat), step):
        flat[first : first + step] = dequantise(packed[first : first + step], entry.dtype)
    return values
