"""Arrays that are read a block of rows at a time: files mapped into memory, lazy slices, Dask arrays.

What the blocks are asked for are sums over them and thin products with them; a source says how these are done.
"""

from __future__ import annotations

import abc
import functools
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from ttlib import _arrays
from ttlib._types import Array, Shape
from ttlib.errors import BackendError, ShapeError

Numbers = np.ndarray[Any, Any]
# What is asked of one block, laid out as (rows, columns), and how two answers become one.
Work = Callable[..., Any]
Merge = Callable[[Any, Any], Any]

# Bytes that are read at a time: long enough for the products to run at full speed.
BLOCK_BYTES = 16 << 20
# Files and lazy arrays of fewer bytes are read whole.
READ_WHOLE = 64 << 20


class RowBlocks(abc.ABC):
    """The rows of an array, in blocks, each of them read when it is asked something.

    `row` is the number of entries that a block does not split; blocks arrive in `dtype`, cores go out in
    `result_dtype`.
    """

    def __init__(self, shape: Shape, row: int, like: Array) -> None:
        self.shape, self.row = shape, row
        self.result_dtype, self.dtype = _arrays.result_dtype(like), _numpy_dtype(like)

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)

    @abc.abstractmethod
    def reduced(self, columns: int, merge: Merge, work: Work, *operands: Any) -> Any:
        """Return the answers of *work* for all blocks (rows, columns), merged."""

    @abc.abstractmethod
    def mapped(self, columns: int, work: Work, *operands: Any) -> Iterable[Any]:
        """Return the answers of *work* for all blocks (rows, columns), in order."""


class SlicedRows(RowBlocks):
    """Row blocks of anything with [start:stop], read one after the other."""

    def __init__(self, source: Any, rows: Shape, *, shape: Shape, block_bytes: int) -> None:
        self._source, self._rows, self._block_bytes = source, rows, block_bytes
        super().__init__(shape, math.prod(rows[1:]), self._read(0, 1))

    def reduced(self, columns: int, merge: Merge, work: Work, *operands: Any) -> Any:
        """See `RowBlocks`."""
        return functools.reduce(merge, self.mapped(columns, work, *operands))

    def mapped(self, columns: int, work: Work, *operands: Any) -> Iterable[Any]:
        """See `RowBlocks`."""
        return (work(block, *operands) for block in self._blocks(columns))

    def whole(self) -> Numbers:
        """Return the array in memory, as numpy holds it."""
        block = self._read(0, self._rows[0])
        return _arrays.to_numpy(block) if _arrays.dtype_name(block.dtype) == "bfloat16" else np.asarray(block)

    def _blocks(self, columns: int) -> Iterator[Numbers]:
        step = rows_together(self.row, columns, entries=self._block_bytes // self.dtype.itemsize)
        for start in range(0, self._rows[0], step):
            block = self._read(start, min(start + step, self._rows[0]))
            yield _widened(block, self.dtype).reshape(-1, columns)

    def _read(self, start: int, stop: int) -> Array:
        block = self._source[start:stop]
        _arrays.namespace(block)  # refuses what is no dense array
        if tuple(block.shape) != (stop - start, *self._rows[1:]):
            msg = (
                f"rows {start}:{stop} of an array of shape {self._rows} came as an array of shape {tuple(block.shape)}"
            )
            raise ShapeError(msg)
        return block


class DaskRows(RowBlocks):
    """Row blocks of a Dask array, one task each, wherever its scheduler runs them; answers are merged in a tree.

    Neither a worker nor the caller ever holds more of the array than a few blocks.
    """

    def __init__(self, array: Any, *, block_bytes: int) -> None:
        if any(math.isnan(mode) for mode in array.shape):
            msg = f"a Dask array of shape {array.shape} has chunks of unknown size: call compute_chunk_sizes() first"
            raise ShapeError(msg)
        shape = tuple(int(mode) for mode in array.shape)
        super().__init__(shape, math.prod(shape[1:]), np.empty(1, dtype=array.dtype))
        self._array, self._block_bytes, self._dask = array, block_bytes, sys.modules["dask"]

    def reduced(self, columns: int, merge: Merge, work: Work, *operands: Any) -> Any:
        """See `RowBlocks`."""
        answers, merged = self._answers(columns, work, operands), self._dask.delayed(merge)
        while len(answers) > 1:
            odd = answers[len(answers) - len(answers) % 2 :]
            answers = [merged(one, other) for one, other in zip(answers[::2], answers[1::2], strict=False)] + odd
        return answers[0].compute()

    def mapped(self, columns: int, work: Work, *operands: Any) -> Iterable[Any]:
        """See `RowBlocks`."""
        answers: tuple[Any, ...] = self._dask.compute(*self._answers(columns, work, operands))
        return answers

    def _answers(self, columns: int, work: Work, operands: tuple[Any, ...]) -> list[Any]:
        step = rows_together(self.row, columns, entries=self._block_bytes // self.dtype.itemsize)
        chunks = self._array.rechunk((step, *self.shape[1:])).to_delayed().ravel()
        answer = self._dask.delayed(_answer)
        shared = [self._dask.delayed(operand, traverse=False) for operand in operands]  # sent once, not a block each
        return [answer(chunk, self.dtype, columns, work, *shared) for chunk in chunks]


class ScaledRows(RowBlocks):
    """The same rows times 2**-exponent."""

    def __init__(self, blocks: RowBlocks, exponent: int) -> None:
        super().__init__(blocks.shape, blocks.row, np.empty(1, blocks.dtype))
        self._blocks, self._exponent = blocks, exponent

    def reduced(self, columns: int, merge: Merge, work: Work, *operands: Any) -> Any:
        """See `RowBlocks`."""
        return self._blocks.reduced(columns, merge, functools.partial(_on_scaled, work, self._exponent), *operands)

    def mapped(self, columns: int, work: Work, *operands: Any) -> Iterable[Any]:
        """See `RowBlocks`."""
        return self._blocks.mapped(columns, functools.partial(_on_scaled, work, self._exponent), *operands)


def as_blocks(source: Any, *, block_bytes: int = BLOCK_BYTES, read_whole: int = READ_WHOLE) -> Any:
    """Return the row blocks of an array that is not in memory, and anything else as it is.

    Read in blocks are Dask arrays, and of *read_whole* bytes or more: numpy.memmap, and whatever has a shape, a dtype
    and [start:stop] but is no array of a library (safetensors slices, datasets of h5py and zarr).  Smaller ones of
    those are read whole.
    """
    if type(source) is np.ndarray:
        return source
    if type(source).__module__.startswith("dask.array"):
        _check_filled(tuple(source.shape))
        return DaskRows(source, block_bytes=block_bytes)
    if isinstance(source, np.memmap):
        if source.nbytes < read_whole or source.size == 0 or source.ndim == 0:
            return source
        flat = source.reshape(-1) if source.flags.c_contiguous else source  # rows of one entry: blocks of any length
        return SlicedRows(flat, tuple(flat.shape), shape=tuple(source.shape), block_bytes=block_bytes)
    shape = _lazy_shape(source)
    if shape is None:
        return source
    _check_filled(shape)
    blocks = SlicedRows(source, shape, shape=shape, block_bytes=block_bytes)
    return blocks.whole() if blocks.size * blocks.dtype.itemsize < read_whole else blocks


def rows_together(row: int, columns: int, *, entries: int) -> int:
    """Return how many rows to read at a time: about so many entries, and whole ones of *columns* entries too.

    >>> rows_together(4, 8, entries=17)
    4
    """
    unit = columns // math.gcd(columns, row)
    return max(1, entries // (unit * row)) * unit


def _lazy_shape(source: Any) -> Shape | None:
    """Return the shape of what can be sliced but is no array of any library."""
    shape = source.get_shape() if hasattr(source, "get_shape") else getattr(source, "shape", None)
    has_dtype = hasattr(source, "dtype") or hasattr(source, "get_dtype")
    if not shape or not has_dtype or not hasattr(source, "__getitem__"):
        return None
    try:
        _arrays.namespace(source)
    except BackendError:
        return tuple(int(mode) for mode in shape)
    return None


def _check_filled(shape: Shape) -> None:
    if math.prod(shape) == 0:
        msg = f"the array of shape {shape} holds no entries: there is nothing to decompose"
        raise ShapeError(msg)


def _numpy_dtype(block: Array) -> np.dtype[Any]:
    return np.dtype(_arrays.dtype_name(_arrays.compute_dtype(block)))


def _widened(block: Array, dtype: np.dtype[Any]) -> Numbers:
    """Return the block as a numpy array of *dtype*, and refuse a block of another kind."""
    found = _numpy_dtype(block)
    if found != dtype:
        msg = f"one block of rows holds {found} where others hold {dtype}: an array has one dtype"
        raise BackendError(msg)
    return np.asarray(_arrays.to_numpy(block)).astype(dtype, copy=False)


def _answer(chunk: Array, dtype: np.dtype[Any], columns: int, work: Work, *operands: Any) -> Any:
    return work(_widened(chunk, dtype).reshape(-1, columns), *operands)


def _on_scaled(work: Work, exponent: int, block: Numbers, *operands: Any) -> Any:
    return work(_arrays.ldexp(block, -exponent), *operands)
